"""PostgreSQL with the extension pgvector: ``pgvector:postgresql://USER@HOST/DATABASE``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from psycopg import sql

from ssl_toolkit.eval.search.databases.base import About, Database, Row, Rows

_TIMEOUT = 30  # seconds
_OURS = "ssl_toolkit "


class PgVector(Database):
    """See `Database`; a write is one transaction, whole or absent."""

    def __init__(self, address: str, table: str, word: str) -> None:
        super().__init__(address, table, word)
        with self.told():
            self._connection = psycopg.connect(address, connect_timeout=_TIMEOUT)
            if self._one("SELECT to_regtype('vector')") is not None:
                register_vector(self._connection)

    def close(self) -> None:
        """See `Database`."""
        self._connection.close()

    def exists(self) -> bool:
        """See `Database`."""
        return self._one("SELECT to_regclass({name})", name=sql.Literal(f'"{self.table}"')) is not None

    def write(self, about: About, rows: Iterator[Rows]) -> None:
        """See `Database`."""
        # Here alone: whoever searches may have no right to it, or a copy of the database that only reads.
        with self._connection.transaction():
            self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self._connection)
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(self._sql("DROP TABLE IF EXISTS {table}"))
            cursor.execute(
                self._sql(
                    "CREATE TABLE {table} (id bigint PRIMARY KEY, vector vector({width}) NOT NULL, path text NOT NULL, "
                    "label text, stamp text)",
                    width=sql.Literal(about.dimension),
                )
            )
            with cursor.copy(
                self._sql("COPY {table} (id, vector, path, label, stamp) FROM STDIN WITH (FORMAT BINARY)")
            ) as copy:
                copy.set_types(["int8", "vector", "text", "text", "text"])
                for part in rows:
                    for row in zip(part.id, part.vector, part.path, part.label, part.stamp, strict=True):
                        copy.write_row(row)
            cursor.execute(self._sql("CREATE INDEX ON {table} (path)"))
            said = sql.Literal(_OURS + json.dumps(about.words()))
            cursor.execute(self._sql("COMMENT ON TABLE {table} IS {said}", said=said))

    def about(self) -> dict[str, Any] | None:
        """See `Database`."""
        said = self._one("SELECT obj_description(to_regclass({name}))", name=sql.Literal(f'"{self.table}"'))
        return dict(json.loads(said[len(_OURS) :])) if said and said.startswith(_OURS) else None

    def count(self) -> int:
        """See `Database`."""
        return int(self._one("SELECT count(*) FROM {table}"))

    def near(self, vectors: NDArray[np.float32], k: int, metric: str) -> list[list[Row]]:
        """See `Database`."""
        by = sql.SQL("<#>" if metric == "cosine" else "<->")  # minus the product, or the distance
        asked = "SELECT id, path, label, stamp, vector {by} %s AS far FROM {table} ORDER BY far LIMIT {k}"
        query, sign = self._sql(asked, by=by, k=sql.Literal(k)), -1 if metric == "cosine" else 1
        with self._connection.transaction():
            found = [self._connection.execute(query, (vector,)).fetchall() for vector in vectors]
        return [[Row(row[0], row[1], row[2], row[3], sign * row[4]) for row in rows] for rows in found]

    def at(self, path: str) -> Row | None:
        """See `Database`."""
        query = self._sql("SELECT id, path, label, stamp FROM {table} WHERE path = %s LIMIT 1")
        with self._connection.transaction():
            found = self._connection.execute(query, (path,)).fetchone()
        return None if found is None else Row(*found)

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """See `Database`."""
        query = self._sql("SELECT id, vector::real[] FROM {table} WHERE id = ANY(%s)")
        with self._connection.transaction():
            of = dict(self._connection.execute(query, (list(ids),)).fetchall())
        return np.array([of[each] for each in ids], dtype=np.float32)

    def _one(self, query: str, **parts: sql.Composable) -> Any:
        with self._connection.transaction():
            row = self._connection.execute(self._sql(query, **parts)).fetchone()
        return None if row is None else row[0]

    def _sql(self, query: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(query).format(table=sql.Identifier(self.table), **parts)
