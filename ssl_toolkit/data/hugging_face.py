"""Data sets of Hugging Face's package `datasets` (the extra ``[hf]``): of the hub, saved on disk, or Parquet files.

They are memory-mapped Arrow tables, so that any order can be had. Images are decoded by our own loader, from the bytes.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.arrays import label_array, numbered_labels
from ssl_toolkit.data.columns import Named, image_column, label_column, named_columns
from ssl_toolkit.data.file_set import EncodedSet
from ssl_toolkit.data.image_set import Wanted, unlabelled
from ssl_toolkit.data.images import BadImageError, Content, Source, in_brief
from ssl_toolkit.data.streaming import Stream
from ssl_toolkit.errors import ToolkitError, UsageError, missing_extra, said_by, unknown_name

PARTS = 64


def open_hf(word: str, wanted: Wanted) -> HFSet:
    """A data set and its split, ``hf:NAME:train``; see `open_images`.

    Raises:
        UsageError: It or its split is not there, a column holds no images, or the package is not installed.
    """
    named = named_columns(word)
    return HFSet(load(named.word, streaming=False), named, wanted)


def open_parquet(path: str, wanted: Wanted) -> HFSet:
    """The images of a Parquet file."""
    return open_hf(f"hf:{os.path.abspath(path)}", wanted)


def open_hf_stream(word: str, wanted: Wanted) -> HFStream:
    """The same as `open_hf`, read from end to end.

    Raises:
        UsageError: As `open_hf`, or it is not known how many images there are.
    """
    named = named_columns(word)
    return HFStream(load(named.word, streaming=True), named, wanted)


def open_hf_object(given: Any, word: str, wanted: Wanted) -> HFSet | HFStream | None:
    """A `datasets.Dataset` or `datasets.IterableDataset` as an image set; None of all else."""
    if not type(given).__module__.startswith("datasets.") or not hasattr(given, "select_columns"):
        return None
    return HFSet(given, Named(word), wanted) if hasattr(given, "__len__") else HFStream(given, Named(word), wanted)


class HFSet(EncodedSet):
    """A `datasets.Dataset` as an image set.

    Args:
        table: The data set.
        named: What it is called, and its columns.
        wanted: Channels, range, and whether labels are read.

    Raises:
        UsageError: A column is not there or holds something else, or there are no images.
    """

    def __init__(self, table: Any, named: Named, wanted: Wanted) -> None:
        self._name = named.word
        image, label, names = columns_of(table, named)
        if not len(table):
            raise UsageError(f"{named.word}: there are no images in it")
        self._image, self._rows = image, encoded(table, image)
        numbers, classes = unlabelled(len(table)), None
        if label is not None and wanted.labels != "none":
            numbers, classes = _labels(table, label, named.word)
        super().__init__(numbers, names if classes is not None and names else classes, wanted)

    def source(self, index: int) -> Source:
        """The bytes of an image, or the path of its file."""
        if not 0 <= index < len(self._rows):
            raise IndexError(index)
        try:
            return stored(self._rows[index][self._image], self.path(index))
        except Exception as error:  # whatever a damaged table raises
            raise BadImageError(self.path(index), in_brief(error)) from error

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"


class HFStream(Stream):
    """A `datasets.IterableDataset` as an image set.

    Args:
        table: The data set; one that is on disk is read in up to `PARTS` parts.
        named: What it is called, and its columns.
        wanted: See `Stream`.

    Raises:
        UsageError: A column is not there or holds something else, or it does not say how many images it has.
    """

    def __init__(self, table: Any, named: Named, wanted: Wanted) -> None:
        count = wanted.count
        if hasattr(table, "to_iterable_dataset"):
            count, parts = count or len(table), min(len(table), PARTS)
            table = table.to_iterable_dataset(num_shards=max(1, parts))
        known = (table.info.splits or {}).get(str(table.split))
        count = count or (known.num_examples if known is not None else 0)
        if not count:
            raise UsageError(
                f"{named.word}: say how many images an epoch has, as in stream:1000000:{named.word}, or in Python as "
                "open_images(..., count=1000000)"
            )
        image, label, classes = columns_of(table, named)
        if wanted.labels == "none":
            label = classes = None
        if label is not None and classes is None and not _is_number(table.features[label].dtype):
            raise UsageError(
                f"{named.word}: the column '{label}' is text, and a stream needs all names of classes before: name "
                "another as ,label=COLUMN, or stream a data set that states them"
            )
        self._image, self._label, self._table = image, label, encoded(table, image, label)
        shards = [f"{named.word}, shard {n}" for n in range(table.num_shards)]
        super().__init__(named.word, shards, count, classes, wanted)

    def read(self, shard: int, start: int) -> Iterator[tuple[Source, int]]:
        """As `Stream.read`."""
        n = start - 1
        try:
            for n, row in enumerate(self._table.shard(len(self.shards), shard).skip(start), start):
                label = None if self._label is None else row[self._label]
                yield _held(row[self._image], f"{self.shards[shard]}#{n}"), label if isinstance(label, int) else -1
        except Exception as error:  # of the package, of the hub, of a damaged table
            raise ToolkitError(
                f"{self.shards[shard]}: it cannot be read beyond its first {n + 1} images ({in_brief(error)}); "
                "a run goes on with --resume"
            ) from error


def load(word: str, streaming: bool) -> Any:
    """What ``hf:NAME:SPLIT``, ``hf:NAME:CONFIGURATION:SPLIT`` or ``hf:PATH:SPLIT`` names, as the package gives it.

    Raises:
        UsageError: It is not there, or has no such split, or the package is not installed.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise missing_extra(f"'{word}'", "hf", "the package datasets") from error
    name, options = _parts(word.partition(":")[2])
    split = options[-1] if options else None
    if len(options) > 2:
        raise UsageError(f"{word}: give hf:NAME:SPLIT or hf:NAME:CONFIGURATION:SPLIT")
    try:
        if _is_saved(name):
            found = datasets.load_from_disk(name)
        elif name.lower().endswith(".parquet"):
            found = datasets.load_dataset("parquet", data_files=name, split=split, streaming=streaming)
        else:
            found = datasets.load_dataset(name, *options[:-1], split=split, streaming=streaming)
    except Exception as error:  # of the package, of the hub, of a file system
        raise UsageError(f"{word}: {said_by(error)}") from error
    if isinstance(found, Mapping):
        found = _split(found, word, split)
    elif split is not None and _is_saved(name):
        raise UsageError(f"{word}: it has no splits, leave ':{split}' away")
    return found


