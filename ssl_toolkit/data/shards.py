"""Shards as WebDataset has them, tar files of images, read at any place: ``wds:shards-{000..099}.tar``.

Where each image lies is found once: from the list that ``ssl-toolkit pack`` writes beside a shard, else by a pass over
the headers. From then on an image is one read of a range, so that any order can be had, on disk and, through fsspec,
in an object store.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec
import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.arrays import label_array, numbered_labels
from ssl_toolkit.data.columns import Named, named_columns
from ssl_toolkit.data.file_set import EncodedSet
from ssl_toolkit.data.image_set import Wanted, unlabelled
from ssl_toolkit.data.images import BadImageError, Content, Source, in_brief
from ssl_toolkit.data.streaming import Stream
from ssl_toolkit.data.tar import MAX_IMAGE, Label, samples
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.files import write_atomic
from ssl_toolkit.progress import progress_bar

LIST, CLASSES = ".index.npz", "classes.json"  # beside a shard, and in their folder: what `pack` writes


class Places(NamedTuple):
    """Where the images of a shard lie in it.

    Attributes:
        offset: (n,) int64, bytes.
        size: (n,) int64, bytes.
        label: (n,) class numbers or text, -1 or "" where there is none.
    """

    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[Any]


def open_tar(path: str, wanted: Wanted) -> ShardSet:
    """The images of a single tar file, by its path."""
    return open_shards(f"wds:{path}", wanted)


def open_shards(word: str, wanted: Wanted) -> ShardSet:
    """The images of shards; see `open_images`.

    Raises:
        UsageError: A shard is missing, cut short or no tar file, or there are no images.
    """
    named = named_columns(word)
    urls = shard_urls(named.word)
    places: list[Places] = []
    with progress_bar(len(urls), "looking through shards", "shard", show=len(urls) > 1) as bar:
        for url in urls:
            places.append(_places(url, named))
            bar.update()
    if not sum(len(each.offset) for each in places):
        raise UsageError(f"{word}: no images in {len(urls)} shards, the first is {urls[0]}")
    found = _joined([each.label for each in places])
    if wanted.labels == "none":
        return ShardSet(urls, places, unlabelled(len(found)), None, named, wanted)
    labels, classes = _numbered(word, found, stated_classes(urls))
    if named.label is not None and (labels < 0).all():
        raise UsageError(f"{word}: no image has a file or a field '{named.label}' with its label")
    return ShardSet(urls, places, labels, classes, named, wanted)


class ShardSet(EncodedSet):
    """The images of shards.

    Args:
        urls: The shards.
        places: Where the images of each lie.
        labels: (N,) int64, -1 unlabelled.
        classes: Names of the classes.
        named: Which files are images.
        wanted: Channels and range.
    """

    def __init__(
        self,
        urls: list[str],
        places: list[Places],
        labels: NDArray[np.int64],
        classes: list[str] | None,
        named: Named,
        wanted: Wanted,
    ) -> None:
        self._urls, self._image = urls, "" if named.image is None else f",image={named.image}"
        self._first: NDArray[np.int64] = np.cumsum([0, *(len(each.offset) for each in places)])
        self._offset, self._size = (np.concatenate([each[column] for each in places]) for column in (0, 1))
        super().__init__(labels, classes, wanted)

    def source(self, index: int) -> Content:
        """The bytes of an image."""
        shard, name = self._shard(index), self.path(index)
        start, size = int(self._offset[index]), int(self._size[index])
        if size > MAX_IMAGE:
            raise BadImageError(name, f"the file is larger than {MAX_IMAGE:,} bytes")
        try:
            data = read_range(self._urls[shard], start, start + size)
        except Exception as error:  # a server's, a disk's
            raise BadImageError(name, in_brief(error)) from error
        if len(data) != size:
            raise BadImageError(name, f"the shard ends {size - len(data)} bytes too early")
        return Content(name, data)

    def path(self, index: int) -> str:
        """As `ImageSet.path`: the shard, and which of its images."""
        shard = self._shard(index)
        return f"wds:{self._urls[shard]}{self._image}#{index - self._first[shard]}"

    def _shard(self, index: int) -> int:
        if not 0 <= index < len(self._offset):
            raise IndexError(index)
        return int(np.searchsorted(self._first, index, "right")) - 1


def open_shard_stream(word: str, wanted: Wanted) -> ShardStream:
    """The images of shards, read from end to end; see `open_images`.

    Raises:
        UsageError: A shard is missing, or it is not known how many images there are.
    """
    named = named_columns(word)
    urls = shard_urls(named.word)
    count = wanted.count
    if count is None:
        listed = [_listed(url) for url in urls]
        count = sum(0 if each is None else len(each.offset) for each in listed)
        if any(each is None for each in listed):
            raise UsageError(
                f"{word}: say how many images an epoch has, as in stream:1000000:{word}; of shards that ssl-toolkit "
                "pack wrote it is known"
            )
    return ShardStream(urls, count, named, wanted)


class ShardStream(Stream):
    """The images of shards, from end to end; compressed ones too.

    Args:
        urls: The shards.
        count: See `Stream`.
        named: What it is called, and which files are images and labels.
        wanted: See `Stream`.
    """

    def __init__(self, urls: list[str], count: int, named: Named, wanted: Wanted) -> None:
        self._urls, self._named = urls, named
        classes = None if wanted.labels == "none" else stated_classes(urls)
        self._number = {name: number for number, name in enumerate(classes or ())}
        super().__init__(named.word, [f"wds:{url}" for url in urls], count, classes, wanted)

    def read(self, shard: int, start: int) -> Iterator[tuple[Source, int]]:
        """As `Stream.read`."""
        url = self._urls[shard]
        n = -1
        try:
            files, path = fsspec.core.url_to_fs(url)
            with files.open(path, "rb") as file:
                for n, image in enumerate(samples(file, self._named.image, self._named.label, whole=True)):
                    if n >= start:
                        yield Content(f"{self.shards[shard]}#{n}", image.data or b""), self._label(image.label, url)
        except ToolkitError:
            raise
        except Exception as error:  # a server's, a disk's, a damaged file's
            raise ToolkitError(
                f"{url}: it cannot be read beyond its first {n + 1} images ({in_brief(error)}): fetch it again; a run "
                "goes on with --resume"
            ) from error

    def _label(self, label: Label, url: str) -> int:
        if isinstance(label, str) and self._labelled:
            if label not in self._number:
                raise UsageError(
                    f"{url}: the label '{label}' is text, and a stream needs all names of classes before: write them "
                    f"as a list to {CLASSES} beside the shards, or give --labels none"
                )
            return self._number[label]
        return label if isinstance(label, int) else -1


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes of a file, from `start` to before `end`; in forked processes too, which must not share connections."""
    if "://" not in url:  # through fsspec it would take a fifth of the time that decoding takes
        with open(url, "rb") as file:
            file.seek(start)
            return file.read(end - start)
    files, path = fsspec.core.url_to_fs(url)
    data: bytes = files.cat_file(path, start=start, end=end)
    return data


