"""``ssl-toolkit compare``: scored runs beside each other."""

from typing import Any

from ssl_toolkit.cli.parser import Parser, print_found


def compare(runs: list[str], chart: str | None = None) -> list[dict[str, Any]]:
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
    import dataclasses

    from ssl_toolkit.eval.report.compare import compare_runs

    rows = compare_runs(runs)
    if chart is not None:
        from ssl_toolkit.eval.pictures.charts import score_chart
        from ssl_toolkit.eval.pictures.png import write_figure

        write_figure(score_chart({row.name: row.scores for row in rows}), chart, "--chart")
    return [dataclasses.asdict(row) for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as lines of text, accuracies in percent."""
    from ssl_toolkit.eval.pictures.words import score_title, shown
    from ssl_toolkit.eval.scores.metrics import in_percent

    protocols = list(rows[0]["scores"])
    cells = [["top-1, %", "method", "encoder"]]
    cells += [[shown(row[key], 40) for key in ("name", "method", "encoder")] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    scores = [[score_title(protocol) for protocol in protocols]]
    scores += [[in_percent(row["scores"][p]) if p in row["scores"] else "" for p in protocols] for row in rows]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(names, widths, strict=True))
        + "".join(f"{score:>{max(14, len(title) + 2)}}" for score, title in zip(numbers, scores[0], strict=True))
        for names, numbers in zip(cells, scores, strict=True)
    )


def reading(rows: list[dict[str, Any]]) -> str:
    """Which direction is good, what is healthy, and what to do next."""
    import textwrap

    from ssl_toolkit.eval.report.compare import HOW_TO_READ, advice

    runs = [row for row in rows if row["method"] or row["not_above"] is not None]
    lines = [f"{row['name']}: {advice(row['not_above'], row['name'])}" for row in runs]
    return "\n".join(textwrap.fill(line, 100) for line in [HOW_TO_READ, *lines])


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("compare", compare, positional=("runs",))
    print_found(parser, argv, "a list of rows", lambda settings, rows: f"{table(rows)}\n\n{reading(rows)}")
