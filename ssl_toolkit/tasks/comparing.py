"""Scored runs beside each other."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_toolkit.tasks.settings import AnyPath
from ssl_toolkit.tasks.tables import Found, Table


class Comparison(Found, list[dict[str, Any]]):
    """A row a run or baseline, see `compare`."""

    def table(self) -> Table:
        """Accuracies in percent; below, which direction is good, what is healthy, and what to do next."""
        from ssl_toolkit.eval.pictures.words import score_title, shown
        from ssl_toolkit.eval.report.compare import HOW_TO_READ, advice
        from ssl_toolkit.eval.scores.metrics import in_percent

        protocols = list(self[0]["scores"])
        names = [["top-1, %", "method", "encoder"]]
        names += [[shown(row[key], 40) for key in ("name", "method", "encoder")] for row in self]
        titles = [score_title(protocol) for protocol in protocols]
        scores = [[in_percent(row["scores"][p]) if p in row["scores"] else "" for p in protocols] for row in self]
        widths = [max(map(len, column)) + 2 for column in zip(*names, strict=True)]
        layout = [*(f"<{width}" for width in widths[:-1]), f"<{widths[-1] - 2}"]
        layout += [f">{max(14, len(title) + 2)}" for title in titles]
        rows = [left + right for left, right in zip(names[1:], scores, strict=True)]
        runs = [row for row in self if row["method"] or row["not_above"] is not None]
        notes = [HOW_TO_READ, *(f"{row['name']}: {advice(row['not_above'], row['name'])}" for row in runs)]
        return Table(names[0] + titles, rows, layout, [textwrap.fill(note, 100) for note in notes])


def compare(runs: Sequence[AnyPath], chart: AnyPath | None = None) -> Comparison:
    """Put the scores of runs beside each other, best first, then raw pixels and random weights.

    Args:
        runs: Run folders that were scored (ssl-toolkit evaluate) on the same images.
        chart: PNG file for a chart.

    Returns:
        A row a run or baseline: name, method, encoder, by protocol what results.json holds, and the baselines that a
        run is not above.

    Raises:
        UsageError: If a folder is no run, has not been scored, or was scored on other images.
    """
    from ssl_toolkit.eval.report.compare import compare_runs

    rows = compare_runs([Path(run) for run in runs])
    if chart is not None:
        from ssl_toolkit.eval.pictures.charts import score_chart
        from ssl_toolkit.eval.pictures.png import write_figure

        write_figure(score_chart({row.name: row.scores for row in rows}), chart, "--chart")
    return Comparison(dataclasses.asdict(row) for row in rows)
