"""``ssl-toolkit outliers``: images of an index that are far from all others."""

import json
from typing import Any

from ssl_toolkit.cli.parser import Parser, short_k
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
    from ssl_toolkit.eval import curate
    from ssl_toolkit.eval.search import EmbeddingIndex

    for option, value in (("--count", count), ("-k", k)):
        if value < 1:
            raise UsageError(f"{option} is {value}: it must be at least 1")
    loaded = EmbeddingIndex.load(index)
    order, score = curate.outliers(loaded, k)
    return [
        {"path": loaded.paths[place], "score": float(one), "label": loaded.label(place)}
        for place, one in zip(order[:count], score, strict=False)
    ]


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("outliers", outliers, positional=("index",))
    parser.add_argument("--json", action="store_true", help="print JSON: a list of path, score, label")
    settings = parser.parse(short_k(argv))
    if settings is None:
        return
    as_json = settings.pop("json")
    found = outliers(**settings)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for item in found:
        print(f"{item['score']:.3f}  {item['label'] or '':<12}  {item['path']}")
