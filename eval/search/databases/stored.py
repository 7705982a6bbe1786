"""An index in a database, written from one of ours, and asked as one of ours is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.scores.knn import unit
from ssl_toolkit.eval.search.databases.base import About, Database, Row, Rows, plain
from ssl_toolkit.eval.search.hits import Hits, Item
from ssl_toolkit.eval.search.index import EmbeddingIndex, check_same_encoder, checked, checked_k

WRITTEN = 4096  # rows at once


def store(index: EmbeddingIndex, database: Database, overwrite: bool = False) -> None:
    """Write an index to a database.

    Raises:
        UsageError: The table is there already, and `overwrite` is False.
        ToolkitError: The database says no.
    """
    about = About(
        len(index), index.dimension, index.metric, index.encoder_sha256, index.classes is not None, index.data
    )
    database.check_free(overwrite)
    with database.told():
        database.write(about, _rows(index))


def _rows(index: EmbeddingIndex) -> Iterator[Rows]:
    for start in range(0, len(index), WRITTEN):
        place = range(start, min(start + WRITTEN, len(index)))
        labels = [index.label(each) for each in place]
        yield Rows(
            list(place),
            np.ascontiguousarray(index.vectors[start : place.stop]),
            [plain(path) for path in index.paths[start : place.stop]],
            [None if label is None else plain(str(label)) for label in labels],
            list(index.stamps[start : place.stop]),
        )


class StoredIndex:
    """An index in a database; it answers as `EmbeddingIndex` does.

    Args:
        database: Where `store` has written one.

    Raises:
        UsageError: It has none.
        ToolkitError: It cannot be reached, or holds a part of an index.
    """

    encoder_file = None

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.told():
            found = database.about()
            if found is None:
                raise UsageError(f"{database.word} holds no index: write one with `ssl-toolkit index --to`")
            self.about = About(**found)
            if (there := database.count()) != self.about.count:
                raise UsageError(f"{database.word} holds {there} of {self.about.count} images: write it again")
        self.metric, self.encoder_sha256, self.dimension = found["metric"], found["encoder_sha256"], found["dimension"]

    def __len__(self) -> int:
        return self.about.count

    def check_encoder(self, sha256: str) -> None:
        """See `EmbeddingIndex.check_encoder`."""
        check_same_encoder(sha256, self.encoder_sha256)

    def search(self, queries: NDArray[np.float32], k: int = 10) -> Hits:
        """See `EmbeddingIndex.search`; how exact it is, and whether all k are found, is the database's own choice."""
        k = min(checked_k(k), len(self))
        queries = checked("queries", queries, self.dimension)
        return self._hits(self._near(unit(queries) if self.metric == "cosine" else queries, k))

    def neighbours_of(self, items: NDArray[np.int64], k: int = 10) -> Hits:
        """See `EmbeddingIndex.neighbours_of`."""
        k = min(checked_k(k), len(self) - 1)
        ids = [int(item) for item in items]
        with self.database.told():
            vectors = self.database.vectors(ids) if ids else np.empty((0, self.dimension), np.float32)
        near = self._near(vectors, k + 1)
        return self._hits([[row for row in rows if row.id != item][:k] for rows, item in zip(near, items, strict=True)])

    def at(self, path: str) -> Item | None:
        """See `EmbeddingIndex.at`."""
        with self.database.told():
            row = self.database.at(plain(path))
        return None if row is None else Item(row.id, row.stamp, self._label(row))

    def _near(self, vectors: NDArray[np.float32], k: int) -> list[list[Row]]:
        with self.database.told():
            found = self.database.near(vectors, k, self.metric) if len(vectors) else []  # not every client takes none
        sign = -1 if self.metric == "cosine" else 1
        return [sorted(rows, key=lambda row: (sign * np.float32(row.score), row.id)) for rows in found]

    def _hits(self, near: list[list[Row]]) -> Hits:
        k = min(map(len, near), default=0)  # an index that somebody has given the table may find fewer, now and then
        near = [rows[:k] for rows in near]
        return Hits(
            np.array([[row.score for row in rows] for rows in near], dtype=np.float32).reshape(len(near), k),
            np.array([[row.id for row in rows] for rows in near], dtype=np.int64).reshape(len(near), k),
            [[row.path for row in rows] for rows in near],
            [[self._label(row) for row in rows] for rows in near],
            self.metric,
        )

    def _label(self, row: Row) -> Any:
        return row.label if row.label is None or self.about.named else int(row.label)
