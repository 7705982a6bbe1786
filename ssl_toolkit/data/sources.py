"""Words to image sets: ``shapes:train``, ``cifar10:test``, a folder, a ``.csv`` manifest, a ``.npy`` or ``.npz`` array.

`open_images` is the way in, for words and for objects of Python (see `ssl_toolkit.data.given`); what it gives is an
`ImageSet`, indexed, picklable and cheap to fork.
"""

from __future__ import annotations

import copy
import csv
import os
import re
import warnings
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from ssl_toolkit.data import shapes
from ssl_toolkit.data.images import (
    SUFFIXES,
    BadImageError,
    check_channels,
    convert_channels,
    read_image,
    resize,
    to_uint8,
)
from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name
from ssl_toolkit.objects import is_object, missing_object

Labels = Literal["auto", "folder", "none"]
DEFAULT_ROOT = "data"

# Subfolders of these names are parts of a data set, not classes.
SPLIT_NAMES = frozenset(
    (
        *("train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing", "eval"),
        *("extra", "unlabeled", "unlabelled"),
    )
)


class ImageSet(ABC):
    """A sequence of images with labels.

    Attributes:
        word: What the user wrote: ``"cifar10:train"``.
        classes: Names of the classes; None where there are no labels.
        labels: (N,) int64, -1 where an image has no label.
        channels: What `load` gives.
        frames: 1 for images; of clips, how many frames share the channels, one after another.
    """

    word: str
    classes: list[str] | None
    labels: NDArray[np.int64]
    channels: int
    frames: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: int, size: int | None) -> NDArray[np.uint8]:
        """Pixels of one image.

        Args:
            index: From 0 to len(self) - 1.
            size: Length of the short side, aspect kept; None gives the image's own size.

        Returns:
            (channels, H, W) uint8, contiguous.

        Raises:
            BadImageError: This image cannot be read.
        """

    @abstractmethod
    def path(self, index: int) -> str:
        """Where an image lies: a file's path, or a place in a set, ``"shapes:test#17"``; `open_item` reads both."""


def open_images(
    word: Any, *, root: str | os.PathLike[str] | None = None, labels: Labels = "auto", channels: int | None = None
) -> ImageSet:
    """Open an image set by the word for it; a path that exists wins over a name. Or what Python holds, as one.

    Args:
        word: A word or path, one of

            - ``shapes:train``, ``shapes:test``, ``shapes:train:2000``: rendered, the number is the count;
            - a data set of torchvision and its split, ``cifar10:train`` (all: `torchvision_names`);
            - a folder, searched for images at any depth;
            - a manifest ``list.csv`` with a column ``path`` (relative to the manifest) and, if you like, ``label`` and
              ``split``; ``list.csv:val`` takes one split;
            - an array ``images.npy`` or ``images.npz`` (key ``images``, ``x`` or ``data``, and ``labels`` or ``y``):
              (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, uint16 or floats in [0, 1]; any number of channels.
              A ``.npy`` is mapped, a ``.npz`` is read into memory;
            - clips, ``clips:PATH`` or ``clips:PATH:8:2``, of a video, a folder of videos, or a folder of frames or of
              folders of frames, in the order of their names. The numbers are the frames of a clip (8) and the stride
              from frame to frame (2); a third is the hop from clip to clip (frames x stride, so that they do not
              overlap). With one frame, ``clips:PATH:1``, these are images like others. Videos need the extra ``video``;

            or an object: a list or array of paths; an array or tensor of images, as in a file; a map-style data set of
            torch, or a list, whose items are a PIL image, an array or a tensor, or a tuple or dictionary of that and a
            label; an `ImageSet`.
        root: Where torchvision's data sets lie and are downloaded to; ``data`` in the current folder by default.
        labels: "none" drops all labels. Of a folder, "folder" makes the subfolders directly below it the classes and
            refuses images outside them; "auto" does so where every image lies in one of at least two subfolders, none
            of them named like a split (train, val, test, ...), and otherwise reads no labels.
        channels: What `ImageSet.load` gives, of clips for each frame; by default 3 for files and what the data set has
            for the others.

    Raises:
        UsageError: No such name, path or split, no images in it, or a manifest, array or data set that cannot be read.
    """
    if labels not in get_args(Labels):
        raise unknown_name("value of labels", labels, get_args(Labels))
    if not isinstance(word, str | os.PathLike):
        if labels == "folder":
            raise UsageError("labels by folder need a folder, data is an object: leave labels at auto")
        return _open_object(word, labels, channels)
    word = os.fspath(word)
    if labels == "folder" and not os.path.isdir(os.path.expanduser(word)):
        raise UsageError(f"labels by folder need a folder, '{word}' is none: leave labels at auto")
    images = _open(word, os.path.abspath(os.path.expanduser(root or DEFAULT_ROOT)), labels, channels)
    images.word = word
    if labels == "none":
        images.labels = np.full(len(images), -1, dtype=np.int64)
    if bool((images.labels < 0).all()):
        images.classes = None
    return images


