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
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import fsspec
import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.arrays import label_array, numbered_labels
from ssl_toolkit.data.columns import Named, named_columns
from ssl_toolkit.data.file_set import EncodedSet
from ssl_toolkit.data.image_set import Wanted
from ssl_toolkit.data.images import BadImageError, Content, in_brief
from ssl_toolkit.data.tar import samples
from ssl_toolkit.errors import UsageError
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
    labels, classes = numbered_labels(word, label := _joined([each.label for each in places]), len(label))
    return ShardSet(urls, places, labels, stated_classes(urls[0], classes), named, wanted)


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


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes of a file, from `start` to before `end`; in forked processes too, which must not share connections."""
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
    missing: list[str] = []
    try:
        for each in [pattern] if os.path.exists(pattern) else expand(pattern):
            url = each if "://" in each else os.path.abspath(os.path.expanduser(each))
            files, path = fsspec.core.url_to_fs(url)
            if "*" not in url and not files.isdir(path):
                (urls if files.exists(path) else missing).append(url)
                continue
            found = files.glob(path if "*" in url else path.rstrip("/") + "/*.tar")
            urls += sorted(files.unstrip_protocol(name) if "://" in url else name for name in found)
    except Exception as error:  # of any of fsspec's file systems: an unknown one, a missing package, no connection
        raise UsageError(f"{word}: {in_brief(error)}") from error
    if missing:
        raise UsageError(f"{word}: {len(missing)} of {len(missing) + len(urls)} shards are missing: {missing[0]}")
    if not urls:
        raise UsageError(f"{word}: no shards (.tar) there")
    return urls


def expand(pattern: str) -> Iterator[str]:
    """All that ``{000..099}`` and ``{a,b}`` in a pattern stand for.

    Example:
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


def stated_classes(url: str, found: list[str] | None) -> list[str] | None:
    """Names of the classes as the shards' folder states them, or what was `found`.

    Raises:
        UsageError: The statement is damaged, or of fewer classes.
    """
    try:
        stated = json.loads(fsspec.open(url.rpartition("/")[0] + "/" + CLASSES).open().read())
    except FileNotFoundError:
        return found
    except (OSError, ValueError):
        stated = None
    if not isinstance(stated, list) or len(found or ()) > len(stated):
        raise UsageError(f"{url.rpartition('/')[0]}/{CLASSES} does not name the classes of {url}: mend or remove it")
    return [str(name) for name in stated]


def _joined(labels: list[NDArray[Any]]) -> NDArray[Any]:
    """Labels of all shards, as text where some are."""
    if any(each.dtype.kind == "U" for each in labels):
        labels = [each if each.dtype.kind == "U" else np.where(each < 0, "", each.astype(str)) for each in labels]
    return np.concatenate(labels)


def _places(url: str, named: Named) -> Places:
    """Those of a shard: as its list says, if that is of this file and read as asked, else looked for."""
    files, path = fsspec.core.url_to_fs(url)
    listed = _listed(url, int(files.size(path))) if named.image is None and named.label is None else None
    if listed is not None:
        return listed
    try:
        with files.open(path, "rb") as file:
            found = list(samples(file, named.image, named.label, whole=False))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UsageError(f"{url}: cut short, damaged or no tar file ({in_brief(error)}): fetch it again") from error
    table = np.array([(each.offset, each.size) for each in found], np.int64).reshape(-1, 2)
    return Places(table[:, 0], table[:, 1], label_array([each.label for each in found]))


def _listed(url: str, size: int) -> Places | None:
    try:
        with fsspec.open(url.removesuffix(".tar") + LIST) as file:
            content = io.BytesIO(file.read())
        with np.load(content, allow_pickle=False) as table:
            found = Places(table["offset"], table["size"], table["label"])
            whole = int(table["shard_size"]) == size
    except Exception:  # it is not there, or no such list: the shard itself says as much
        return None
    fits = all(len(each) == len(found.offset) for each in found) and found.label.dtype.kind in "iU"
    return found if whole and fits and int((found.offset + found.size).max(initial=0)) <= size else None


def write_list(url: str, places: Places) -> None:
    """Write down where the images of a shard on disk lie."""
    with open(url.removesuffix(".tar") + LIST, "wb") as file:
        np.savez(file, **places._asdict(), shard_size=np.int64(os.path.getsize(url)))
