"""Sweeps: a pretraining for each combination of options and each seed, in a folder of its own, scored and compared."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ssl_toolkit.errors import ToolkitError, UsageError, said_by
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.run import Run, Runs
from ssl_toolkit.tasks.settings import AnyData, AnyPath
from ssl_toolkit.tasks.tables import write_csv

if TYPE_CHECKING:
    from ssl_toolkit.tasks.pretraining import AnyMethod

    AnyGrid: TypeAlias = Sequence[str] | Mapping[str, str | Sequence[Any]]
else:
    AnyMethod, AnyGrid = object, list[str]

# Options of `pretrain` that a sweep decides about; `seed` is that of the first run of several.
OWN = ("out", "seeds", "devices", "resume", "extend", "overwrite")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: Of its folder in that of the sweep: of the combination and, where there are several seeds, of the seed.
        options: What is its own, by the names of the grid.
        settings: All arguments of `pretrain`.
        scoring: Those of `evaluate` but the run; None: it is not scored.
    """

    name: str
    options: dict[str, Any]
    settings: dict[str, Any]
    scoring: dict[str, Any] | None

    def run(self) -> None:
        """Train and score what is left to be trained and scored."""
        from ssl_toolkit.tasks.pretraining import pretrain

        made = pretrain(**self.settings)
        if self.scoring is not None:
            made.evaluate(**self.scoring)

    def error(self) -> str | None:
        """What `run` ended in, in a line; None: it is done. A signal to stop passes through."""
        try:
            self.run()
        except Exception as error:
            if getattr(error, "signum", 0):
                raise
            return str(error) if isinstance(error, ToolkitError) else f"{type(error).__name__}: {said_by(error)}"
        return None

    def described(self) -> dict[str, Any]:
        """All that decides what comes out of it, as ``sweep.json`` holds it."""
        from ssl_toolkit.objects import plain
        from ssl_toolkit.runs import FREE_ON_RESUME
        from ssl_toolkit.tasks.pretraining import settings_of, stored_settings

        stored = stored_settings(settings_of(self.settings))
        settings = {key: value for key, value in stored.items() if key not in FREE_ON_RESUME}
        scoring = {key: plain((self.scoring or {}).get(key)) for key in ("train", "test", "protocol")}
        return {"settings": settings, "scoring": scoring if self.scoring else None}


def sweep(
    method: AnyMethod,
    data: AnyData,
    grid: AnyGrid,
    out: AnyPath,
    random: int | None = None,
    seeds: int | None = None,
    devices: int = 1,
    train: AnyData | None = None,
    test: AnyData | None = None,
    protocol: str = "knn,linear",
    **options: Any,
) -> Runs:
    """Pretrain with each combination of options, one run after the other or several at once, and compare them.

    The same call goes on where it was stopped: what is done is not done again. A run that fails does not end the sweep.

    Args:
        method: As `pretrain` takes it.
        data: Likewise.
        grid: Options of pretrain and their values: KEY=VALUE,VALUE, such as method.temperature=.1,.2,.5, or a range,
            optimizer.lr=log:1e-4:1e-2:5 (lin: for even steps).
        out: Folder of the sweep: a run folder for each combination, sweep.json and sweep.csv.
        random: How many combinations are drawn; if not given, all are trained. Ranges need no number of values then.
        seeds: How many runs to make of each combination, in folders seed0, seed1, ... of its own.
        devices: How many runs to train at a time, each on a device of its own or, on a CPU, on its share of the cores.
        train: Labelled images to score the runs with, as evaluate takes them; if not given, runs are not scored.
        test: Labelled images that are classified, as evaluate takes them.
        protocol: Scores, separated by commas, as evaluate takes them.
        options: Other arguments of `pretrain`.

    Returns:
        The runs that are done, in the order of the grid, and the errors of the others; it prints as a table.

    Raises:
        UsageError: If the grid or an option is wrong; nothing is trained then.

    Examples:
        Three temperatures, two seeds each, scored where they end:

            grid = ["method.temperature=.1,.2,.5"]
            runs = sweep("simclr", "photos/", grid, "runs/grid", seeds=2, epochs=50, train="labelled/", protocol="knn")
    """
    from ssl_toolkit.tasks.grids import combinations, parse_grid
    from ssl_toolkit.tasks.several import check_several, several_at_once

    options = {"method": method, "data": data, **options}
    scoring = _scoring(options, train, test, protocol)
    trials = _trials(combinations(parse_grid(grid), random), options, Path(out), seeds, scoring)
    if devices > 1:
        check_several(devices, trials)
    book = Book(Path(out), trials)
    waiting = book.waiting()
    if len(trials) > len(waiting):
        say(f"{len(trials) - len(waiting)} of {len(trials)} runs are done already")
    if devices > 1:
        several_at_once(waiting, devices, book.note)
    else:
        one_after_the_other(waiting, book.note)
    return book.close()


def one_after_the_other(trials: Sequence[Trial], note: Callable[[Trial, str | None], None]) -> None:
    """Run trials in this process; `note` gets each with its error."""
    from ssl_toolkit.checkpoints import Interrupted

    for number, trial in enumerate(trials, 1):
        say(f"run {number} of {len(trials)}: {trial.name}")
        try:
            error = trial.error()
        except Interrupted as stop:
            text = str(stop).replace("go on with --resume", "the same command goes on with the sweep")
            raise Interrupted(text, stop.signum) from stop
        if error:
            say(f"FAILED {trial.name}: {error}")
        note(trial, error)


