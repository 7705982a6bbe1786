"""What is near: an index of embeddings, and what it says of a collection of images."""

from typing import TYPE_CHECKING, Any

from ssl_toolkit.eval.search.copies import Copies, duplicates
from ssl_toolkit.eval.search.curate import outliers, retrieval
from ssl_toolkit.eval.search.hits import Hits
from ssl_toolkit.eval.search.index import EmbeddingIndex

if TYPE_CHECKING:
    from ssl_toolkit.eval.search.estimator import ImageEmbedder

__all__ = [
    "Copies",
    "EmbeddingIndex",
    "Hits",
    "ImageEmbedder",
    "duplicates",
    "outliers",
    "retrieval",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for: a search need not wait for scikit-learn.
    if name != "ImageEmbedder":
        raise AttributeError(f"module 'ssl_toolkit.eval.search' has no attribute '{name}'")
    from ssl_toolkit.eval.search.estimator import ImageEmbedder

    return ImageEmbedder