def shard_urls(word: str) -> list[str]:
    """The shards of ``wds:PATTERN``: a tar file, several ``{000..099}``, a glob or a folder; on disk or by URL.

    Raises:
        UsageError: One of them is not there, or there is none.
    """
    pattern = word.partition(":")[2]
    urls: list[str] = []
    missing, empty = list[str](), list[str]()
    try:
        for each in [pattern] if os.path.exists(pattern) else expand(pattern):
            url = each if "://" in each else os.path.abspath(os.path.expanduser(each))
            files, path = fsspec.core.url_to_fs(url)
            if "*" not in url and not files.isdir(path):
                (urls if files.exists(path) else missing).append(url)
                continue
            there = files.glob(path if "*" in url else path.rstrip("/") + "/*.tar")
            found = sorted(name for name in there if not os.path.basename(name).startswith("."))  # half written
            empty += [] if found else [url]
            urls += [files.unstrip_protocol(name) if "://" in url else name for name in found]
    except Exception as error:  # of any of fsspec's file systems: an unknown one, a missing package, no connection
        raise UsageError(f"{word}: {in_brief(error)}") from error
    if missing:
        raise UsageError(f"{word}: {len(missing)} of {len(missing) + len(urls)} shards are missing: {missing[0]}")
    if empty or not urls:
        raise UsageError(f"{word}: no shards (.tar) there: {' '.join(empty[:1])}")
    return urls


