"""``ssl-toolkit retrieval``: how well the images of an index find the others of their class."""

from typing import Any

from ssl_toolkit.cli.parser import Parser, print_found


def retrieval(index: str) -> dict[str, Any]:
    """Score an index with labels: each image asks for the others of its class.

    Args:
        index: Index folder.

    Returns:
        Mean average precision `map`, `recall@1`, `recall@5` and `recall@10`, in [0, 1], and the number of `queries`.

    Raises:
        UsageError: If there is no such index, or no class in it has two images.
    """
    from ssl_toolkit.eval.search import curate
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    return curate.retrieval(EmbeddingIndex.load(index))


def table(found: dict[str, Any]) -> str:
    """A line a figure, shares in percent."""
    shown = {name: f"{value:>8,}" if name == "queries" else f"{100 * value:>8.1f} %" for name, value in found.items()}
    return "\n".join(f"{name:<10}{value}" for name, value in shown.items())


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("retrieval", retrieval, positional=("index",))
    print_found(parser, argv, "the figures by name", lambda settings, found: table(found))