def _scoring(options: Mapping[str, Any], train: Any, test: Any, protocol: str) -> dict[str, Any] | None:
    """Arguments of `evaluate` that follow from those of the sweep."""
    from ssl_toolkit.eval.scores.protocol import check_protocols

    if train is None:
        if test is not None:
            raise UsageError("--test is classified by what is learnt from --train: give both, or --train alone")
        return None
    check_protocols([name.strip() for name in protocol.split(",")])
    shared = {name: options[name] for name in ("data_root", "max_bad_rate", "progress") if name in options}
    if isinstance(options.get("workers"), int):
        shared["workers"] = options["workers"]
    device = {"gpu": "cuda"}.get(options.get("accelerator", "auto"), options.get("accelerator", "auto"))
    return {"train": train, "test": test, "protocol": protocol, "device": device, **shared}


def _trials(
    chosen: Sequence[dict[str, Any]],
    options: Mapping[str, Any],
    out: Path,
    seeds: int | None,
    scoring: dict[str, Any] | None,
) -> list[Trial]:
    """A trial for each combination and seed, all of them checked.

    Raises:
        UsageError: Naming the first option that does not exist or has a wrong value.
    """
    from ssl_toolkit.tasks.grids import names_of
    from ssl_toolkit.tasks.pretraining import settings_of
    from ssl_toolkit.tasks.settings import check_numbers

    check_numbers({"seeds": seeds})
    first, trials = options.get("seed", 0), []
    for name, combination in zip(names_of(chosen), chosen, strict=True):
        settings = dict(options)
        for key, value in combination.items():
            _put(settings, key, value)
        for seed in [None] if seeds is None else range(first, first + seeds):
            place = name if seed is None else f"{name}/seed{seed}"
            own = {**settings, "out": str(out / place), "seed": first if seed is None else seed, "resume": True}
            check_numbers(settings_of(own))
            trials.append(Trial(place, combination, own, scoring))
    return trials


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set an option of `pretrain`, in a copy of its group where it has one.

    Raises:
        UsageError: The sweep itself decides about it.
    """
    if key in (*OWN, "seed"):
        raise UsageError(f"--grid {key}: the sweep decides about it; of other seeds there are --seeds")
    group, dot, name = key.partition(".")
    if not dot:
        settings[key] = value
        return
    before = settings.get(group)
    if before is not None and not isinstance(before, Mapping):
        before = vars(before) if group == "optimizer" else {"name": before}
    settings[group] = {**(before or {}), name: value}


class Book:
    """What ``sweep.json`` says of the runs of a sweep: their options, and how far they are.

    Args:
        out: Folder of the sweep.
        trials: Its runs; of others that are noted there, nothing is changed.

    Raises:
        UsageError: The folder holds something else.
    """

    def __init__(self, out: Path, trials: Sequence[Trial]) -> None:
        from ssl_toolkit.files import make_folder

        self.file, self.trials = out / "sweep.json", trials
        if out.is_file() or (out.is_dir() and any(out.iterdir()) and not self.file.is_file()):
            raise UsageError(f"--out {out} is not empty and not a sweep: name a new folder")
        make_folder(out, "--out")
        self.rows: dict[str, dict[str, Any]] = {row["name"]: row for row in self._read()}
        self.described = {trial.name: json.loads(json.dumps(trial.described())) for trial in trials}

    def _read(self) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        try:
            rows: list[dict[str, Any]] = json.loads(self.file.read_text(encoding="utf-8"))["runs"]
            [row["name"] for row in rows]
        except (ValueError, LookupError, TypeError) as error:
            raise ToolkitError(
                f"{self.file} is damaged: delete it, and runs that are done are looked at again"
            ) from error
        return rows

    def waiting(self) -> list[Trial]:
        """Trials that are not done, or were done with other settings."""
        left = [trial for trial in self.trials if not self._is_done(trial)]
        for trial in left:
            self._set(trial, "waiting", None)
        self._write()
        return left

    def _is_done(self, trial: Trial) -> bool:
        row, there = self.rows.get(trial.name, {}), (self.file.parent / trial.name / "encoder.safetensors").is_file()
        return there and row.get("state") == "done" and row.items() >= self.described[trial.name].items()

    def note(self, trial: Trial, error: str | None) -> None:
        """Write down how a trial ended."""
        self._set(trial, "failed" if error else "done", error)
        self._write()

    def _set(self, trial: Trial, state: str, error: str | None) -> None:
        about = {"name": trial.name, "options": trial.options, "seed": trial.settings["seed"]}
        self.rows[trial.name] = {**about, "state": state, "error": error, **self.described[trial.name]}

    def _write(self) -> None:
        from ssl_toolkit.files import write_atomic
        from ssl_toolkit.objects import plain

        text = json.dumps({"runs": [plain(row) for row in self.rows.values()]}, indent=1) + "\n"
        write_atomic(self.file, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def close(self) -> Runs:
        """Write ``sweep.csv``, a row a run with its options and scores, and give what there is."""
        rows = [self.rows[trial.name] for trial in self.trials]
        done = {row["name"]: Run(self.file.parent / row["name"]) for row in rows if row["state"] == "done"}
        table = [
            {
                **{key: row[key] for key in ("name", "state", "seed", "error")},
                **row["options"],
                **_top1(done.get(row["name"])),
            }
            for row in rows
        ]
        write_csv(list(dict.fromkeys(key for row in table for key in row)), table, self.file.with_suffix(".csv"))
        return Runs(done.values(), {row["name"]: row["error"] for row in rows if row["state"] == "failed"})


def _top1(run: Run | None) -> dict[str, float]:
    scores = None if run is None else run.scores
    trained: Mapping[str, Any] = {} if scores is None else scores["results"]["trained"]
    return {protocol: score["top1"] for protocol, score in trained.items()}
