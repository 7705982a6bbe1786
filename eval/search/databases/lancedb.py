"""LanceDB: a folder or a bucket, without a server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ssl_toolkit.eval.search.databases.base import About, Database, Row, Rows

os.environ.setdefault("RUST_LOG", "error")
_OURS = b"ssl_toolkit"


class LanceDb(Database):
    """See `Database`; a write is one version of the table, whole or absent."""

    def __init__(self, address: str, table: str, word: str) -> None:
        super().__init__(address, table, word)
        with self.told():
            self._db = lancedb.connect(address)

    def close(self) -> None:
        """See `Database`; it is files."""

    def exists(self) -> bool:
        """See `Database`."""
        try:
            self._table  # noqa: B018
        except ValueError:
            return False
        return True

    def write(self, about: About, rows: Iterator[Rows]) -> None:
        """See `Database`."""
        kinds = {"id": pa.int64(), "vector": pa.list_(pa.float32(), about.dimension)}
        kinds |= dict.fromkeys(("path", "label", "stamp"), pa.string())
        schema = pa.schema(list(kinds.items()), metadata={_OURS: json.dumps(about.words())})

        def batches() -> Iterator[Any]:
            for part in rows:
                vector = pa.FixedSizeListArray.from_arrays(pa.array(part.vector.reshape(-1)), about.dimension)
                texts = [pa.array(column, pa.string()) for column in (part.path, part.label, part.stamp)]
                yield pa.record_batch([pa.array(part.id), vector, *texts], schema=schema)

        reader = pa.RecordBatchReader.from_batches(schema, batches())
        self._db.create_table(self.table, reader, mode="overwrite").create_scalar_index("path")  # for `at`

    def about(self) -> dict[str, Any] | None:
        """See `Database`."""
        found = (self._table.schema.metadata or {}).get(_OURS) if self.exists() else None
        return None if found is None else dict(json.loads(found))

    def count(self) -> int:
        """See `Database`."""
        return int(self._table.count_rows())

    def near(self, vectors: NDArray[np.float32], k: int, metric: str) -> list[list[Row]]:
        """See `Database`."""
        kind, columns = "dot" if metric == "cosine" else "l2", ["id", "path", "label", "stamp", "_distance"]
        hits = self._table.search(list(vectors)).distance_type(kind).select(columns).limit(k)
        found: list[list[Row]] = [[] for _ in vectors]
        for hit in hits.to_list():
            found[hit.pop("query_index", 0)].append(self._row(hit, metric))  # a single vector has no number
        return found

    def at(self, path: str) -> Row | None:
        """See `Database`."""
        quoted = path.replace("'", "''")
        found = self._table.search().where(f"path = '{quoted}'").select(["id", "path", "label", "stamp"]).limit(1)
        return next((Row(**row) for row in found.to_list()), None)

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """See `Database`."""
        found = (
            self._table.search().where(f"id IN ({','.join(map(str, ids))})").select(["id", "vector"]).limit(len(ids))
        )
        of = {row["id"]: row["vector"] for row in found.to_list()}
        return np.array([of[each] for each in ids], dtype=np.float32)

    def _row(self, hit: dict[str, Any], metric: str) -> Row:
        distance = hit.pop("_distance")
        return Row(**hit, score=1 - distance if metric == "cosine" else max(distance, 0.0) ** 0.5)

    @property
    def _table(self) -> Any:
        return self._db.open_table(self.table)
