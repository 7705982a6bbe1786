"""Images in one array: a ``.npy``, which is mapped, a ``.npz``, which is read, or what Python holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Pixels, depth_of, measured_range, to_pixels
from ssl_toolkit.data.image_set import ImageSet, Wanted, unlabelled
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.resizing import convert_channels, resize
from ssl_toolkit.errors import UsageError


class ArraySet(ImageSet):
    """Images in one array, in memory or mapped from a file.

    Args:
        name: What `path` puts before the ``#``: a file's path or a word.
        pixels: (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, uint16, float in [0, 1], with a range other
            numbers.
        labels: (N,) int64, -1 unlabelled.
        classes: Names of the classes.
        wanted: Channels, None for what the array has; and the range.
        mapped: `pixels` is mapped from the file `name`: a worker maps it itself instead of being sent its contents.
    """

    def __init__(
        self,
        name: str,
        pixels: NDArray[np.generic],
        labels: NDArray[np.int64],
        classes: list[str] | None,
        wanted: Wanted,
        mapped: bool = False,
    ) -> None:
        self._name = name
        self._pixels: NDArray[np.generic] | None = pixels
        self._mapped = mapped
        self._channel_axis = _channel_axis(name, pixels.shape)
        self.word = ""
        self.labels = labels
        self.classes = classes
        native = 1 if self._channel_axis is None else pixels.shape[self._channel_axis]
        self.channels = native if wanted.channels is None else wanted.channels
        self.dtype = depth_of(pixels.dtype)
        if self.channels != native and {self.channels, native} != {1, 3}:
            raise UsageError(f"{name}: images have {native} channels, {self.channels} are wanted")
        if wanted.range == "auto":
            self.range = measured_range(self._values, len(pixels), name)
        elif self.dtype != np.uint8:
            self.range = wanted.range
        try:
            to_pixels(pixels[0], self.range)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"_pixels": None} if self._mapped else {})

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`."""
        try:
            pixels = to_pixels(self._values(index), self.range)
            return convert_channels(resize(pixels, size), self.channels)
        except ValueError as error:
            raise BadImageError(self.path(index), str(error)) from error

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"

    def _values(self, index: int) -> NDArray[Any]:
        """(C, H, W), as they are stored."""
        if self._pixels is None:
            self._pixels = open_memmap(self._name, mode="r")
        if not 0 <= index < len(self):
            raise IndexError(index)
        pixels = np.array(self._pixels[index])  # a copy: the caller may write to it
        return pixels[None] if self._channel_axis is None else np.moveaxis(pixels, self._channel_axis - 1, 0)


def _channel_axis(name: str, shape: tuple[int, ...]) -> int | None:
    """Which axis holds the channels: none of (N, H, W), the shorter of the first and the last of (N, ?, ?, ?)."""
    if len(shape) not in (3, 4) or 0 in shape:
        raise UsageError(f"{name}: shape {shape} is none of (N, H, W), (N, H, W, C) and (N, C, H, W)")
    if len(shape) == 3:
        return None
    if shape[1] == shape[3]:
        raise UsageError(f"{name}: shape {shape} reads as (N, H, W, C) and as (N, C, H, W): give it unequal sides")
    return 1 if shape[1] < shape[3] else 3


def open_array_file(path: str, wanted: Wanted) -> ArraySet:
    """The images of a ``.npy`` or ``.npz`` file; see `open_images`.

    Raises:
        UsageError: It cannot be read, or holds no such array.
    """
    path = os.path.abspath(path)
    mapped = path.lower().endswith(".npy")
    labels = None
    try:
        if mapped:
            pixels: NDArray[Any] = open_memmap(path, mode="r")
        else:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                pixels = archive[_key(path, archive.files, ("images", "x", "data"))]
                if {"labels", "y"} & set(archive.files):
                    labels = archive[_key(path, archive.files, ("labels", "y"))]
    except UsageError:
        raise
    # What NumPy meets in a damaged or hostile file: ValueError, EOFError, BadZipFile, zlib.error, ...
    except Exception as error:
        raise UsageError(f"{path}: cannot be read as an array: {error}") from error
    _channel_axis(path, pixels.shape)
    numbers, classes = numbered_labels(path, labels, len(pixels))
    return ArraySet(path, pixels, numbers, classes, wanted, mapped)


def _key(path: str, found: list[str], wanted: tuple[str, ...]) -> str:
    for key in wanted:
        if key in found:
            return key
    raise UsageError(f"{path}: no array named {' or '.join(wanted)} (it has: {', '.join(found) or 'nothing'})")


def label_array(found: Sequence[Any]) -> NDArray[Any]:
    """Labels as `numbered_labels` takes them, of numbers or text, None where there is none."""
    none = "" if any(isinstance(label, str) for label in found) else -1
    return np.asarray([none if label is None else label for label in found], None if found else np.int64)


def numbered_labels(path: str, labels: NDArray[Any] | None, count: int) -> tuple[NDArray[np.int64], list[str] | None]:
    """Class numbers and names of labels that are numbers or text; -1 and empty text: no label.

    Raises:
        UsageError: Naming `path`, if they are something else or not `count`.
    """
    if labels is None:
        return unlabelled(count), None
    if labels.size != count or labels.ndim not in (1, 2):
        raise UsageError(f"{path}: {count} images, but labels of shape {labels.shape}")
    labels = labels.reshape(-1)
    if labels.dtype.kind == "U":
        classes, numbers = np.unique(labels, return_inverse=True)
        empty = int("" in classes)  # it comes first
        return numbers.astype(np.int64) - empty, [str(name) for name in classes[empty:]]
    if labels.dtype.kind not in "iu" or int(labels.min()) < -1 or int(labels.max()) >= 1_000_000:
        raise UsageError(f"{path}: labels must be text, or class numbers from 0 (-1: no label), not {labels.dtype}")
    return labels.astype(np.int64), [str(i) for i in range(int(labels.max()) + 1)]
