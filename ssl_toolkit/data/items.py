"""Single images, each by its name: a file, or a place in a set."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from functools import lru_cache

from ssl_toolkit.data.depth import Pixels, Range
from ssl_toolkit.data.image_set import ImageSet, unlabelled
from ssl_toolkit.data.images import BadImageError, read_image
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import ToolkitError, UsageError


def open_item(
    path: str,
    channels: int | None = 3,
    *,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    range: Range | None = None,
) -> Pixels:
    """Pixels of what `ImageSet.path` named.

    Args:
        path: A file, or a set's word and an index: ``"shapes:test#17"``.
        channels: Channels of the result; None: 3 of a file, of a set what it has.
        root: As in `open_images`.
        size: Length of the short side; None gives the image's own size.
        range: As in `open_images`.

    Returns:
        (channels, H, W) uint8, uint16 or float32, as deep as the image.

    Raises:
        BadImageError: The image cannot be read.
        UsageError: There is no such file, set or index.
    """
    place = re.fullmatch(r"(.+)#(\d+)", path, flags=re.DOTALL)
    if place is None and not os.path.lexists(path):
        raise UsageError(f"no such image: '{path}'")
    if place is None or os.path.lexists(path):
        return read_image(path, size=size, channels=channels or 3, range=range)
    images = _opened(place[1], None if root is None else os.fspath(root), channels, range, _stamp(path))
    index = int(place[2])
    if index >= len(images):
        raise UsageError(f"'{path}': the set has {len(images)} images, the last is #{len(images) - 1}")
    return images.load(index, size)


def state_of(path: str) -> os.stat_result | None:
    """State of the file that an image is, or of the one on disk that it lies in; None where there is none.

    Args:
        path: As of `ImageSet.path`: ``photos/a.jpg``, ``images.npy#3``, ``wds:/shards/a.tar,image=left.png#3``.
    """
    word = path.rpartition("#")[0]
    for each in (path, word, re.sub(r"(?s)^\w+:|,\w+=.*", "", word)) if word else (path,):
        with contextlib.suppress(OSError, ValueError):
            return os.stat(each)
    return None


class Items(ImageSet):
    """Images that are named one by one, without labels; one that cannot be read ends the reading.

    Args:
        paths: What `open_item` takes.
        channels: What `load` gives.
        root: As in `open_images`.
        range: As in `open_images`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        channels: int,
        root: str | os.PathLike[str] | None = None,
        range: Range | None = None,
    ) -> None:
        self.word, self.classes, self.channels, self.range = ", ".join(paths[:3]), None, channels, range
        self.labels = unlabelled(len(paths))
        self._paths, self._root = list(paths), root

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`, but whoever named the image is to know that it cannot be read."""
        try:
            return open_item(self._paths[index], self.channels, root=self._root, size=size, range=self.range)
        except BadImageError as error:
            raise ToolkitError(str(error)) from error

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return self._paths[index]


@lru_cache(maxsize=4)
def _opened(word: str, root: str | None, channels: int | None, range: Range | None, stamp: tuple[int, ...]) -> ImageSet:
    """Kept open, so that the ten hits of a search do not read an archive ten times."""
    return open_images(word, root=root, channels=channels, range=range)


def _stamp(path: str) -> tuple[int, ...]:
    """Changes when a file does: a set kept open must not outlive it."""
    status = state_of(path)
    return () if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)
