"""Scored runs beside each other."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_toolkit.tasks.settings import AnyPath
from ssl_toolkit.tasks.tables import Found, Table

WARNING = "not above random weights"

TESTED = (
    "p is how likely a difference as large to {} is by chance: Welch's t-test of the seeds, not corrected for the "
    "number of rows."
)
OF_SEEDS = "Of several seeds there are the mean and, as ±, the standard deviation over them."
NOT_TESTED = "Differences are not tested: that takes several seeds of both sides, such as of pretrain --seeds 3."


class Comparison(Found, list[dict[str, Any]]):
    """A row a run or baseline, see `compare`."""

    @property
    def correlations(self) -> dict[str, float]:
        """How well measures that need no labels rank the runs, see `rank_correlations`; none of fewer than four."""
        from ssl_toolkit.eval.report.compare import Scored, rank_correlations

        return rank_correlations([Scored(**row) for row in self if row["runs"]])

    def table(self) -> Table:
        """Accuracies in percent; below, which direction is good, what is healthy, and what to do next."""
        runs = [row for row in self if row["runs"]]
        names, scores = self._names(), self._scores(runs)
        widths = [max(len(line) for cell in column for line in cell.split("\n")) + 2 for column in names]
        layout = [*(f"<{width}" for width in widths[:-1]), f"<{widths[-1] - 2}"]
        layout += [f">{max(14, *(len(cell) + 2 for cell in column))}" for column in scores] + ["<"]
        warned = [number for number, row in enumerate(self) if _like_random(row)]
        head, *rows = zip(*names, *scores, strict=True)
        marked = [(*row, f"  {WARNING}") if number in warned else row for number, row in enumerate(rows)]
        below = _measures_table(runs, self.correlations)
        return Table(head, marked, layout, [_filled(note) for note in _notes(runs)], warned, below)

    def _names(self) -> list[list[str]]:
        """Columns from the left, each below its title."""
        from ssl_toolkit.eval.pictures.words import shown, wrapped

        columns = [
            ["top-1, %", *(row["name"] for row in self)],
            ["method", *(row["method"] + (" (extended)" if row["extended"] else "") for row in self)],
            ["encoder", *(row["encoder"] for row in self)],
        ]
        return [[wrapped(shown(cell), 40) for cell in column] for column in columns]

    def _scores(self, runs: Sequence[dict[str, Any]]) -> list[list[str]]:
        """Columns of figures, each below its title; seeds and differences where there are any."""
        from ssl_toolkit.eval.pictures.words import score_title, shown
        from ssl_toolkit.eval.scores.metrics import in_percent

        columns = [
            [
                score_title(protocol),
                *(in_percent(row["scores"][protocol]) if protocol in row["scores"] else "" for row in self),
            ]
            for protocol in self[0]["scores"]
        ]
        if any(len(row["runs"]) > 1 for row in runs):
            columns.insert(0, ["seeds", *(f"{len(row['runs'])}" if row["runs"] else "" for row in self)])
        if any(row["p"] is not None for row in runs):
            columns.append([f"to {shown(_reference(runs), 24)}", *map(_difference, self)])
        return columns


def _measures_table(runs: Sequence[dict[str, Any]], correlations: Mapping[str, float]) -> Table | None:
    """What needs no labels, a row a run, and how well it ranks them; None where nothing was measured."""
    from ssl_toolkit.eval.health.quality import QUALITIES
    from ssl_toolkit.eval.pictures.words import shown

    measured = {key: each for key, each in QUALITIES.items() if any(key in run["measures"] for run in runs)}
    if not measured:
        return None
    rows = [
        [shown(run["name"], 40), *(f"{run['measures'][key]:.4g}" if key in run["measures"] else "" for key in measured)]
        for run in runs
    ]
    if correlations:
        rows.append(
            ["Spearman with linear", *(f"{correlations[k]:+.2f}" if k in correlations else "" for k in measured)]
        )
    width = max(16, *(len(row[0]) + 2 for row in rows))
    head = ["without labels", *(each.title for each in measured.values())]
    return Table(head, rows, [f"<{width}", *(">14" for _ in measured)])


def _filled(text: str) -> str:
    """Text in lines, of which none ends within a command's words."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _reference(runs: Sequence[dict[str, Any]]) -> str:
    """Name of the row that the others are compared with."""
    return next(str(row["name"]) for row in runs if row["difference"] is None)


def _difference(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    return f"{row['difference']:+.1f}" + ("" if row["p"] is None else f", p {row['p']:.2g}")


def _like_random(row: Mapping[str, Any]) -> bool:
    return "random weights" in (row["not_above"] or ())


def _notes(runs: Sequence[dict[str, Any]]) -> list[str]:
    from ssl_toolkit.eval.report.compare import HOW_TO_READ, advice

    notes = [HOW_TO_READ]
    if any(len(row["runs"]) > 1 for row in runs):
        notes.append(OF_SEEDS)
    if any(row["p"] is not None for row in runs):
        notes.append(TESTED.format(_reference(runs)))
    elif len(runs) > 1:
        notes.append(NOT_TESTED)
    notes += [f"{row['name']}: {row['extended']}." for row in runs if row["extended"]]
    alike: dict[Any, list[dict[str, Any]]] = {}
    for row in runs:
        alike.setdefault(row["not_above"], []).append(row)
    for lacking, rows in alike.items():
        run = rows[0]["runs"][0] if len(rows) == 1 else "RUN"
        notes.append(f"{', '.join(row['name'] for row in rows)}: {advice(lacking, run)}")
    return notes


def compare(runs: Sequence[AnyPath], chart: AnyPath | None = None, against: str | None = None) -> Comparison:
    """Put the scores of runs beside each other, best first, then raw pixels and random weights.

    Runs that differ in the seed only, or lie as NAME/seed0, NAME/seed1 and so on, share a row.

    Args:
        runs: Run folders that were scored (ssl-toolkit evaluate) on the same images, or folders of such.
        chart: PNG file for a chart.
        against: The run that the others are compared with, by its name in the table; if not given, the best.

    Returns:
        A row a run or baseline: name, method, encoder, by protocol what results.json holds (of several seeds mean,
        deviation and each), the baselines that a run is not above, its folders, whether it was extended, and its
        difference to the best with p of a test, and what was measured without labels.

    Raises:
        UsageError: If a folder is no run, has not been scored, or was scored on other images.

    Examples:
        Two methods, scored on the same images:

            for method in ("simclr", "rotation"):
                pretrain(method, "photos/", f"runs/{method}").evaluate(train="labelled/")
            compare(["runs/simclr", "runs/rotation"], chart="methods.png")
    """
    from ssl_toolkit.eval.report.compare import compare_runs

    rows = compare_runs([Path(run) for run in runs], against)
    found = Comparison(dataclasses.asdict(row) for row in rows)
    if chart is not None:
        from ssl_toolkit.eval.pictures.charts import score_chart
        from ssl_toolkit.eval.pictures.png import write_figure

        warned = {row["name"]: WARNING for row in found if _like_random(row)}
        write_figure(score_chart({row.name: row.scores for row in rows}, warned=warned), chart, "--chart")
    return found