def _open_object(given: Any, labels: Labels, channels: int | None) -> ImageSet:
    if isinstance(given, ImageSet):
        if channels not in (None, given.channels):
            raise UsageError(f"data: '{given.word}' has {given.channels} channels, {channels} are wanted")
        images = copy.copy(given)
    else:
        from ssl_toolkit.data.given import open_given  # it imports this module

        images = open_given(given, labels != "none", channels)
    if labels == "none":
        images.labels, images.classes = np.full(len(images), -1, dtype=np.int64), None
    return images


def open_item(
    path: str, channels: int = 3, *, root: str | os.PathLike[str] | None = None, size: int | None = None
) -> NDArray[np.uint8]:
    """Pixels of what `ImageSet.path` named.

    Args:
        path: A file, or a set's word and an index: ``"shapes:test#17"``.
        channels: Channels of the result.
        root: As in `open_images`.
        size: Length of the short side; None gives the image's own size.

    Returns:
        (channels, H, W) uint8.

    Raises:
        BadImageError: The image cannot be read.
        UsageError: There is no such file, set or index.
    """
    place = re.fullmatch(r"(.+)#(\d+)", path, flags=re.DOTALL)
    if place is None and not os.path.lexists(path):
        raise UsageError(f"no such image: '{path}'")
    if place is None or os.path.lexists(path):
        return read_image(path, size=size, channels=channels)
    images = _opened(place[1], None if root is None else os.fspath(root), channels, _stamp(place[1]))
    index = int(place[2])
    if index >= len(images):
        raise UsageError(f"'{path}': the set has {len(images)} images, the last is #{len(images) - 1}")
    return images.load(index, size)


class Items(ImageSet):
    """Images that are named one by one, without labels; one that cannot be read ends the reading.

    Args:
        paths: What `open_item` takes.
        channels: What `load` gives.
        root: As in `open_images`.
    """

    def __init__(self, paths: Sequence[str], channels: int, root: str | os.PathLike[str] | None = None) -> None:
        self.word, self.classes, self.channels = ", ".join(paths[:3]), None, channels
        self.labels = np.full(len(paths), -1, dtype=np.int64)
        self._paths, self._root = list(paths), root

    def load(self, index: int, size: int | None) -> NDArray[np.uint8]:
        """As `ImageSet.load`, but whoever named the image is to know that it cannot be read."""
        try:
            return open_item(self._paths[index], self.channels, root=self._root, size=size)
        except BadImageError as error:
            raise ToolkitError(str(error)) from error

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return self._paths[index]


def torchvision_names() -> dict[str, list[str]]:
    """The data sets that come through torchvision, and the splits of each."""
    return {name: list(known.splits) for name, known in _TORCHVISION.items()}


@lru_cache(maxsize=4)
def _opened(word: str, root: str | None, channels: int, stamp: tuple[int, ...]) -> ImageSet:
    """Kept open, so that the ten hits of a search do not read an archive ten times."""
    return open_images(word, root=root, channels=channels)


