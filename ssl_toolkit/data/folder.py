"""A folder, searched for images at any depth; its subfolders may be classes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.file_set import FileSet, PathList
from ssl_toolkit.data.image_set import Wanted, unlabelled
from ssl_toolkit.data.images import SUFFIXES
from ssl_toolkit.errors import UsageError

# Subfolders of these names are parts of a data set, not classes.
SPLIT_NAMES = frozenset(
    (
        *("train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing", "eval"),
        *("extra", "unlabeled", "unlabelled"),
    )
)


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


def open_folder(folder: str, wanted: Wanted) -> FileSet:
    """The images below a folder; labels as `open_images` says.

    Raises:
        UsageError: There are none, or labels are wanted of a folder that has images outside its subfolders.
    """
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
    if wanted.labels == "folder" and len(loose):
        raise UsageError(f"labels by folder: '{paths[int(loose[0])]}' lies in no subfolder of '{folder}'")
    is_split = any(name.lower() in SPLIT_NAMES for name in classes)
    if wanted.labels == "none" or (wanted.labels == "auto" and (len(loose) or len(classes) < 2 or is_split)):
        return FileSet(paths, unlabelled(len(paths)), None, wanted)
    return FileSet(paths, numbers, classes, wanted)
