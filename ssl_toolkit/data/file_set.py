"""Image files: a million paths that cost little, and the images that lie there."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import Pixels, check_channels, check_image, read_image


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


class FileSet(ImageSet):
    """Image files, read when they are asked for."""

    def __init__(
        self, paths: PathList, labels: NDArray[np.int64], classes: list[str] | None, channels: int | None
    ) -> None:
        self._paths = paths
        self.word = ""
        self.labels = labels
        self.classes = classes
        self.channels = 3 if channels is None else channels
        check_channels(self.channels)

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`."""
        return read_image(self._paths[index], size=size, channels=self.channels)

    def check(self, index: int) -> None:
        """As `ImageSet.check`."""
        check_image(self._paths[index])

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return self._paths[index]
