"""Indexes in databases that others run: vectors, paths, labels, and which encoder made them."""

from ssl_toolkit.eval.search.databases.base import Database, hidden, is_database, open_database
from ssl_toolkit.eval.search.databases.stored import StoredIndex, store

__all__ = ["Database", "StoredIndex", "hidden", "is_database", "open_database", "store"]
