"""Sources that are read from end to end, shard by shard, because no place in them can be looked up.

The bytes are read in this process, one block ahead, and decoded by the workers. So the order is a function of (seed,
epoch) and of the shards alone: each epoch goes through them in an order of its own, each process that trains takes
every so manyth of them, and what is read is shuffled within blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.file_set import EncodedSet
from ssl_toolkit.data.image_set import ImageSet, Wanted, unlabelled
from ssl_toolkit.data.images import Content, Source
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.randomness import numpy_generator

BLOCK = 2048  # images that are shuffled together
FIRST = 1024  # images that are kept, for what only looks at some
FIRST_BYTES = 1 << 28  # of them, from which on no more are

T = TypeVar("T")


class Held(int):
    """The position of an image that has been read, with its bytes; see `Stream.load`."""

    source: Source

    @classmethod
    def of(cls, index: int, source: Source) -> Held:
        """An image at a position."""
        held = cls(index)
        held.source = source
        return held


class FirstImages(EncodedSet):
    """The first images of a stream, in memory."""

    def __init__(
        self, sources: list[Source], names: list[str], labels: list[int], classes: list[str] | None, wanted: Wanted
    ) -> None:
        self._sources, self._names = sources, names
        super().__init__(np.array(labels, np.int64), classes, wanted)

    def source(self, index: int) -> Source:
        """The bytes of an image."""
        return self._sources[index]

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return self._names[index]


class Stream(ImageSet):
    """Images that are read from end to end. Labels and names of those that have been read are known, of others not.

    Args:
        word: What it is called.
        shards: Names of the shards.
        count: Images of an epoch; in training they may be fewer or more than there are.
        classes: Names of the classes.
        wanted: Channels, range, and whether labels are read.

    Raises:
        UsageError: There are no images.
    """

    indexed = False

    def __init__(self, word: str, shards: Sequence[str], count: int, classes: list[str] | None, wanted: Wanted) -> None:
        self.word, self.shards, self.classes = word, shards, classes
        self.labels = unlabelled(count)
        self._labelled, self._stated = wanted.labels != "none", None if classes is None else len(classes)
        self._numbers: NDArray[np.int64] | None = None
        self._places = np.zeros((count, 2), np.int64)  # shard, and position in it
        found, held = list[tuple[int, int, Source, int]](), 0
        for image in islice(self.all(), min(FIRST, count)):
            found.append(image)
            held += len(image[2].data) if isinstance(image[2], Content) else 0
            if held >= FIRST_BYTES:
                break
        if not found:
            raise UsageError(f"{word}: there are no images in it")
        names = [self._name(shard, place) for shard, place, _, _ in found]
        labels = [label if self._labelled else -1 for *_, label in found]
        self._first = FirstImages([source for _, _, source, _ in found], names, labels, classes, wanted)
        self._first.word = word
        self.channels, self.dtype, self.range = self._first.channels, self._first.dtype, self._first.range

    @abstractmethod
    def read(self, shard: int, start: int) -> Iterator[tuple[Source, int]]:
        """The images of a shard from position `start` on, not decoded, each with its class number or -1.

        Raises:
            ToolkitError: The shard cannot be read further.
        """

    def all(self) -> Iterator[tuple[int, int, Source, int]]:
        """The images of all shards, one after another: shard, position in it, bytes and label."""
        for shard in range(len(self.shards)):
            for place, image in enumerate(self.read(shard, 0)):
                yield shard, place, *image

    def few(self) -> ImageSet:
        """The first images."""
        return self._first

    def renumber(self, numbers: NDArray[np.int64], classes: list[str]) -> None:
        """As `ImageSet.renumber`, of labels that are yet to come."""
        self._numbers, self.classes = numbers, classes

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`, of a position that is `Held`."""
        if not isinstance(index, Held):
            self.require_positions()
        assert isinstance(index, Held)
        return self._first.decoded(index.source, size)

    def path(self, index: int) -> str:
        """As `ImageSet.path`, of a position that has been read."""
        return self._name(*self._places[index].tolist())

    def held(self, index: int, shard: int, place: int, source: Source, label: int) -> Held:
        """An image that was read, as one at position `index`.

        Raises:
            ToolkitError: Its label is none of the classes.
        """
        self._places[index] = shard, place
        if self._stated is not None and label >= self._stated:
            raise ToolkitError(
                f"{self._name(shard, place)}: its label is {label}, and there are {self._stated} classes"
            )
        known = self._labelled and label >= 0  # an earlier epoch had another image at this position
        self.labels[index] = -1 if not known else label if self._numbers is None else self._numbers[label]
        return Held.of(index, source)

    def _name(self, shard: int, place: int) -> str:
        return f"{self.shards[shard]}#{place}"