def _stamp(path: str) -> tuple[int, ...]:
    """Changes when a file does: a set kept open must not outlive it."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _open(word: str, root: str, labels: Labels, channels: int | None) -> ImageSet:
    if is_object(word):
        raise missing_object("data", word)
    path = os.path.expanduser(word)
    if os.path.isdir(path):
        return _open_folder(path, labels, channels)
    suffix = os.path.splitext(path)[1].lower()
    if os.path.exists(path):
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            raise UsageError(f"'{word}' is neither a folder nor a regular file")
        if suffix == ".csv":
            return _open_manifest(path, None, channels)
        if suffix in (".npy", ".npz"):
            return _open_array_file(path, channels)
        raise UsageError(f"'{word}' is a file, but no .csv, .npy or .npz: for single images give their folder")
    head, _, tail = path.rpartition(":")
    if head.lower().endswith(".csv") and os.path.isfile(head):
        return _open_manifest(head, tail, channels)
    name, *options = word.split(":")
    name = name.lower().replace("-", "_")
    if name == "shapes":
        return _open_shapes(options, channels)
    if name == "clips":
        from ssl_toolkit.data.video import open_clips  # it imports this module

        return open_clips(word.partition(":")[2], channels)
    if name in _TORCHVISION:
        return _open_torchvision(name, options, root, channels)
    if os.sep in word or word.startswith((".", "~")) or suffix in (".csv", ".npy", ".npz") or head.endswith(".csv"):
        raise UsageError(f"no such file or folder: '{word}'")
    raise UsageError(
        f"{unknown_name('data set', name, ['shapes', 'clips', *_TORCHVISION])}; and no file or folder of that name"
    )


# --- files -----------------------------------------------------------------------------------------------------------


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

    def load(self, index: int, size: int | None) -> NDArray[np.uint8]:
        """As `ImageSet.load`."""
        return read_image(self._paths[index], size=size, channels=self.channels)

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return self._paths[index]


def list_images(folder: str | os.PathLike[str], suffixes: Iterable[str] = SUFFIXES) -> Iterator[bytes]:
    """Names of the images below a folder, relative to it, without opening one of them.

    Everything with an image's suffix that is no folder counts: what turns out to be a pipe or a dead link is reported
    as a bad image later instead of being missing in silence. Hidden names are skipped. Links to folders are followed;
    a folder that can be reached twice is listed once, so that loops end.

    Yields:
        Names as bytes, a folder's files first, in the order of their bytes, then its subfolders likewise.

    Raises:
        UsageError: A folder cannot be listed.
    """
    root = os.fsencode(folder)
    known = {os.fsencode(suffix) for suffix in suffixes}
    seen: set[tuple[int, int]] = set()
    waiting = [b""]
    while waiting:
        place = waiting.pop()
        try:
            status = os.stat(os.path.join(root, place))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            files, folders = [], []
            with os.scandir(os.path.join(root, place)) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    if _is_folder(entry):
                        folders.append(entry.name)
                    elif os.path.splitext(entry.name)[1].lower() in known:
                        files.append(entry.name)
        except OSError as error:
            where = os.fsdecode(os.path.join(root, place))
            raise UsageError(f"cannot list the folder '{where}': {error.strerror}") from error
        for name in sorted(files):
            yield os.path.join(place, name)
        waiting += [os.path.join(place, name) for name in sorted(folders, reverse=True)]


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _open_folder(folder: str, labels: Labels, channels: int | None) -> FileSet:
    folder = os.path.abspath(folder)
    tops: dict[bytes, int] = {}  # subfolder directly below -> its number, in order of appearance: sorted
    label = array("q")

    def names() -> Iterator[bytes]:
        for name in list_images(folder):
            top, inside, _ = name.partition(os.sep.encode())
            label.append(tops.setdefault(top, len(tops)) if inside else -1)
            yield name

    paths = PathList(folder, names())
    if not len(paths):
        raise UsageError(f"no images in '{folder}' or below it (known suffixes: {' '.join(sorted(SUFFIXES))})")
    numbers: NDArray[np.int64] = np.array(label, dtype=np.int64)
    classes = [os.fsdecode(top) for top in tops]
    loose = np.flatnonzero(numbers < 0)
    if labels == "folder" and len(loose):
        raise UsageError(f"labels by folder: '{paths[int(loose[0])]}' lies in no subfolder of '{folder}'")
    is_split = any(name.lower() in SPLIT_NAMES for name in classes)
    if labels == "none" or (labels == "auto" and (len(loose) or len(classes) < 2 or is_split)):
        return FileSet(paths, np.full(len(paths), -1, dtype=np.int64), None, channels)
    return FileSet(paths, numbers, classes, channels)


def _open_manifest(path: str, split: str | None, channels: int | None) -> FileSet:
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
    return FileSet(PathList(folder, (names[i] for i in chosen)), numbers, classes, channels)


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


# --- arrays ----------------------------------------------------------------------------------------------------------


class ArraySet(ImageSet):
    """Images in one array, in memory or mapped from a file.

    Args:
        name: What `path` puts before the ``#``: a file's path or a word.
        pixels: (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, uint16 or float in [0, 1].
        labels: (N,) int64, -1 unlabelled.
        classes: Names of the classes.
        channels: Channels wanted; None for what the array has.
        mapped: `pixels` is mapped from the file `name`: a worker maps it itself instead of being sent its contents.
    """

    def __init__(
        self,
        name: str,
        pixels: NDArray[np.generic],
        labels: NDArray[np.int64],
        classes: list[str] | None,
        channels: int | None,
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
        self.channels = native if channels is None else channels
        if self.channels != native and {self.channels, native} != {1, 3}:
            raise UsageError(f"{name}: images have {native} channels, {self.channels} are wanted")
        try:
            to_uint8(pixels[0])
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"_pixels": None} if self._mapped else {})

    def load(self, index: int, size: int | None) -> NDArray[np.uint8]:
        """As `ImageSet.load`."""
        if self._pixels is None:
            self._pixels = open_memmap(self._name, mode="r")
        if not 0 <= index < len(self):
            raise IndexError(index)
        pixels = np.array(self._pixels[index])  # a copy: the caller may write to it
        pixels = pixels[None] if self._channel_axis is None else np.moveaxis(pixels, self._channel_axis - 1, 0)
        try:
            return convert_channels(resize(to_uint8(pixels), size), self.channels)
        except ValueError as error:
            raise BadImageError(self.path(index), str(error)) from error

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"


def _channel_axis(name: str, shape: tuple[int, ...]) -> int | None:
    """Which axis holds the channels: none of (N, H, W), the shorter of the first and the last of (N, ?, ?, ?)."""
    if len(shape) not in (3, 4) or 0 in shape:
        raise UsageError(f"{name}: shape {shape} is none of (N, H, W), (N, H, W, C) and (N, C, H, W)")
    if len(shape) == 3:
        return None
    if shape[1] == shape[3]:
        raise UsageError(f"{name}: shape {shape} reads as (N, H, W, C) and as (N, C, H, W): give it unequal sides")
    return 1 if shape[1] < shape[3] else 3


def _open_array_file(path: str, channels: int | None) -> ArraySet:
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
    return ArraySet(path, pixels, numbers, classes, channels, mapped)


def _key(path: str, found: list[str], wanted: tuple[str, ...]) -> str:
    for key in wanted:
        if key in found:
            return key
    raise UsageError(f"{path}: no array named {' or '.join(wanted)} (it has: {', '.join(found) or 'nothing'})")


def numbered_labels(path: str, labels: NDArray[Any] | None, count: int) -> tuple[NDArray[np.int64], list[str] | None]:
    """Class numbers and names of labels that are numbers or text; -1 and empty text: no label.

    Raises:
        UsageError: Naming `path`, if they are something else or not `count`.
    """
    if labels is None:
        return np.full(count, -1, dtype=np.int64), None
    if labels.size != count or labels.ndim not in (1, 2):
        raise UsageError(f"{path}: {count} images, but labels of shape {labels.shape}")
    labels = labels.reshape(-1)
    if labels.dtype.kind == "U":
        classes, numbers = np.unique(labels, return_inverse=True)
        unlabelled = int("" in classes)  # it comes first
        return numbers.astype(np.int64) - unlabelled, [str(name) for name in classes[unlabelled:]]
    if labels.dtype.kind not in "iu" or int(labels.min()) < -1 or int(labels.max()) >= 1_000_000:
        raise UsageError(f"{path}: labels must be text, or class numbers from 0 (-1: no label), not {labels.dtype}")
    return labels.astype(np.int64), [str(i) for i in range(int(labels.max()) + 1)]


# --- shapes ----------------------------------------------------------------------------------------------------------


class ShapesSet(ImageSet):
    """The built-in rendered images (see `ssl_toolkit.data.shapes`): nothing on disk, nothing in memory."""

    def __init__(self, word: str, split: str, count: int, channels: int | None) -> None:
        self.word = word
        self._name = word
        self._split = split
        self.labels = np.arange(count, dtype=np.int64) % len(shapes.CLASSES)
        self.classes = list(shapes.CLASSES)
        self.channels = 3 if channels is None else channels
        check_channels(self.channels)

    def load(self, index: int, size: int | None) -> NDArray[np.uint8]:
        """As `ImageSet.load`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return convert_channels(shapes.render(self._split, index, size or shapes.NATIVE_SIZE), self.channels)

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"


def _open_shapes(options: list[str], channels: int | None) -> ShapesSet:
    if not 1 <= len(options) <= 2:
        raise UsageError("shapes needs a split and may have a count: shapes:train, shapes:test, shapes:train:2000")
    if options[0] not in shapes.COUNTS:
        raise unknown_name("split of shapes", options[0], shapes.COUNTS)
    count = shapes.COUNTS[options[0]]
    if len(options) == 2:
        if not options[1].isdecimal() or int(options[1]) < 1:
            raise UsageError(f"shapes:{options[0]}:{options[1]}: the count must be a whole number from 1")
        count = int(options[1])
    return ShapesSet(":".join(["shapes", *options]), options[0], count, channels)


# --- torchvision -----------------------------------------------------------------------------------------------------


def _samples(dataset: Any) -> Iterator[tuple[Any, int]]:
    """Path and label of each image of a data set that has a `loader`, by a loader that opens nothing."""
    dataset.loader = os.fspath
    return (dataset[i] for i in range(len(dataset)))


@dataclass(frozen=True)
class _Known:
    """A data set of torchvision.

    Attributes:
        build: Name of its class.
        splits: The class's arguments for each split.
        missing: What the user must fetch where torchvision cannot download.
        samples: Path and label of each image, for a data set of files.
    """

    build: str
    splits: dict[str, dict[str, Any]]
    missing: str = ""
    samples: Callable[[Any], Iterable[tuple[Any, int]]] = _samples


def _sorted_samples(dataset: Any) -> list[tuple[Any, int]]:
    """For a data set that torchvision lists in the order of the disk, which differs between machines."""
    return sorted(_samples(dataset))


def _omniglot_samples(dataset: Any) -> list[tuple[str, int]]:
    """As `_sorted_samples`; of Omniglot even the numbers of the classes depend on the disk."""
    dataset.classes = sorted(dataset._characters)
    number = {name: i for i, name in enumerate(dataset.classes)}
    return sorted((path, number[dataset._characters[label]]) for path, label in _samples(dataset))


def _caltech101_samples(dataset: Any) -> Iterator[tuple[str, int]]:
    folder = os.path.join(dataset.root, "101_ObjectCategories")
    for number, label in zip(dataset.index, dataset.y, strict=True):
        yield os.path.join(folder, dataset.categories[label], f"image_{number:04d}.jpg"), label


def _caltech256_samples(dataset: Any) -> Iterator[tuple[str, int]]:
    folder = os.path.join(dataset.root, "256_ObjectCategories")
    for number, label in zip(dataset.index, dataset.y, strict=True):
        yield os.path.join(folder, dataset.categories[label], f"{label + 1:03d}_{number:04d}.jpg"), label


def _named(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"split": name} for name in names}


