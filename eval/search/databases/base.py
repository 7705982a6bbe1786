"""What a vector database has to do for us, and the words that name one."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import ToolkitError, UsageError, missing_extra, said_by, unknown_name

if TYPE_CHECKING:
    from typing_extensions import Self

KINDS = {"lancedb": "LanceDb", "milvus": "Milvus", "pgvector": "PgVector", "qdrant": "Qdrant"}
"""Kinds of databases, each an extra of its name, and the class in the module of that name."""

TABLE = "images"
"""Table or collection, if none is named."""


@dataclass(frozen=True)
class About:
    """What all rows of a table have in common.

    Attributes:
        count: How many there are.
        dimension: Width of the vectors.
        metric: ``cosine``, of unit vectors, or ``l2``.
        encoder_sha256: Which encoder made them.
        named: Whether labels are names of classes, and not numbers.
        data: The word for the data set.
    """

    count: int
    dimension: int
    metric: str
    encoder_sha256: str
    named: bool
    data: str

    def words(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Row:
    """An image in a table.

    Attributes:
        id: Position in the index.
        path: Name.
        label: Name or number of its class, None where it has none.
        stamp: State of its file, None where it is none.
        score: Of a hit: cosine, or distance.
    """

    id: int
    path: str
    label: str | None
    stamp: str | None
    score: float = 0.0


@dataclass(frozen=True)
class Rows:
    """Some images to be written: positions (n,), vectors (n, D), and n paths, labels and stamps."""

    id: list[int]
    vector: NDArray[np.float32]
    path: list[str]
    label: list[str | None]
    stamp: list[str | None]


class Database(ABC):
    """A table of vectors in a database; in a ``with``, the connection ends with it.

    Args:
        address: What its client connects to.
        table: Name of the table.
        word: What the user wrote, without passwords, for errors.
    """

    def __init__(self, address: str, table: str, word: str) -> None:
        self.address, self.table, self.word = address, table, word

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the connection, where there is one."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a table of this name, of ours or not."""

    @abstractmethod
    def write(self, about: About, rows: Iterator[Rows]) -> None:
        """Write a whole table; the one that is there stays until this one is complete."""

    @abstractmethod
    def about(self) -> dict[str, Any] | None:
        """What was written of a table by `write`; None where there is no such table, or not one of ours."""

    @abstractmethod
    def count(self) -> int:
        """Rows in the table."""

    @abstractmethod
    def near(self, vectors: NDArray[np.float32], k: int, metric: str) -> list[list[Row]]:
        """The k nearest rows of each vector (M, D), best first."""

    @abstractmethod
    def at(self, path: str) -> Row | None:
        """The row of a path; of several, any."""

    @abstractmethod
    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The vectors of rows, (n, D), in the order of `ids`."""

    def check_free(self, overwrite: bool) -> None:
        """Refuse to replace a table, unless it is to be replaced.

        Raises:
            UsageError: There is one already, and `overwrite` is False.
            ToolkitError: The database says no.
        """
        with self.told():
            taken = not overwrite and self.exists()
        if taken:
            raise UsageError(
                f"{self.word} holds a table {self.table} already: give --overwrite, or name another by #TABLE"
            )

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Say what a client complains of in one line; the clients of databases raise all kinds of errors."""
        try:
            yield
        except ToolkitError:
            raise
        except Exception as error:
            said = re.sub(r"\s+", " ", said_by(error))
            raise ToolkitError(f"{self.word}: {hidden(said)}") from error


def is_database(word: object) -> bool:
    """Whether a word names a database, and not a folder."""
    return isinstance(word, str) and word.partition(":")[0] in KINDS and ":" in word


def open_database(word: str) -> Database:
    """The database that a word names: ``KIND:ADDRESS#TABLE``, ``#images`` if no table is named.

    Raises:
        UsageError: There is no such kind, its client is not installed, or the word is none.
        ToolkitError: It cannot be reached.
    """
    kind, colon, rest = word.partition(":")
    if kind not in KINDS:
        raise unknown_name("database", kind, KINDS)
    address, _, table = rest.partition("#")
    if not (colon and address) or not re.fullmatch(r"[A-Za-z_]\w{0,47}", table := table or TABLE, re.ASCII):
        raise UsageError(f"{hidden(word)}: name a database as {kind}:ADDRESS#TABLE, the table in letters, digits and _")
    try:
        module = import_module(f"ssl_toolkit.eval.search.databases.{kind}")
    except ImportError as error:
        raise missing_extra(f"a database {kind}", kind) from error
    opened: Database = getattr(module, KINDS[kind])(address, table, hidden(word))
    return opened


def hidden(word: str) -> str:
    """A word for a database, or what its client says, without passwords.

    Examples:
        >>> hidden("pgvector:postgresql://me:s/e@cret@host/photos?password=too")
        'pgvector:postgresql://me:***@host/photos?password=***'
        >>> hidden("pgvector:host=db password='se cret' user=me")
        'pgvector:host=db password=*** user=me'
    """
    word = re.sub(r"(//[^/:@]*):.*@", r"\1:***@", word)  # up to the last @, which some passwords hold as it is
    return re.sub(r"(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&#]+)", r"\1***", word)


def plain(text: str) -> str:
    """A text as databases take it: of what is no Unicode, question marks; no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")
