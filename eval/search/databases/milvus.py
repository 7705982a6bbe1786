"""Milvus: a server (``milvus:http://HOST:19530``), or a file of Milvus Lite (``milvus:photos.db``)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search.databases.base import About, Database, Row, Rows

_OURS = "ssl_toolkit"
_TEXT = 65_535  # bytes, the most that Milvus takes
_NEW = "_of_ssl_toolkit_that_is_being_written_and_is_not_whole_yet"  # longer than a table that a word may name
_COLUMNS = ["id", "path", "label", "stamp"]


class Milvus(Database):
    """See `Database`; a server's token is read from the variable ``MILVUS_TOKEN``.

    A new table is written beside the old one, and takes its name when it is complete.
    """

    def __init__(self, address: str, table: str, word: str) -> None:
        super().__init__(address, table, word)
        if "://" not in address and not address.endswith(".db"):
            raise UsageError(f"{word}: a file of Milvus Lite ends in .db, a server begins with http://")
        with self.told():
            self._client = MilvusClient(address, token=os.environ.get("MILVUS_TOKEN", ""))

    def close(self) -> None:
        """See `Database`."""
        self._client.close()

    def exists(self) -> bool:
        """See `Database`."""
        return bool(self._client.has_collection(self.table))

    def write(self, about: About, rows: Iterator[Rows]) -> None:
        """See `Database`."""
        new = f"{self.table}{_NEW}"
        self._client.drop_collection(new)  # of what was killed
        try:
            self._fill(new, about, rows)
        except BaseException:
            self._client.drop_collection(new)
            raise
        self._client.drop_collection(self.table)
        self._client.rename_collection(new, self.table)

    def _fill(self, table: str, about: About, rows: Iterator[Rows]) -> None:
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=about.dimension)
        for name in ("path", "label", "stamp"):
            schema.add_field(name, DataType.VARCHAR, max_length=_TEXT, nullable=name != "path")
        found_by = self._client.prepare_index_params()
        measure = "IP" if about.metric == "cosine" else "L2"
        found_by.add_index("vector", index_type="FLAT", metric_type=measure)
        properties = {_OURS: json.dumps(about.words())}
        self._client.create_collection(table, schema=schema, index_params=found_by, properties=properties)
        for part in rows:
            columns = zip(part.id, part.vector.tolist(), part.path, part.label, part.stamp, strict=True)
            names = ("id", "vector", "path", "label", "stamp")
            self._client.insert(table, [dict(zip(names, row, strict=True)) for row in columns])
        self._client.flush(table)

    def about(self) -> dict[str, Any] | None:
        """See `Database`."""
        if not self.exists():
            return None
        found = self._client.describe_collection(self.table)["properties"].get(_OURS)
        if found is not None:
            self._client.load_collection(self.table)
        return None if found is None else dict(json.loads(found))

    def count(self) -> int:
        """See `Database`."""
        return int(self._client.get_collection_stats(self.table)["row_count"])

    def near(self, vectors: NDArray[np.float32], k: int, metric: str) -> list[list[Row]]:
        """See `Database`."""
        found = self._client.search(self.table, data=vectors.tolist(), limit=k, output_fields=_COLUMNS)
        return [[_row(hit["entity"], _score(hit["distance"], metric)) for hit in hits] for hits in found]

    def at(self, path: str) -> Row | None:
        """See `Database`."""
        only = f"path == {json.dumps(path, ensure_ascii=False)}"
        found = self._client.query(self.table, filter=only, output_fields=_COLUMNS, limit=1)
        return _row(found[0]) if len(found) else None

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """See `Database`."""
        of = {
            row["id"]: row["vector"] for row in self._client.get(self.table, list(ids), output_fields=["id", "vector"])
        }
        return np.array([of[each] for each in ids], dtype=np.float32)


def _score(distance: float, metric: str) -> float:
    return distance if metric == "cosine" else max(distance, 0.0) ** 0.5


def _row(found: dict[str, Any], score: float = 0.0) -> Row:
    return Row(found["id"], found["path"], found["label"], found["stamp"], score)
