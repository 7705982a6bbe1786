"""Qdrant: a server (``qdrant:http://HOST:6333``), or a folder that one process at a time may open."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search.databases.base import About, Database, Row, Rows

_OURS = "ssl_toolkit"
_TIMEOUT = 30  # seconds


class Qdrant(Database):
    """See `Database`; a server's token is read from the variable ``QDRANT_API_KEY``.

    A table is an alias of a collection with a name of its own, so that a new one takes the place of the old at once.
    """

    def __init__(self, address: str, table: str, word: str) -> None:
        super().__init__(address, table, word)
        remote = "://" in address
        with self.told():
            token = os.environ.get("QDRANT_API_KEY") if remote else None
            place = {"url": address, "api_key": token, "timeout": _TIMEOUT} if remote else {"path": address}
            self._client = QdrantClient(**place, check_compatibility=False) if remote else QdrantClient(**place)
            self._client.get_collections()

    def close(self) -> None:
        """See `Database`."""
        self._client.close()

    def exists(self) -> bool:
        """See `Database`."""
        return self._collection is not None or bool(self._client.collection_exists(self.table))

    def write(self, about: About, rows: Iterator[Rows]) -> None:
        """See `Database`."""
        old = self._collection
        if old is None and self._client.collection_exists(self.table):
            raise UsageError(f"{self.word}: {self.table} is a collection, and no table of ours: name another by #TABLE")
        distance = models.Distance.COSINE if about.metric == "cosine" else models.Distance.EUCLID
        new = f"{self.table}_{secrets.token_hex(4)}"
        config = models.VectorParams(size=about.dimension, distance=distance)
        self._client.create_collection(new, config, metadata={_OURS: about.words()})
        try:
            for part in rows:
                texts = zip(part.path, part.label, part.stamp, strict=True)
                payloads = [{"path": path, "label": label, "stamp": stamp} for path, label, stamp in texts]
                batch = models.Batch(ids=part.id, vectors=part.vector.tolist(), payloads=payloads)
                self._client.upsert(new, batch, wait=True)
            if "://" in self.address:
                self._client.create_payload_index(new, "path", models.PayloadSchemaType.KEYWORD)
        except BaseException:
            self._client.delete_collection(new)
            raise
        alias = models.CreateAlias(collection_name=new, alias_name=self.table)
        gone = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self.table))] if old else []
        self._client.update_collection_aliases([*gone, models.CreateAliasOperation(create_alias=alias)])
        if old:
            self._client.delete_collection(old)

    def about(self) -> dict[str, Any] | None:
        """See `Database`."""
        found = self._collection
        return None if found is None else (self._client.get_collection(found).config.metadata or {}).get(_OURS)

    def count(self) -> int:
        """See `Database`."""
        return int(self._client.count(self.table, exact=True).count)

    def near(self, vectors: NDArray[np.float32], k: int, metric: str) -> list[list[Row]]:
        """See `Database`."""
        asked = [models.QueryRequest(query=vector.tolist(), limit=k, with_payload=True) for vector in vectors]
        found = self._client.query_batch_points(self.table, asked)
        return [[_row(point, point.score) for point in each.points] for each in found]

    def at(self, path: str) -> Row | None:
        """See `Database`."""
        only = models.Filter(must=[models.FieldCondition(key="path", match=models.MatchValue(value=path))])
        found, _ = self._client.scroll(self.table, scroll_filter=only, limit=1)
        return _row(found[0]) if found else None

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """See `Database`."""
        of = {point.id: point.vector for point in self._client.retrieve(self.table, list(ids), with_vectors=True)}
        return np.array([of[each] for each in ids], dtype=np.float32)

    @property
    def _collection(self) -> str | None:
        """What the table is an alias of."""
        found = self._client.get_aliases().aliases
        return next((each.collection_name for each in found if each.alias_name == self.table), None)


def _row(point: Any, score: float = 0.0) -> Row:
    payload = point.payload
    return Row(int(point.id), payload["path"], payload["label"], payload["stamp"], score)