_TRAIN_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_PLACES: dict[str, dict[str, Any]] = {"train": {"split": "train-standard"}, "val": {"split": "val"}}

_TORCHVISION = {
    "caltech101": _Known("Caltech101", {"all": {}}, samples=_caltech101_samples),
    "caltech256": _Known("Caltech256", {"all": {}}, samples=_caltech256_samples),
    "cifar10": _Known("CIFAR10", _TRAIN_FLAG),
    "cifar100": _Known("CIFAR100", _TRAIN_FLAG),
    "country211": _Known("Country211", _named("train", "valid", "test")),
    "dtd": _Known("DTD", _named("train", "val", "test")),
    "eurosat": _Known("EuroSAT", {"all": {}}),
    "fashion_mnist": _Known("FashionMNIST", _TRAIN_FLAG),
    "fgvc_aircraft": _Known("FGVCAircraft", _named("train", "val", "trainval", "test")),
    "flowers102": _Known("Flowers102", _named("train", "val", "test")),
    "food101": _Known("Food101", _named("train", "test")),
    "gtsrb": _Known("GTSRB", _named("train", "test"), samples=lambda dataset: dataset._samples),
    "imagenet": _Known(
        "ImageNet",
        _named("train", "val"),
        missing="ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_train.tar or ILSVRC2012_img_val.tar from image-net.org"
        " (already unpacked as folders? then give the folder instead of the name)",
    ),
    "imagenette": _Known("Imagenette", _named("train", "val")),
    "kmnist": _Known("KMNIST", _TRAIN_FLAG),
    "mnist": _Known("MNIST", _TRAIN_FLAG),
    "omniglot": _Known(
        "Omniglot",
        {"background": {"background": True}, "evaluation": {"background": False}},
        samples=_omniglot_samples,
    ),
    "oxford_pets": _Known(
        "OxfordIIITPet",
        _named("trainval", "test"),
        samples=lambda dataset: zip(dataset._images, dataset._labels, strict=True),
    ),
    # The 256-pixel version; the high-resolution one is five times the download for images that are shrunk anyway.
    "places365": _Known("Places365", {name: {**options, "small": True} for name, options in _PLACES.items()}),
    "places365_large": _Known("Places365", _PLACES),
    "stl10": _Known("STL10", _named("train", "test", "unlabeled", "train+unlabeled")),
    "sun397": _Known("SUN397", {"all": {}}, samples=_sorted_samples),
    "svhn": _Known("SVHN", _named("train", "test", "extra")),
    "usps": _Known("USPS", _TRAIN_FLAG),
}


