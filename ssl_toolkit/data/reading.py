"""What reads the images of a batch, in the workers or here: in what order, how large, and what could not be read."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ssl_toolkit.data.depth import Pixels, equally_deep
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.randomness import numpy_generator

T = TypeVar("T", covariant=True)

Boxes: TypeAlias = NDArray[np.int64]
Sounds: TypeAlias = NDArray[np.float16] | None
Transform: TypeAlias = Callable[[Pixels, np.random.Generator], Pixels]


class Fetched(NamedTuple):
    """What a worker hands over.

    Attributes:
        pixels: Of the images that were read.
        box: See `pad`.
        rows: Positions of these images.
        bad: Reasons for those that could not be read.
        captions: See `Batch`.
        sounds: Likewise.
    """

    pixels: Pixels
    box: Boxes | None
    rows: list[int]
    bad: dict[int, str]
    captions: list[str] | None
    sounds: Sounds


# Of an image that is longer, the middle is taken: one panorama would blow up the whole batch.
MAX_ASPECT = 4


def center_crop(image: Pixels, size: int) -> Pixels:
    """The central part of an image (C, H, W), each side cut to at most `size`."""
    top, left = (max(0, side - size) // 2 for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def pad(images: Sequence[Pixels]) -> tuple[Pixels, Boxes | None]:
    """Images (C, h, w) of any sizes as one array (N, C, H, W), each in the top left, zeros around it.

    Of images of several depths, all take the greatest.

    Returns:
        The array, and the sizes, (N, 2); None where the images are all of one size.
    """
    images = equally_deep(images)
    if len({image.shape for image in images}) == 1:
        return np.stack(images), None
    box = np.array([image.shape[1:] for image in images], np.int64)
    padded = np.zeros((len(images), images[0].shape[0], *box.max(axis=0)), images[0].dtype)
    for row, image in enumerate(images):
        padded[row, :, : image.shape[1], : image.shape[2]] = image
    return padded, box


class Order(Sampler[tuple[int, list[int]]]):
    """(epoch, positions of a batch's images) for each batch of the current epoch, from batch `start` on.

    Args:
        total: Images there are.
        batch_size: Images a batch (and rank).
        shuffle: In an order that (seed, epoch) decides, without the incomplete batch at the end.
        seed: See `shuffle`.
        rank: Which part of each global batch is ours.
        world_size: How many parts there are.
    """

    def __init__(
        self, total: int, batch_size: int, shuffle: bool = False, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.total, self.batch_size, self.shuffle, self.seed = total, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        if self.shuffle:
            order = numpy_generator(self.seed, "order", self.epoch).permutation(self.total)
            step = self.batch_size * self.world_size
            firsts = [b * step + self.rank * self.batch_size for b in range(self.start, self.total // step)]
        else:
            order = np.arange(self.total)
            firsts = list(range(self.start * self.batch_size, self.total, self.batch_size))
        for first in firsts:
            yield self.epoch, order[first : first + self.batch_size].tolist()


class Reading(Dataset[T]):
    """Reads images of a set, whatever it makes of them."""

    images: ImageSet


@dataclass(eq=False)
class Fetch(Reading[Fetched]):
    """Reads the images of a batch that `Order` names.

    Attributes:
        images: What is read.
        size: Short side to which images are resized, pixels.
        longest: What a side is cut to.
        tries: Images that are tried for each, one after another; 1: none stands in for one that cannot be read.
        seed: Of the generators that `transform` gets.
        transform: See `ImageLoader`.
    """

    images: ImageSet
    size: int
    longest: int
    tries: int = 1
    seed: int = 0
    transform: Transform | None = None

    def __getitem__(self, item: tuple[int, list[int]]) -> Fetched:
        epoch, indices = item
        self.images.expect(indices)
        bad: dict[int, str] = {}
        read: list[int] = []
        pixels: list[Pixels] = []
        sounds: list[Sounds] = []
        for place in range(len(indices)):
            for candidate in self._candidates(indices, place):
                try:
                    image, sound = self._read(candidate, epoch), self.images.sound(candidate)
                except BadImageError as error:
                    bad[int(candidate)] = error.reason
                else:
                    pixels.append(image)
                    sounds.append(sound)
                    read.append(candidate)
                    break
        padded, box = pad(pixels) if pixels else (np.empty((0, 0, 0, 0), np.uint8), None)
        captions = captions_of(self.images, read)
        # Of a stream the numbers alone, without the bytes.
        return Fetched(padded, box, [int(row) for row in read], bad, captions, stacked(sounds))

    def _candidates(self, indices: list[int], place: int) -> Iterable[int]:
        """The image at a place of a batch and what may stand in for it: the next ones, of a stream its batch's."""
        if self.images.indexed:
            return (index % len(self.images) for index in range(indices[place], indices[place] + self.tries))
        return (indices[place:] + indices[:place])[: self.tries]

    def _read(self, index: int, epoch: int) -> Pixels:
        image = center_crop(self.images.load(index, self.size), self.longest)
        if self.transform is not None:
            image = self.transform(image, numpy_generator(self.seed, "sample", epoch, index))
        return image


def captions_of(images: ImageSet, rows: Sequence[int]) -> list[str] | None:
    """The texts of some images, as `Batch.caption` has them."""
    found = [images.caption(row) for row in rows]
    return None if all(text is None for text in found) else [text or "" for text in found]


def stacked(sounds: Sequence[Sounds]) -> Sounds:
    """Sounds (mels, steps) of some images as one array, as `Batch.sound` has them."""
    heard = [sound for sound in sounds if sound is not None]
    return np.stack(heard) if heard else None


def reader(fetch: Reading[Any], order: Iterable[Any], workers: int) -> DataLoader[Any]:
    """Gives what `fetch` makes of each item of `order`; a `Fetch`, a `Fetched` of each batch."""
    return DataLoader(
        fetch,
        batch_size=None,  # the sampler's items are whole batches
        sampler=order,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_follow,
        persistent_workers=workers > 0,
        multiprocessing_context=None if fetch.images.forks or not workers else "spawn",
    )


def _follow(worker: int) -> None:
    """End this worker soon after the process that it reads for, for whom it would wait with a full pipe for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    number = parent.pid

    def watch() -> None:
        while os.getppid() == number:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="follow", daemon=True).start()


def _as_is(fetched: Any) -> Any:
    return fetched