class StreamOrder(Sampler[tuple[int, list[int]]]):
    """(epoch, images of a batch) for each batch of the current epoch, from batch `start` on; as `Order` for streams.

    Args:
        stream: The images.
        batch_size: Images a batch (and rank).
        shuffle: In an order that (seed, epoch) decides, without the incomplete batch at the end; beginning anew where
            the shards have fewer images than an epoch.
        seed: See `shuffle`.
        rank: Which part of the shards is ours.
        world_size: How many parts there are.

    Raises:
        UsageError: There are fewer shards than parts.
    """

    def __init__(self, stream: Stream, batch_size: int, shuffle: bool, seed: int, rank: int, world_size: int) -> None:
        if len(stream.shards) < world_size:
            raise UsageError(f"'{stream.word}' has {len(stream.shards)} shards, too few for {world_size} processes")
        self.stream, self.batch_size, self.shuffle, self.seed = stream, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0
        self._batches = max(1, BLOCK // batch_size)  # of a block
        # Where blocks begin that have been read: epoch and block to turn (shards done before) and position in a shard.
        self._marks: dict[tuple[int, int], tuple[int, int]] = {}

    def place(self, epoch: int, batch: int) -> dict[str, int] | None:
        """Where to go on reading from a batch on, for a checkpoint; None where that is not known."""
        mark = self._marks.get((epoch, batch // self._batches))
        return None if mark is None else {"rank": self.rank, "turn": mark[0], "position": mark[1]}

    def go_to(self, epoch: int, batch: int, place: dict[str, int] | None) -> None:
        """Take what `place` gave; of nothing or another process, the epoch is read again up to there."""
        if place is not None and place["rank"] == self.rank:
            self._marks[epoch, batch // self._batches] = place["turn"], place["position"]

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        if not self.shuffle:
            yield from self._in_order()
            return
        self._marks = {key: mark for key, mark in self._marks.items() if key[0] == self.epoch}
        first = self.start // self._batches
        begin = first if (self.epoch, first) in self._marks else 0
        for block, images in _ahead(self._blocks(begin)):
            if block < first:
                continue
            order = numpy_generator(self.seed, "order", self.epoch, self.rank, block).permutation(len(images))
            for batch, rows in enumerate(order.reshape(-1, self.batch_size).tolist(), block * self._batches):
                if batch >= self.start:
                    index = (batch * self.world_size + self.rank) * self.batch_size
                    yield self.epoch, [self.stream.held(index + i, *images[row]) for i, row in enumerate(rows)]

    def _in_order(self) -> Iterator[tuple[int, list[int]]]:
        images = islice(enumerate(islice(self.stream.all(), len(self.stream))), self.start * self.batch_size, None)
        while batch := [self.stream.held(index, *image) for index, image in islice(images, self.batch_size)]:
            yield self.epoch, list[int](batch)

    def _blocks(self, block: int) -> Iterator[tuple[int, list[tuple[int, int, Source, int]]]]:
        """Number and images of the blocks of this epoch: shard, position in it, bytes and label."""
        batches = len(self.stream) // (self.batch_size * self.world_size)
        turn, position = self._marks.setdefault((self.epoch, block), (0, 0))
        reading = self._turns(turn, position)
        while (left := batches - block * self._batches) > 0:
            found = list(islice(reading, min(left, self._batches) * self.batch_size))
            block += 1
            self._marks[self.epoch, block] = found[-1][0], found[-1][2] + 1
            yield block - 1, [image[1:] for image in found]

    def _turns(self, turn: int, position: int) -> Iterator[tuple[int, int, int, Source, int]]:
        """What this process reads, without end: turn, shard, position in it, bytes and label."""
        empty = 0
        while True:
            again, which = divmod(turn, len(range(self.rank, len(self.stream.shards), self.world_size)))
            order = numpy_generator(self.seed, "shards", self.epoch, again).permutation(len(self.stream.shards))
            shard = int(order[self.rank :: self.world_size][which])
            empty += 1
            for n, image in enumerate(self.stream.read(shard, position), position):
                empty = 0
                yield turn, shard, n, *image
            if empty > len(self.stream.shards):
                raise ToolkitError(f"the shards of '{self.stream.word}' that process {self.rank} reads hold no images")
            turn, position = turn + 1, 0


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = thread.submit(next, items, None)
            yield item
