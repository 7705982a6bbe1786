"""How well the images of an index find the others of their class."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from ssl_toolkit.tasks.settings import AnyIndex
from ssl_toolkit.tasks.tables import Found, Table


class Retrieval(Found, dict[str, float]):
    """Mean average precision, recall and the number of queries, by name."""

    def table(self) -> Table:
        """A row a figure, shares in percent."""
        cells = {
            name: f"{value:>8,}" if name == "queries" else f"{100 * value:>8.1f} %" for name, value in self.items()
        }
        return Table([], [*cells.items()], ["<10", "<"])


def retrieval(index: AnyIndex) -> Retrieval:
    """Score an index with labels: each image asks for the others of its class.

    Args:
        index: Index folder.

    Returns:
        Mean average precision `map`, `recall@1`, `recall@5` and `recall@10`, in [0, 1], and the number of `queries`.

    Raises:
        UsageError: If there is no such index, or no class in it has two images.
    """
    from ssl_toolkit.eval.search import curate
    from ssl_toolkit.tasks.common import open_index

    return Retrieval(curate.retrieval(open_index(index)))
