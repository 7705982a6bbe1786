"""A manifest: a table of paths and, if one likes, labels, splits and captions, as other programs write them."""

from __future__ import annotations

import codecs
import csv
import itertools
import os
from collections.abc import Iterator
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.file_set import FileSet, PathList
from ssl_toolkit.data.image_set import Wanted
from ssl_toolkit.errors import UsageError, unknown_name

DELIMITERS = ",;\t"

# Names of the columns in lower case, with _ for a space or hyphen; of several that are there, the first is taken.
PATH = ("path", "filepath", "file_path", "image_path", "filename", "file_name", "image_name", "file", "image", "img")
LABEL = ("label", "class", "category", "class_name", "target")
SPLIT = ("split",)
CAPTION = ("caption", "text", "description")

# In this order: the mark of UTF-32 begins like that of UTF-16.
_MARKS = (
    *((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32")),
    *((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")),
)


def open_manifest(path: str, wanted: Wanted, split: str | None = None) -> FileSet:
    """The images that a manifest lists, or one split of them; see `open_images`.

    Raises:
        UsageError: It cannot be read, names no images, has no such split, or is no such table: with the line.
    """
    names: list[bytes] = []
    labels: list[str] = []
    splits: list[str | None] = []
    captions: list[str | None] = []
    try:
        _refuse_wide(path)
        # utf-8-sig: spreadsheets write a byte order mark; surrogateescape: file names need not be UTF-8.
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            for name, label, part, caption in _rows(path, file):
                names.append(os.fsencode(name))
                labels.append(label or "")
                splits.append(part)
                captions.append(caption)
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
    texts = None if captions[0] is None else [captions[i] or "" for i in chosen]
    return FileSet(PathList(folder, (names[i] for i in chosen)), numbers, classes, wanted, texts)


def _rows_of_split(path: str, split: str, splits: list[str | None]) -> list[int]:
    if splits[0] is None:
        raise UsageError(f"{path} line 1: no column 'split' in the header, but '{split}' is asked for")
    chosen = [i for i, name in enumerate(splits) if name == split]
    if not chosen:
        raise unknown_name(f"split of {path}", split, {name for name in splits if name})
    return chosen


def _refuse_wide(path: str) -> None:
    """Refuse what spreadsheets call Unicode: by its mark, or by the null byte that half of a Latin letter is."""
    with open(path, "rb") as file:
        start = file.read(4)
    wide = next((name for mark, name in _MARKS if start.startswith(mark)), "UTF-16" if b"\0" in start[:2] else None)
    if wide:
        raise UsageError(f"{path}: it is {wide}: save it as UTF-8")


def _rows(path: str, file: TextIO) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    """Path, label, split and caption of each row; None where there is no such column."""
    header = file.readline()
    reader = csv.reader(itertools.chain([header], file), delimiter=_delimiter(header))
    try:
        columns = _plain(next(reader, []))
        places = [_place(columns, names) for names in (PATH, LABEL, SPLIT, CAPTION)]
        if places[0] is None:
            found = ascii(", ".join(columns))[:120]  # ascii: it may be a binary file
            raise UsageError(
                f"{path} line 1: no column 'path' in the header, which is {found} (or {', '.join(PATH[1:])})"
            )
        for row in reader:
            if not row:
                continue
            line = f"{path} line {reader.line_num}"
            if len(row) != len(columns):
                raise UsageError(f"{line}: {len(row)} fields, the header has {len(columns)}")
            name, label, split, caption = (None if place is None else row[place].strip() for place in places)
            if not name or "\0" in name:
                raise UsageError(f"{line}: the path is empty or holds a null byte")
            foreign = [text for text in (name, label, split, caption) if text and not _is_utf8(text)]
            # The name of a file may be any bytes, if there is such a file.
            if foreign and not (foreign == [name] and os.path.lexists(os.path.join(os.path.dirname(path), name))):
                reading = foreign[-1].encode(errors="surrogateescape").decode("cp1252", errors="replace")
                raise UsageError(f"{line}: not UTF-8, as Windows-1252 it reads {reading!r}: save the file as UTF-8")
            yield name, label, split, caption
    except csv.Error as error:
        raise UsageError(f"{path} line {reader.line_num}: {error}") from error


def _delimiter(header: str) -> str:
    """What separates the columns: what makes one of them name a path, else a comma."""
    return next((each for each in DELIMITERS if _place(_plain(header.split(each)), PATH) is not None), ",")


def _plain(columns: list[str]) -> list[str]:
    return [name.strip(' "\r\n').lower().replace(" ", "_").replace("-", "_") for name in columns]


def _place(columns: list[str], names: tuple[str, ...]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _is_utf8(text: str) -> bool:
    """Whether text that was read with surrogateescape holds none of the bytes that it stands for."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