def _open_torchvision(name: str, options: list[str], root: str, channels: int | None) -> ImageSet:
    known = _TORCHVISION[name]
    if not options and len(known.splits) == 1:
        options = list(known.splits)
    if len(options) != 1:
        raise UsageError(f"{name} needs a split: {' or '.join(f'{name}:{split}' for split in known.splits)}")
    if options[0] not in known.splits:
        raise unknown_name(f"split of {name}", options[0], known.splits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old pickles and .mat files make their readers talk
        dataset = _build(name, known, known.splits[options[0]], root)
    if not hasattr(dataset, "data"):
        return _torchvision_files(dataset, known, root, channels)
    labels = _numpy(dataset.targets if hasattr(dataset, "targets") else dataset.labels).astype(np.int64)
    return ArraySet(f"{name}:{options[0]}", _numpy(dataset.data), labels, _class_names(dataset, labels), channels)


def _numpy(values: Any) -> NDArray[Any]:
    """Arrays, tensors and lists: the data sets hold their values in all three."""
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values)


def _torchvision_files(dataset: Any, known: _Known, root: str, channels: int | None) -> FileSet:
    labels = array("q")
    prefix = os.fsencode(os.path.join(root, ""))

    def names() -> Iterator[bytes]:
        for path, label in known.samples(dataset):
            labels.append(label)
            yield os.fsencode(path).removeprefix(prefix)

    paths = PathList(root, names())
    numbers: NDArray[np.int64] = np.array(labels, dtype=np.int64)
    return FileSet(paths, numbers, _class_names(dataset, numbers), channels)


