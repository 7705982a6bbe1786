"""``ssl-toolkit outliers``: images of an index that are far from all others."""

from typing import Any

from ssl_toolkit.cli.parser import Parser, print_found, short_k
from ssl_toolkit.errors import UsageError


def outliers(index: str, count: int = 20, k: int = 10) -> list[dict[str, Any]]:
    """Find the images that are farthest from all others.

    Args:
        index: Index folder.
        count: How many of them.
        k: An image is as far out as its k-th nearest other is away, so that up to k alike do not hide each other.

    Returns:
        For each `path`, `label` and `score`, the cosine or distance to that other; the farthest first.

    Raises:
        UsageError: If there is no such index, or a number is below 1.
    """
    from ssl_toolkit.eval.search import curate
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    for option, value in (("--count", count), ("-k", k)):
        if value < 1:
            raise UsageError(f"{option} is {value}: it must be at least 1")
    loaded = EmbeddingIndex.load(index)
    order, score = curate.outliers(loaded, k)
    return [
        {"path": loaded.paths[place], "score": float(one), "label": loaded.label(place)}
        for place, one in zip(order[:count], score, strict=False)
    ]


def table(items: list[dict[str, Any]]) -> str:
    """A line an image."""
    return "\n".join(f"{item['score']:.3f}  {item['label'] or '':<12}  {item['path']}" for item in items)


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("outliers", outliers, positional=("index",))
    print_found(parser, short_k(argv), "a list of path, score, label", lambda settings, items: table(items))
