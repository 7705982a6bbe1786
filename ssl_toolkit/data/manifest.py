"""A manifest: a table of paths and, if one likes, labels and splits."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.file_set import FileSet, PathList
from ssl_toolkit.data.image_set import Wanted
from ssl_toolkit.errors import UsageError, unknown_name


def open_manifest(path: str, wanted: Wanted, split: str | None = None) -> FileSet:
    """The images that a manifest lists, or one split of them; see `open_images`.

    Raises:
        UsageError: It cannot be read, names no images, has no such split, or is no such table: with the line.
    """
    names: list[bytes] = []
    labels: list[str] = []
    splits: list[str | None] = []
    try:
        # utf-8-sig: spreadsheets write a byte order mark; surrogateescape: file names need not be UTF-8.
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            for row in _manifest_rows(path, csv.reader(file)):
                names.append(os.fsencode(row["path"]))
                labels.append(row.get("label", ""))
                splits.append(row.get("split"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if not names:
        raise UsageError(f"{path}: no rows below the header")
    chosen = range(len(names)) if split is None else _rows_of_split(path, split, splits)
    # Classes come from the whole manifest, so that the labels of its splits mean the same; numbers in their own order.
    classes = sorted(set(labels) - {""}, key=lambda name: (int(name) if name.isdecimal() else -1, name))
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    numbers: NDArray[np.int64] = np.array([number[labels[i]] for i in chosen], dtype=np.int64)
    folder = os.path.dirname(os.path.abspath(path))
    return FileSet(PathList(folder, (names[i] for i in chosen)), numbers, classes, wanted.channels)


def _rows_of_split(path: str, split: str, splits: list[str | None]) -> list[int]:
    if splits[0] is None:
        raise UsageError(f"{path} line 1: no column 'split' in the header, but '{split}' is asked for")
    chosen = [i for i, name in enumerate(splits) if name == split]
    if not chosen:
        raise unknown_name(f"split of {path}", split, {name for name in splits if name})
    return chosen


def _manifest_rows(path: str, reader: Any) -> Iterator[dict[str, str]]:
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        if "path" not in columns:
            found = ascii(", ".join(columns))[:120]  # ascii: it may be a binary file
            raise UsageError(f"{path} line 1: no column 'path' in the header, which is {found}")
        for row in reader:
            if not row:
                continue
            if len(row) != len(columns):
                raise UsageError(f"{path} line {reader.line_num}: {len(row)} fields, the header has {len(columns)}")
            cells = {column: cell.strip() for column, cell in zip(columns, row, strict=True)}
            if not cells["path"] or "\0" in cells["path"]:
                raise UsageError(f"{path} line {reader.line_num}: the path is empty or holds a null byte")
            yield cells
    except csv.Error as error:
        raise UsageError(f"{path} line {reader.line_num}: {error}") from error
