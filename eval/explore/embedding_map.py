"""The images of an index in the plane."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.eval.pictures.maps import PROJECTIONS
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.randomness import numpy_generator

ProjectionName: TypeAlias = Literal["pca", "tsne", "umap"]
ABOUT = {
    "tsne": "t-SNE: near points are alike, distances mean little",
    "umap": "UMAP: near points are alike, distances mean little",
}


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Some items of an index in the plane.

    Attributes:
        position: (n,) int64: which items, in random order.
        xy: (n, 2) float64 in [0, 1], y up; both axes have the same scale.
        about: What the axes are, in words.
        place: (m, D) vectors to (m, 2) on the same map; None where the map has no place for others.
    """

    position: NDArray[np.int64]
    xy: NDArray[np.float64]
    about: str
    place: Callable[[NDArray[np.float32]], NDArray[np.float64]] | None

    @classmethod
    def draw(cls, index: EmbeddingIndex, points: int, projection: ProjectionName = "pca") -> EmbeddingMap:
        """A map of at most `points` items, drawn at random, the same each time.

        Args:
            index: The items.
            points: How many of them, at least 1.
            projection: ``pca``, the two directions in which they differ most, has a place for other vectors as well;
                ``tsne`` and ``umap`` keep neighbours together. Fewer than four points are drawn by ``pca``.
        """
        order = numpy_generator(0, "explore").permutation(len(index))[:points]
        x = np.empty((len(order), index.dimension), np.float32)
        x[np.argsort(order)] = index.vectors[np.sort(order)]  # sorted: a mapped file is read forwards
        if projection != "pca" and len(x) > 3:
            flat = PROJECTIONS[projection](x).points
            return cls(order, _Square.around(flat)(flat), ABOUT[projection], None)
        mean = x.mean(axis=0)
        variance, axes = np.linalg.eigh((x - mean).T @ (x - mean))  # ascending
        axes = np.pad(axes[:, :-3:-1], ((0, 0), (0, max(0, 2 - index.dimension))))  # (D, 2)
        axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), (0, 1)] < 0, -1, 1)  # eigenvectors have no sign
        share = 100 * float(variance[-2:].sum()) / max(float(variance.sum()), 1e-12)
        square = _Square.around((x - mean) @ axes)
        about = f"two principal components, {share:.0f} % of the variance"
        return cls(order, square((x - mean) @ axes), about, lambda vectors: square((vectors - mean) @ axes))


@dataclasses.dataclass(frozen=True, eq=False)
class _Square:
    """The plane, moved and scaled such that some points fill the unit square."""

    middle: NDArray[np.float64]
    side: float

    @classmethod
    def around(cls, flat: NDArray[np.floating[Any]]) -> _Square:
        low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
        return cls((low + high) / 2, max(float((high - low).max()), 1e-12))

    def __call__(self, flat: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return (flat - self.middle) / self.side + 0.5
