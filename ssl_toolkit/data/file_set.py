"""Image files: a million paths that cost little, and the images that lie there."""

from __future__ import annotations

import os
from abc import abstractmethod
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Pixels, at_depth, measured_range
from ssl_toolkit.data.image_set import ImageSet, Wanted
from ssl_toolkit.data.images import (
    BadImageError,
    Source,
    check_channels,
    check_image,
    depth_of_file,
    read_image,
    read_values,
)

LOOKED_AT = 8  # files, of a set


class PathList:
    """A million paths as one buffer of bytes and an array of offsets.

    A million `str` objects take twice the memory, and again in every forked worker: reading an object changes its
    reference count, which copies the page it lies on. Bytes, because file names need not be UTF-8.

    Args:
        folder: What relative names are relative to.
        names: File names as `os.fsencode` gives them, relative or absolute.
    """

    def __init__(self, folder: str, names: Iterable[bytes]) -> None:
        buffer, ends = bytearray(), array("q", [0])
        for name in names:
            buffer += name
            ends.append(len(buffer))
        self._folder = os.fsencode(folder)
        self._buffer = bytes(buffer)
        self._ends: NDArray[np.int64] = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self._buffer[self._ends[index] : self._ends[index + 1]]
        return os.fsdecode(os.path.join(self._folder, name))


class EncodedSet(ImageSet):
    """Images that are image files, on disk or as bytes in archives and tables, read when they are asked for.

    Of images of several depths all are read at the greatest that is found among `LOOKED_AT` from all over the set.

    Args:
        labels: (N,) int64, -1 unlabelled.
        classes: Names of the classes.
        wanted: Channels and range.
    """

    def __init__(self, labels: NDArray[np.int64], classes: list[str] | None, wanted: Wanted) -> None:
        self.word = ""
        self.labels = labels
        self.classes = classes
        self.channels = 3 if wanted.channels is None else wanted.channels
        self.range = None if wanted.range == "auto" else wanted.range
        rows = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), LOOKED_AT)).astype(int)).tolist()
        found = [dtype for row in rows if (dtype := self._depth(row)) is not None]
        if not found:
            check_channels(self.channels)
        self.dtype = max(found, key=lambda dtype: dtype.itemsize, default=self.dtype)
        if wanted.range == "auto":
            self.range = measured_range(
                lambda row: read_values(self.source(row), self.channels), len(labels), self.path(0)
            )

    def _depth(self, index: int) -> np.dtype[Any] | None:
        try:
            return depth_of_file(self.source(index), self.channels)
        except BadImageError:
            return None

    @abstractmethod
    def source(self, index: int) -> Source:
        """Where an image is, with the name that `path` gives.

        Raises:
            BadImageError: It is not to be had.
        """

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`."""
        return self.decoded(self.source(index), size)

    def decoded(self, source: Source, size: int | None) -> Pixels:
        """Pixels (C, H, W) of an image that is stored as those of this set."""
        return at_depth(read_image(source, size=size, channels=self.channels, range=self.range), self.dtype)

    def check(self, index: int) -> None:
        """As `ImageSet.check`."""
        check_image(self.source(index), channels=self.channels, range=self.range)


class FileSet(EncodedSet):
    """Image files."""

    def __init__(
        self,
        paths: PathList,
        labels: NDArray[np.int64],
        classes: list[str] | None,
        wanted: Wanted,
        captions: list[str] | None = None,
    ) -> None:
        self._paths, self._captions = paths, captions
        super().__init__(labels, classes, wanted)

    def source(self, index: int) -> str:
        """Its path."""
        return self._paths[index]

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return self._paths[index]

    def caption(self, index: int) -> str | None:
        """As `ImageSet.caption`."""
        return None if self._captions is None else self._captions[index]
