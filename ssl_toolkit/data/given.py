"""Images that Python holds as image sets: paths, arrays, tensors, data sets of torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_toolkit.data.arrays import ArraySet, label_array, numbered_labels
from ssl_toolkit.data.batch import caption_of, image_and_label
from ssl_toolkit.data.depth import Pixels, Range, at_depth, measured_range, to_pixels
from ssl_toolkit.data.file_set import FileSet, PathList
from ssl_toolkit.data.hugging_face import open_hf_object
from ssl_toolkit.data.image_set import ImageSet, Wanted, unlabelled
from ssl_toolkit.data.images import BadImageError, in_brief, to_array
from ssl_toolkit.data.lance_table import open_lance_object
from ssl_toolkit.data.resizing import convert_channels, resize
from ssl_toolkit.errors import UsageError
from ssl_toolkit.objects import describe
from ssl_toolkit.progress import progress_bar


def open_given(given: Any, wanted: Wanted) -> ImageSet:
    """An image set of what is no word for one; see `open_images`.

    Args:
        given: Paths, images, a data set, or an image set, of which a copy is given.
        wanted: Unless no labels are wanted, those of a data set that does not name them (``targets``, ``labels``) take
            a pass over its items. Channels are by default what there are, 3 of files and of PIL images in colour.

    Raises:
        UsageError: If it is none of these, is empty, has other channels, or its first image cannot be read.
    """
    if isinstance(given, ImageSet):
        if wanted.channels not in (None, given.channels):
            raise UsageError(f"data: '{given.word}' has {given.channels} channels, {wanted.channels} are wanted")
        if given.dtype != np.uint8 and wanted.range not in (None, given.range):
            raise UsageError(
                f"data: '{given.word}' was opened with the range {given.range}, {wanted.range} is wanted: give that to "
                "open_images"
            )
        return copy(given)
    word = describe(given)
    for open_kind in (open_hf_object, open_lance_object):
        if (known := open_kind(given, word, wanted)) is not None:
            known.word = word
            return known
    if not hasattr(given, "__len__") or not hasattr(given, "__getitem__") or isinstance(given, dict):
        raise UsageError(
            f"data is {word}: give a word or path, a list of paths, an array or tensor, or a data set with a length "
            "and items (map-style)"
        )
    if not len(given):
        raise UsageError(f"data is {word}: it is empty")
    values = _numpy(given)
    images: ImageSet
    if values is not None and values.dtype.kind not in "OUS":
        images = ArraySet(f"data {word}", values, unlabelled(len(given)), None, wanted)
    elif (paths := _paths(given if values is None else values.tolist())) is not None:
        images = FileSet(paths, unlabelled(len(given)), None, wanted)
    else:
        images = DataSet(given, word, wanted)
    images.word = word
    return images


class DataSet(ImageSet):
    """A map-style data set of torch, or a list, as an image set; an item that raises is an image that cannot be read.

    Args:
        items: See `open_images`.
        word: What describes it.
        wanted: See `open_given`.

    Raises:
        UsageError: If the first item holds no image, or labels are neither numbers nor text.
    """

    def __init__(self, items: Any, word: str, wanted: Wanted) -> None:
        self.word, self._items = word, items
        try:
            first = items[0]
            image, label = image_and_label(first)
            self._captioned = caption_of(first) is not None
            self.range = self._range(wanted)
            pixels = pixels_of(image, self.range)
            self.dtype = pixels.dtype
            self.channels = len(pixels) if wanted.channels is None else wanted.channels
            convert_channels(pixels, self.channels)
        except Exception as error:  # whatever a stranger's data set may raise
            raise UsageError(f"data: item 0 of {word} cannot be read as an image: {in_brief(error)}") from error
        labels = self._labels(label is not None) if wanted.labels != "none" else None
        self.labels, self.classes = numbered_labels(f"data {word}", labels, len(items))
        names = getattr(items, "classes", None)
        if self.classes is not None and isinstance(names, Sequence) and len(names) >= len(self.classes):
            self.classes = [str(name) for name in names]

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            pixels = pixels_of(image_and_label(self._items[index])[0], self.range)
            return convert_channels(resize(at_depth(pixels, self.dtype), size), self.channels)
        except Exception as error:
            raise BadImageError(self.path(index), in_brief(error)) from error

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self.word}#{index}"

    def caption(self, index: int) -> str | None:
        """As `ImageSet.caption`, of several the first; an item is asked for once more."""
        text = caption_of(self._items[index]) if self._captioned else None
        return None if text is None else str(text[0] if isinstance(text, list | tuple) else text)

    def _range(self, wanted: Wanted) -> Range | None:
        """What is wanted, measured if it is ``auto``."""

        def values(row: int) -> NDArray[Any]:
            try:
                return values_of(image_and_label(self._items[row])[0])
            except Exception as error:  # it is reported when its pixels are asked for
                raise BadImageError(self.path(row), in_brief(error)) from error

        return measured_range(values, len(self._items), self.word) if wanted.range == "auto" else wanted.range

    def _labels(self, in_items: bool) -> NDArray[Any] | None:
        """The labels that the data set names or, if its items have some, those of each; -1 where one cannot be read."""
        for name in ("targets", "labels"):
            named = getattr(self._items, name, None)
            if named is not None and hasattr(named, "__len__") and len(named) == len(self._items):
                return np.asarray(named)
        if not in_items:
            return None
        found: list[Any] = []
        with progress_bar(len(self._items), "reading labels", "image") as bar:
            for index in range(len(self._items)):
                try:
                    found.append(image_and_label(self._items[index])[1])
                except Exception:  # it is reported when its pixels are asked for
                    found.append(None)
                bar.update()
        return label_array(found)


def pixels_of(image: Any, range: Range | None = None) -> Pixels:
    """Pixels (C, H, W) of a PIL image, or of an array or tensor (H, W), (C, H, W) or (H, W, C).

    Args:
        image: The values of arrays are uint8, uint16 or floats in [0, 1]. The channels are the shorter of the first and
            the last axis, the first if they are equal.
        range: Values that become 0 and 1 of what is deeper than 8 bits; other numbers are taken with it too.

    Raises:
        ValueError: It is none of these.
    """
    return to_pixels(values_of(image), range)


def values_of(image: Any) -> NDArray[Any]:
    """What `pixels_of` scales: values (C, H, W), as they are given."""
    if isinstance(image, Image.Image):
        return to_array(image, channels=1 if image.mode in ("1", "L") else 3)
    values = _numpy(image)
    if values is None or values.dtype.kind == "O":
        raise ValueError(f"it is {describe(image)}, and must be a PIL image, an array or a tensor")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(f"its shape is {values.shape}, and must be (H, W), (C, H, W) or (H, W, C)")
    if values.ndim == 2:
        return values[None]
    return values if values.shape[0] <= values.shape[2] else values.transpose(2, 0, 1)


def _numpy(given: Any) -> NDArray[Any] | None:
    """Arrays and tensors, wherever they lie, and columns of tables as arrays; None for all else."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    return np.asarray(given) if hasattr(given, "__array__") else None


def _paths(given: Any) -> PathList | None:
    """Paths, relative ones from the current folder; None if they are something else."""
    if not isinstance(given, list | tuple) or not all(isinstance(path, str | os.PathLike) for path in given):
        return None
    return PathList(os.getcwd(), [os.fsencode(os.path.expanduser(path)) for path in given])
