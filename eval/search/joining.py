"""Vectors and labels of several indexes as one: memory is not asked for more than what is kept, classes go by name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.scores.knn import unit

_COPIED = 1 << 16  # rows at once


def joined_vectors(
    parts: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]], scratch: str | os.PathLike[str] | None
) -> NDArray[np.float32]:
    """The given rows of each array, one after another.

    Args:
        parts: Arrays (N, D) of one width, and the positions of the rows of each.
        scratch: Folder whose disk holds the result; None: memory does.
    """
    joined = _room(sum(len(keep) for _, keep in parts), parts[0][0].shape[1], scratch)
    start = 0
    for vectors, keep in parts:
        for block in range(0, len(keep), _COPIED):
            rows = keep[block : block + _COPIED]
            joined[start : start + len(rows)] = vectors[rows]
            start += len(rows)
    return joined


def unit_on_disk(vectors: NDArray[np.float32], scratch: str | os.PathLike[str]) -> NDArray[np.float32]:
    """The rows (N, D) with length one, see `unit`, on the disk of a folder."""
    room = _room(len(vectors), vectors.shape[1], scratch)
    for block in range(0, len(vectors), _COPIED):
        room[block : block + _COPIED] = unit(vectors[block : block + _COPIED])
    return room


def _room(count: int, width: int, scratch: str | os.PathLike[str] | None) -> NDArray[np.float32]:
    """Space for vectors, (count, width): memory, or a file without a name, which ends with the last that uses it."""
    if scratch is None:
        return np.empty((count, width), dtype=np.float32)
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, dtype=np.float32, mode="r+", shape=(count, width))


def joined_labels(
    parts: Sequence[tuple[list[str] | None, NDArray[np.int64] | None, NDArray[np.int64]]],
) -> tuple[list[str] | None, NDArray[np.int64] | None]:
    """Names of all classes in the order in which they appear, and the labels of the kept rows in terms of them.

    Args:
        parts: Names, labels (N,), -1 where there is none, and positions of the rows of each.

    Raises:
        UsageError: Some labels have names, others are numbers only.
    """
    labelled = [(classes, label) for classes, label, _ in parts if label is not None and (label >= 0).any()]
    if not labelled:
        return None, None
    kinds = {classes is None for classes, _ in labelled}
    if len(kinds) > 1:
        raise UsageError("labels of two kinds, names and bare numbers, cannot stand in one index: give --labels none")
    names = list(dict.fromkeys(name for classes, _ in labelled for name in classes or []))
    place = {name: number for number, name in enumerate(names)}
    joined = []
    for classes, label, keep in parts:
        if label is None or not (label >= 0).any():
            joined.append(np.full(len(keep), -1, dtype=np.int64))
        elif classes is None:
            joined.append(label[keep].astype(np.int64))
        else:
            lookup = np.array([*(place[name] for name in classes), -1])  # -1, no label, is the last
            joined.append(lookup[label[keep]])
    return (names or None), np.concatenate(joined)