def expand(pattern: str) -> Iterator[str]:
    """All that ``{000..099}`` and ``{a,b}`` in a pattern stand for.

    Examples:
        >>> list(expand("{train,val}-{09..10}.tar"))
        ['train-09.tar', 'train-10.tar', 'val-09.tar', 'val-10.tar']
    """
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        yield pattern
        return
    first, last, names = found.groups()
    parts = names.split(",") if names else [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
    for part in parts:
        yield from expand(pattern[: found.start()] + part + pattern[found.end() :])


def stated_classes(urls: Sequence[str]) -> list[str] | None:
    """Names of the classes as the folders of some shards state them; None where they do not.

    Raises:
        UsageError: A statement is damaged, or folders differ: a number would mean several classes.
    """
    folders = list(dict.fromkeys(url.rpartition("/")[0] for url in urls))
    stated = [_stated(folder) for folder in folders]
    for folder, classes in zip(folders, stated, strict=True):
        if classes != stated[0]:
            raise UsageError(
                f"{folders[0]} and {folder} state other classes: read them one by one, or give --labels none"
            )
    return stated[0]


def _stated(folder: str) -> list[str] | None:
    try:
        with fsspec.open(f"{folder}/{CLASSES}") as file:
            stated = json.load(file)
    except OSError:  # not there; some stores say so by denying it
        return None
    except ValueError:
        stated = None
    if not isinstance(stated, list):
        raise UsageError(f"{folder}/{CLASSES} is no list of names of classes: mend or remove it")
    return [str(name) for name in stated]


def _numbered(word: str, found: NDArray[Any], stated: list[str] | None) -> tuple[NDArray[np.int64], list[str] | None]:
    """Class numbers and names, see `numbered_labels`; the numbers of names are those that are stated, if any are.

    Raises:
        UsageError: A class is not among them.
    """
    labels, classes = numbered_labels(word, found, len(found))
    if stated is None or classes is None:
        return labels, stated or classes
    if found.dtype.kind == "U":
        number = {name: n for n, name in enumerate(stated)}
        others = [name for name in classes if name not in number]
        labels = np.array([*(number.get(name, -1) for name in classes), -1])[labels]  # -1, no label, is the last
    else:
        others = classes[len(stated) :]
    if others:
        raise UsageError(
            f"{word}: {CLASSES} beside the shards does not name the class '{others[0]}': mend or remove it"
        )
    return labels, stated


def _joined(labels: list[NDArray[Any]]) -> NDArray[Any]:
    """Labels of all shards, as text where some are."""
    if any(each.dtype.kind == "U" for each in labels):
        labels = [each if each.dtype.kind == "U" else np.where(each < 0, "", each.astype(str)) for each in labels]
    return np.concatenate(labels)


def _places(url: str, named: Named) -> Places:
    """Those of a shard: as its list says, if that is of this file and read as asked, else looked for."""
    files, path = fsspec.core.url_to_fs(url)
    listed = _listed(url) if named.image is None and named.label is None else None
    if listed is not None:
        return listed
    try:
        with files.open(path, "rb") as file:
            return places_in(file, named.image, named.label)
    except Exception as error:  # a server's, a disk's, what `tarfile` meets in a damaged file
        raise UsageError(f"{url}: cut short, damaged or no tar file ({in_brief(error)}): fetch it again") from error


def places_in(file: BinaryIO, image: str | None = None, label: str | None = None) -> Places:
    """Those of an open tar file; see `samples`.

    Raises:
        tarfile.TarError, OSError, EOFError: The file is cut short or no tar file.
    """
    found = list(samples(file, image, label, whole=False))
    table = np.array([(each.offset, each.size) for each in found], np.int64).reshape(-1, 2)
    return Places(table[:, 0], table[:, 1], label_array([each.label for each in found]))


def _listed(url: str) -> Places | None:
    try:
        files, path = fsspec.core.url_to_fs(url)
        size = int(files.size(path))
        with fsspec.open(list_of(url)) as file:
            content = io.BytesIO(file.read())
        with np.load(content, allow_pickle=False) as table:
            found = Places(table["offset"], table["size"], table["label"])
            whole = int(table["shard_size"]) == size
    except Exception:  # it is not there, or no such list: the shard itself says as much
        return None
    fits = all(len(each) == len(found.offset) for each in found) and found.label.dtype.kind in "iU"
    return found if whole and fits and int((found.offset + found.size).max(initial=0)) <= size else None


def list_of(shard: str | os.PathLike[str]) -> str:
    """Where the list of a shard's images is."""
    return os.fspath(shard).removesuffix(".tar") + LIST


def write_list(shard: str | os.PathLike[str], places: Places, **more: int | str) -> None:
    """Write down where the images of a shard on disk lie, with `more` facts, so that it is there or not."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **places._asdict(), shard_size=np.int64(os.path.getsize(shard)), **more)  # type: ignore[arg-type]

    write_atomic(list_of(shard), write)
