"""What a search found, as numbers and names."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TEXT = "text:"
"""How a query begins that is no image, but says what one shows."""


class Item(NamedTuple):
    """An item of an index: its position, the state of its file or None, and its label as in `Hits`."""

    place: int
    stamp: str | None
    label: str | int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Hits:
    """The nearest items of M queries, best first.

    Attributes:
        score: (M, k) float32: cosine, descending; or Euclidean distance for ``l2``, ascending.
        position: (M, k) int64: place of each hit in the index.
        path: M lists of k paths.
        label: M lists of k labels: the class name where the index has names, the number where it has labels only,
            None where it has none.
        metric: ``cosine`` or ``l2``.
    """

    score: NDArray[np.float32]
    position: NDArray[np.int64]
    path: list[list[str]]
    label: list[list[str | int | None]]
    metric: str

    def rows(self) -> list[list[dict[str, Any]]]:
        """A list a query, of a dictionary a hit with `rank` (from 1), `path`, `score` and `label`, ready for JSON."""
        return [
            [
                {"rank": rank, "path": path, "score": float(score), "label": label}
                for rank, (path, score, label) in enumerate(zip(*query, strict=True), start=1)
            ]
            for query in zip(self.path, self.score, self.label, strict=True)
        ]

    def __repr__(self) -> str:
        first = f", first {self.path[0][0]!r} {self.score[0, 0]:.3f}" if self.score.size else ""
        return f"Hits({len(self.score)} queries, {self.score.shape[1]} each, {self.metric}{first})"

    def _repr_html_(self) -> str:
        """For notebooks: a line of pictures a query."""
        from ssl_toolkit.eval.search.notebook import hits_table  # matplotlib's

        return hits_table(self)
