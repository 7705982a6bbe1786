"""A run in Python: its folder, and what comes out of it."""

# Nothing heavy is imported here: the command line looks at functions that return runs.
import dataclasses
import html
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_toolkit.objects import refuse_objects
from ssl_toolkit.runs import RunFolder
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.tasks.comparing import Comparison
    from ssl_toolkit.tasks.evaluation import Scores

WIDTH, HEIGHT = 480, 120  # of the curve in a notebook, pixels


class Run(os.PathLike[str]):
    """A run folder. It stands wherever a path does: ``load_encoder(run)``, ``str(run)``, ``run / "metrics.csv"``.

    Args:
        path: The folder.
        given: Arguments of `pretrain` by name, for `resume`; None: those that the folder holds, without objects.

    Attributes:
        config: The settings, as ``config.yaml`` has them.

    Raises:
        UsageError: If the folder holds no run.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Run, pretrain
        >>> small = {"encoder": "convnet", "image_size": 32, "batch_size": 32, "epochs": 1, "workers": 0}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = pretrain("simclr", "shapes:train:64", f"{folder}/a", progress=False, **small)
        ...     run = Run(f"{folder}/a")
        ...     run.encoder.feature_dim, run.config["epochs"], (run / "metrics.csv").is_file(), run.scores
        (256, 1, True, None)
    """

    def __init__(self, path: str | os.PathLike[str], given: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.given = dict(given or {})
        self._folder = RunFolder(self.path)
        self.config = self._folder.config()

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def encoder(self) -> "Encoder":
        """The trained encoder, in eval mode.

        Raises:
            UsageError: There is none yet, or it is around a module that this process was not given.
        """
        import copy

        from ssl_toolkit.encoders import load_encoder

        return load_encoder(self.path, backbone=copy.deepcopy(self._own_module()))

    @property
    def metrics(self) -> "pandas.DataFrame | dict[str, list[float]]":
        """``metrics.csv``, a row a logged step: a frame if pandas is installed, else a list a column, NaN for gaps."""
        columns = self._columns()
        try:
            import pandas
        except ImportError:
            return columns
        return pandas.DataFrame(columns)

    @property
    def scores(self) -> "Scores | None":
        """What `evaluate` found last; None if the encoder has not been scored."""
        from ssl_toolkit.tasks.evaluation import Scores

        file = self._folder.results_file
        return Scores(json.loads(file.read_text())) if file.is_file() else None

    def evaluate(self, train: Any = None, test: Any = None, **options: Any) -> "Scores":
        """Score the encoder; see `ssl_toolkit.evaluate`."""
        from ssl_toolkit.tasks.evaluation import evaluate

        return evaluate(self, train, test, **options)

    def report(self, **options: Any) -> Path:
        """Write the run as one HTML page; see `ssl_toolkit.tasks.reporting.report`."""
        from ssl_toolkit.tasks.reporting import report

        return report(self, **options)

    def resume(self, **objects: Any) -> "Run":
        """Go on from the newest checkpoint.

        Args:
            objects: Arguments of `pretrain` that are no plain values, where the run was not made by this object: the
                folder holds only their descriptions.

        Raises:
            UsageError: One of them is missing, or something is not as it was.
        """
        from ssl_toolkit.tasks.pretraining import pretrain

        given = {**(self.given or self.config), **objects, "out": self.path, "resume": True, "overwrite": False}
        refuse_objects(given)
        return pretrain(**given)

    def _own_module(self) -> "nn.Module | None":
        """The user's own network that the run was given, if it was."""
        from torch import nn

        from ssl_toolkit.encoders import Encoder

        given = self.given.get("encoder")
        given = given.get("name") if isinstance(given, Mapping) else given
        given = getattr(self.given.get("method"), "encoder", given)
        if isinstance(given, Encoder):
            return given.own_module
        return given if isinstance(given, nn.Module) else None

    def _columns(self) -> dict[str, list[float]]:
        from ssl_toolkit.logs import read_metrics

        rows = read_metrics(self._folder.metrics_file)
        return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]} if rows else {}

    def _facts(self) -> dict[str, str]:
        """What is worth a line."""
        columns = self._columns()
        facts = {name: str(self.config[name]["name"]) for name in ("method", "encoder")}
        epochs = filter(None, (str(self.config["epochs"]), self._folder.extended()))
        facts |= {"data": str(self.config["data"]), "epochs": ", ".join(epochs)}
        if columns.get("loss"):
            facts |= {"steps": f"{columns['step'][-1]:.0f}", "loss": f"{columns['loss'][-1]:.3g}"}
        if (found := self.scores) is not None:
            trained = found.get("results", {}).get("trained", {})
            scores = {name: score["top1"] for name, score in trained.items() if "top1" in score}
            facts |= {f"{name}, top-1": f"{100 * top1:.1f} %" for name, top1 in scores.items()}
        return facts

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {', '.join(f'{name} {value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        """For notebooks: a table, and the curve of the loss."""
        facts = {"run": str(self.path), **self._facts()}
        rows = [f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items()]
        return f"<table>{''.join(rows)}</table>{loss_curve(self._columns())}"


class Runs(Found, list[Run]):
    """Runs that one call has made; it prints as what `compare` says of them or, before they are scored, as a list.

    Args:
        runs: The runs.
        failed: Errors of those that could not be made, by their folders.

    Attributes:
        failed: Likewise.
    """

    def __init__(self, runs: Iterable[Run], failed: Mapping[str, str] | None = None) -> None:
        super().__init__(runs)
        self.failed = dict(failed or {})

    def evaluate(self, train: Any = None, test: Any = None, **options: Any) -> "Comparison":
        """Score all of them, see `ssl_toolkit.evaluate`, and put them beside each other."""
        from ssl_toolkit.tasks.comparing import compare

        for run in self:
            run.evaluate(train, test, **options)
        return compare(self)

    def table(self) -> Table:
        """A row a run; below, what failed."""
        from ssl_toolkit.tasks.comparing import compare

        if self and all(run.scores for run in self):
            table = compare(self).table()
        else:
            names = ("run", "epochs", "steps", "loss")
            rows = [[str(run), *(run._facts().get(name, "") for name in names[1:])] for run in self]
            widths = [max(map(len, column)) + 2 for column in zip(names, *rows, strict=True)]
            table = Table(names, rows, [f"<{width}" for width in widths])
        errors = [f"FAILED {name}: {error}" for name, error in self.failed.items()]
        return dataclasses.replace(table, notes=[*table.notes, *errors])


def loss_curve(columns: Mapping[str, list[float]]) -> str:
    """The loss over the steps as SVG; nothing where there are not two finite values.

    Examples:
        >>> 'points="0.0,0.0 480.0,120.0"' in loss_curve({"step": [1, 2, 3], "loss": [3.0, 2.0, float("nan")]})
        True
    """
    pairs = zip(columns.get("step", []), columns.get("loss", []), strict=True)
    points = [(x, y) for x, y in pairs if math.isfinite(y)]
    if len(points) < 2:
        return ""
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    across, down = WIDTH / (xs[-1] - xs[0]), HEIGHT / ((high - low) or 1.0)
    line = " ".join(f"{(x - xs[0]) * across:.1f},{(high - y) * down:.1f}" for x, y in points)
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 20}" viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 22}">'
        f'<polyline points="{line}" fill="none" stroke="#3b75af" stroke-width="2"/>'
        f'<text y="{HEIGHT + 16}" font-size="12" fill="currentColor">loss {ys[0]:.3g} to {ys[-1]:.3g}, '
        f"steps {xs[0]:.0f} to {xs[-1]:.0f}</text></svg>"
    )
