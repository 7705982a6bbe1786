"""Features on their way to a folder, block by block: a kill loses the last block, and the same work goes on there."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.files import force, lock, opened, sha256_of, sync, write_atomic

BLOCK = 1024
"""Images, at least, from one mark on the disk to the next."""

FILES = ("features.npy", "labels.npy", "index.npy", "paths.jsonl", "features.json")
"""What a folder of features may hold; it is whole where the first is."""

_DATA, _MARKS = ".features.growing.npy", ".features.growing.jsonl"
_HEADER = 128  # bytes, NumPy's for any number of rows


class Growing:
    """The features of a set of images while they are being written.

    Rows are appended to one file; after each block a line is added to another, with what the images of the block were
    and a checksum of its rows. Whoever opens the same folder for the same images finds `end` where those before it had
    come; blocks of other images, and what is behind them, are dropped.

    Args:
        folder: Where the features go; it is made.
        states: From the positions of a block's first image and of that behind its last to a word that is another one
            if any of these images is, or what encodes them. None: nothing is gone on from, and nothing is kept that
            is not finished.
        first: Position in the whole data set of the image at position 0.

    Attributes:
        end: Position behind the last image that has been written.
        count: Rows that have been.

    Raises:
        UsageError: Another process is writing to this folder.
    """

    def __init__(self, folder: Path, states: Callable[[int, int], str] | None = None, first: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.first, self.end = folder, first, 0
        self._states, self._width, self.count = states, 0, 0
        self._blocks: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # labels and positions, by block
        self._open: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # of the block that has no mark yet
        self._crc = 0
        self._data, self._marks = opened(folder / _DATA), opened(folder / _MARKS)
        try:
            lock(self._marks, folder)
            self._go_on()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        if self._states is None:
            self.delete()

    def append(self, x: NDArray[np.float32], label: NDArray[np.int64], index: NDArray[np.int64]) -> None:
        """Add rows (n, D), the labels and ascending positions (n,) of their images."""
        if not self._width:
            self._width = x.shape[1]
            self._header()
            self._data.seek(0, os.SEEK_END)
        data = np.ascontiguousarray(x, dtype="<f4").tobytes()
        self._data.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self._open.append((label, index))
        if sum(len(label) for label, _ in self._open) >= BLOCK:
            self._mark()

    def features(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """All rows, memory-mapped, labels and positions in the whole data set. No more can be appended.

        Raises:
            ValueError: There are none.
        """
        self._mark()
        label, index = map(np.concatenate, zip(*self._blocks, strict=True))
        self._header()
        self._data.flush()
        x = np.load(self.folder / _DATA, mmap_mode="r")
        return x, label, index + self.first

    def finish(self, names: Iterable[str] | None, about: dict[str, Any] | None = None) -> None:
        """Make of them the features that the folder holds.

        Args:
            names: Of the images, as many as there are rows.
            about: What ``features.json`` says of them, beside the hashes of the other files; None writes none.
        """
        _, label, index = self.features()
        folder = self.folder
        sync(folder / _DATA)
        # A folder is whole where features.npy is: it goes before the first of the others changes, and comes last.
        for name in ("features.npy", "paths.jsonl", "features.json"):
            (folder / name).unlink(missing_ok=True)
        write_atomic(folder / "labels.npy", lambda path: np.save(path, label))
        write_atomic(folder / "index.npy", lambda path: np.save(path, index))
        if names is not None:
            write_atomic(folder / "paths.jsonl", lambda path: _write_lines(path, names))
        if about is not None:
            hashes = {name: sha256_of(folder / name) for name in FILES[1:] if (folder / name).exists()}
            text = json.dumps({**about, "sha256": {"features.npy": sha256_of(folder / _DATA), **hashes}}, indent=2)
            write_atomic(folder / "features.json", lambda path: path.write_text(text + "\n"))
        os.replace(folder / _DATA, folder / "features.npy")
        sync(folder)
        self.delete()

    def delete(self) -> None:
        """Drop what has been written and is not finished."""
        for name in (_DATA, _MARKS):
            (self.folder / name).unlink(missing_ok=True)

    def missing(self, end: int) -> NDArray[np.int64]:
        """Positions below `end` of images that have no row."""
        return np.setdiff1d(
            np.arange(end), np.concatenate([np.empty(0, np.int64), *(each for _, each in self._blocks)])
        )

    def _go_on(self) -> None:
        """Take the blocks that are whole and of the same images, and drop what is behind them."""
        kept = 0
        with contextlib.suppress(ValueError, KeyError, TypeError):  # the end is torn
            for line in self._marks if self._states is not None else ():
                mark = json.loads(line)
                if not self._blocks:
                    self._width = _width(self._data)
                data = self._data.read(4 * self._width * len(mark["index"]))
                known = self._states is not None and self._states(self.end, mark["end"])
                if (known, zlib.crc32(data)) != (mark["state"], mark["crc"]):
                    break
                self._blocks.append((np.array(mark["label"], np.int64), np.array(mark["index"], np.int64)))
                self.end, self.count, kept = mark["end"], self.count + len(mark["index"]), kept + len(line)
        self._width = self._width if self._blocks else 0
        self._marks.seek(kept)
        self._marks.truncate()
        self._data.seek(_HEADER + 4 * self._width * self.count if self._blocks else 0)
        self._data.truncate()

    def _mark(self) -> None:
        """Force the open block down to the disk, and then the line that says so."""
        if not self._open:
            return
        label, index = (np.concatenate(parts) for parts in zip(*self._open, strict=True))
        end = int(index[-1]) + 1
        if self._states is not None:
            force(self._data)
            mark = {"end": end, "state": self._states(self.end, end), "crc": self._crc}
            line = json.dumps({**mark, "label": label.tolist(), "index": index.tolist()})
            self._marks.write(line.encode() + b"\n")
            force(self._marks)
        self._blocks.append((label, index))
        self.end, self.count, self._crc, self._open = end, self.count + len(label), 0, []

    def _header(self) -> None:
        # NumPy pads headers so that the number of rows may change in place.
        self._data.seek(0)
        about = {"descr": "<f4", "fortran_order": False, "shape": (self.count, self._width)}
        np.lib.format.write_array_header_1_0(self._data, about)

    def _close(self) -> None:
        self._data.close()
        self._marks.close()


def _width(data: BinaryIO) -> int:
    """Columns of a .npy file that is open at its beginning, and is at its first row afterwards."""
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError("not our header")
    shape, _, dtype = np.lib.format.read_array_header_1_0(data)
    if len(shape) != 2 or dtype != np.dtype("<f4") or data.tell() != _HEADER:
        raise ValueError("not our header")
    return int(shape[1])


def _write_lines(path: Path, names: Iterable[str]) -> None:
    # JSON, for a file name may hold a line break, or bytes that are no text.
    with path.open("w") as file:
        file.writelines(json.dumps(name) + "\n" for name in names)