def _class_names(dataset: Any, labels: NDArray[np.int64]) -> list[str]:
    for attribute in ("classes", "categories"):
        if hasattr(dataset, attribute):
            return [name if isinstance(name, str) else ", ".join(name) for name in getattr(dataset, attribute)]
    return [str(i) for i in range(int(labels.max()) + 1)]


def _build(name: str, known: _Known, options: dict[str, Any], root: str) -> Any:
    """The data set from `root` or `root/name`, where it lies; else downloaded to `root/name`."""
    from torchvision import datasets  # a second to import, and only named sets need it

    build = getattr(datasets, known.build)
    own = os.path.join(root, name)
    reason: Exception | None = None
    for place in (root, own):
        if os.path.isdir(place):
            try:
                return build(place, **options)
            except Exception as error:  # not there, incomplete or damaged: the next place, then a fresh copy
                reason = error
    if known.missing:
        raise UsageError(f"{name} cannot be downloaded: put {known.missing} into '{own}'") from reason
    try:
        os.makedirs(own, exist_ok=True)
        return build(own, download=True, **options)
    # Servers, disks and archives fail with anything from URLError to BadZipFile; the user needs one answer to all.
    except Exception as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{name} is neither in '{root}' nor in '{own}', and the download failed ({cause}):"
            " give the folder it lies in as data root, or fetch it on a machine with network access"
        ) from error
