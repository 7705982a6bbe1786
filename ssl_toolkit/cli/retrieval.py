"""``ssl-toolkit retrieval``: how well the images of an index find the others of their class."""

import json
from typing import Any

from ssl_toolkit.cli.parser import Parser


def retrieval(index: str) -> dict[str, Any]:
    """Score an index with labels: each image asks for the others of its class.

    Args:
        index: Index folder.

    Returns:
        Mean average precision `map`, `recall@1`, `recall@5` and `recall@10`, in [0, 1], and the number of `queries`.

    Raises:
        UsageError: If there is no such index, or no class in it has two images.
    """
    from ssl_toolkit.eval import curate
    from ssl_toolkit.eval.search import EmbeddingIndex

    return curate.retrieval(EmbeddingIndex.load(index))


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("retrieval", retrieval, positional=("index",))
    parser.add_argument("--json", action="store_true", help="print JSON")
    settings = parser.parse(argv)
    if settings is None:
        return
    as_json = settings.pop("json")
    found = retrieval(**settings)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name:<10}" + (f"{value:>8,}" if name == "queries" else f"{100 * value:>8.1f} %"))
