"""Names and states of images as they lie in the file of an index: memory holds where each begins, and its label."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 26  # bytes at once
_LABEL = re.compile(rb'"label": (-?\d+), "stamp"')  # quotes in a path are escaped


class Texts(Sequence[Any]):
    """Texts that are made when they are asked for; equal to a list of the same."""

    def _text(self, place: int) -> Any:
        raise NotImplementedError

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._text(each) for each in range(len(self))[place]]
        return self._text(range(len(self))[place])

    def __iter__(self) -> Iterator[Any]:
        return map(self._text, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_equal, self, other))

    def __hash__(self) -> int:
        return id(self)


def _equal(one: object, other: object) -> bool:
    return one == other


class Items:
    """The lines of a file, a JSON object each, with ``path``, ``label`` and ``stamp`` of an item of an index.

    Args:
        file: The file, which stays as it is.
    """

    def __init__(self, file: Path) -> None:
        self._bytes = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
        starts = range(0, len(self._bytes), _BLOCK)
        ends = [np.flatnonzero(self._bytes[start : start + _BLOCK] == ord("\n")) + start + 1 for start in starts]
        self._start = np.concatenate([np.zeros(1, np.int64), *ends])

    def __len__(self) -> int:
        return len(self._start) - 1

    def column(self, name: str) -> Column:
        """One of the texts of each."""
        return Column(self, name)

    def labels(self) -> NDArray[np.int64]:
        """The label of each, (N,).

        Raises:
            ValueError: Some have none.
        """
        starts = np.searchsorted(self._start, np.arange(0, len(self._bytes), _BLOCK))
        edges = [*self._start[np.unique(starts)], len(self._bytes)]
        blocks = (_LABEL.findall(self._bytes[a:b].tobytes()) for a, b in pairwise(edges))
        labels = np.concatenate([np.empty(0, np.int64), *(np.array(found).astype(np.int64) for found in blocks)])
        if len(labels) != len(self):
            raise ValueError(f"{len(self)} items have {len(labels)} labels")
        return labels

    def read(self, place: int) -> dict[str, Any]:
        """One of them."""
        line = self._bytes[self._start[place] : self._start[place + 1]]
        return dict(json.loads(line.tobytes()))


class Column(Texts):
    """A text of each line of `Items`."""

    def __init__(self, items: Items, name: str) -> None:
        self._items, self._name = items, name

    def __len__(self) -> int:
        return len(self._items)

    def _text(self, place: int) -> Any:
        return self._items.read(place)[self._name]


class Chosen(Texts):
    """The texts at some places of several sequences, one after another.

    Args:
        parts: Sequences, and places in each, (n,).
    """

    def __init__(self, parts: Sequence[tuple[Sequence[Any], NDArray[np.int64]]]) -> None:
        self._parts = list(parts)
        self._end = np.cumsum([len(places) for _, places in parts])

    def __len__(self) -> int:
        return int(self._end[-1])

    def __iter__(self) -> Iterator[Any]:
        return (texts[place] for texts, places in self._parts for place in places.tolist())

    def _text(self, place: int) -> Any:
        number = int(np.searchsorted(self._end, place, side="right"))
        texts, places = self._parts[number]
        return texts[int(places[place - self._end[number]])]


class Places:
    """Where each text stands in a sequence; of equal ones, the last. Memory holds sixteen bytes a text."""

    def __init__(self, texts: Sequence[str]) -> None:
        keys = _keys(texts)
        self._texts, self._order = texts, np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def of(self, text: str) -> int | None:
        """Its place; None where it is not there."""
        first, end = (int(np.searchsorted(self._keys, hash(text), side)) for side in ("left", "right"))
        places = (int(place) for place in self._order[first:end][::-1])
        return next((place for place in places if self._texts[place] == text), None)


def last_of_equals(parts: Sequence[Sequence[str]]) -> list[NDArray[np.int64]]:
    """Places in each sequence of those texts that no later sequence holds. Memory holds eight bytes a text."""
    keys = [_keys(part) for part in parts]
    later = np.empty(0, np.int64)
    kept: list[NDArray[np.int64]] = []
    for number in range(len(parts) - 1, -1, -1):
        twice = np.flatnonzero(np.isin(keys[number], later))
        others = {
            text
            for part, key in zip(parts[number + 1 :], keys[number + 1 :], strict=True)
            for place in (np.flatnonzero(np.isin(key, keys[number][twice])) if len(twice) else ())
            for text in [part[int(place)]]
        }
        drop = [place for place in twice.tolist() if parts[number][place] in others]
        kept.insert(0, np.setdiff1d(np.arange(len(parts[number])), drop))
        later = np.concatenate([later, keys[number]])
    return kept


def _keys(texts: Iterable[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, texts), np.int64)