def _split(found: Mapping[str, Any], word: str, split: str | None) -> Any:
    if split is None and len(found) > 1:
        raise UsageError(f"{word} needs a split: {' or '.join(f'{word}:{each}' for each in found)}")
    if split is not None and split not in found:
        raise unknown_name(f"split of {word.removesuffix(':' + split)}", split, found)
    return next(iter(found.values())) if split is None else found[split]


def columns_of(table: Any, named: Named) -> tuple[str, str | None, list[str] | None]:
    """Column of the images, of the labels, and the names of the classes, if the table states them.

    Raises:
        UsageError: See `image_column` and `label_column`.
    """
    features = table.features
    if features is None:  # of some streams
        raise UsageError(f"{named.word}: it does not say what its columns are before it is read")
    kinds = {name: str(getattr(each, "dtype", None) or type(each).__name__) for name, each in features.items()}
    images = [name for name, each in features.items() if _is(each, "Image") or kinds[name].endswith("binary")]
    labels = [name for name, each in features.items() if _is(each, "ClassLabel") or _is_plain(kinds[name])]
    image = image_column(named.word, kinds, images, named.image)
    label = label_column(named.word, kinds, labels, named.label)
    return image, label, None if label is None else getattr(features[label], "names", None)


def encoded(table: Any, image: str, label: str | None = None) -> Any:
    """The table's column of images, which are not decoded, and that of labels if it is named."""
    table = table.select_columns([image] if label is None else [image, label]).with_format(None)
    if not _is(table.features[image], "Image"):
        return table
    return table.cast_column(image, type(table.features[image])(decode=False))


def stored(value: Any, name: str) -> Source:
    """The bytes or the path that a table holds.

    Raises:
        ValueError: It holds neither.
    """
    path = None
    if isinstance(value, Mapping):
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, bytes):
        return Content(name, value)
    if path is None:
        raise ValueError("the table holds no image here")
    return str(path)


def _held(value: Any, name: str) -> Source:
    """As `stored`; what is no image is told when it is to be decoded."""
    try:
        return stored(value, name)
    except ValueError:
        return Content(name, b"")


def _labels(table: Any, column: str, word: str) -> tuple[NDArray[np.int64], list[str] | None]:
    found = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return numbered_labels(word, label_array(found), len(found))


def _is(feature: Any, kind: str) -> bool:
    return type(feature).__name__ == kind  # whose class an import of the package would bring


def _is_plain(kind: str) -> bool:
    return _is_number(kind) or kind in ("string", "large_string")


def _is_number(kind: str) -> bool:
    return kind.startswith(("int", "uint"))


def _parts(text: str) -> tuple[str, list[str]]:
    """Name or path of a data set, and what stands behind its colons: a path that is there may hold some itself."""
    path = os.path.expanduser(text)
    if os.path.exists(path):
        return os.path.abspath(path), []
    head, _, split = path.rpartition(":")
    if head and os.path.exists(head):
        return os.path.abspath(head), [split]
    if "://" in text:
        scheme, _, rest = text.partition("://")
        place, *options = rest.split(":")
        return f"{scheme}://{place}", options
    name, *options = text.split(":")
    return name, options


def _is_saved(name: str) -> bool:
    return _has(name, "dataset_dict.json") or _has(name, "state.json")


def _has(folder: str, file: str) -> bool:
    if "://" not in folder:
        return os.path.isfile(os.path.join(folder, file))
    import fsspec

    files, path = fsspec.core.url_to_fs(f"{folder}/{file}")
    return bool(files.exists(path))
