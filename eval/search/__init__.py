"""What is near: an index of embeddings, and what it says of a collection of images."""

from ssl_toolkit.eval.search.copies import Copies, duplicates
from ssl_toolkit.eval.search.curate import outliers, retrieval
from ssl_toolkit.eval.search.estimator import ImageEmbedder
from ssl_toolkit.eval.search.hits import Hits
from ssl_toolkit.eval.search.index import EmbeddingIndex

__all__ = [
    "Copies",
    "EmbeddingIndex",
    "Hits",
    "ImageEmbedder",
    "duplicates",
    "outliers",
    "retrieval",
]
