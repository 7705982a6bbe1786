"""From image sets to batches, in an order and with contents that never depend on the number of workers."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.cache import InMemory, OnDevice
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.reading import MAX_ASPECT, Fetch, Order, Transform, reader
from ssl_toolkit.data.streaming import Stream, StreamOrder
from ssl_toolkit.errors import ToolkitError, UsageError

NAMED = 64  # images whose names a checkpoint keeps


def full_batches(images: ImageSet, batch_size: int, world_size: int = 1) -> int:
    """Batches in an epoch of training, incomplete ones left out.

    Raises:
        UsageError: If there is none.
    """
    batches = len(images) // (batch_size * world_size)
    if not batches:
        raise UsageError(
            f"'{images.word}' has {len(images)} images, too few for one batch of {batch_size * world_size}: "
            f"give --batch-size {max(1, len(images) // world_size)} or less, or more images"
        )
    return batches


@contextlib.contextmanager
def readers_watched() -> Iterator[None]:
    """Tells in one line that a process which reads images has died; torch raises that wherever the program is.

    Raises:
        ToolkitError: One has.
    """
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"DataLoader worker .*(killed by signal|exited unexpectedly)", str(error)):
            raise
        raise ToolkitError(
            "a process that reads images has died, as when the system kills what takes too much memory: give fewer "
            "--workers, or more memory; a run goes on with --resume"
        ) from error


class ImageLoader:
    """Iterates over an image set as `Batch`es of images on the CPU.

    For training (`shuffle`), the order is a function of (seed, epoch), each iteration is the next epoch, incomplete
    batches are left out, and an image that cannot be read is replaced by the next one that can, so that a batch is
    always full. Images come whole (see `whole`), so that crops are cut from all of each of them. For evaluation, images
    come in their order, all of them, as their central squares, and those that cannot be read are left out.

    A `Stream` comes in the order of `StreamOrder`, and in place of an image that cannot be read, one of its batch.

    The loader knows its position and resumes from it (`state_dict`, `load_state_dict`). In evaluation, each iteration
    starts at the batch that `position` names, the first one.

    Args:
        images: What to read.
        size: Short side to which images are resized, pixels.
        batch_size: Images a batch (and rank).
        shuffle: Training if true, evaluation if not.
        seed: With the epoch, decides the order.
        workers: Processes that read; 0 reads in this one.
        bad: Receives the images that cannot be read; None makes a list with the default limit.
        transform: Applied to each image (C, h, w) in the worker, with a generator of its own that depends on
            (seed, epoch, index) alone.
        whole: Hand out images whole, padded to the largest of the batch, with their boxes, and not their central
            squares; None: for training. Of an image longer than 4:1, "whole" is the middle of that shape.
        rank: Which part of each global batch is ours.
        world_size: How many parts there are.
        device: A CUDA device to which batches are copied, one ahead of the step, on a stream of its own.

    Raises:
        UsageError: If training is left with no batch at all.

    Examples:
        >>> from ssl_toolkit.data import open_images
        >>> batches = ImageLoader(open_images("shapes:test:20"), size=32, batch_size=8)
        >>> [tuple(batch.image.shape) for batch in batches]
        [(8, 3, 32, 32), (8, 3, 32, 32), (4, 3, 32, 32)]
    """

    def __init__(
        self,
        images: ImageSet,
        size: int,
        *,
        batch_size: int = 256,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        bad: BadImages | None = None,
        transform: Transform | None = None,
        whole: bool | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.images, self.size, self.batch_size, self.shuffle = images, size, batch_size, shuffle
        self.total = len(images)
        self.bad = bad if bad is not None else BadImages(images)
        self.position = 0  # batches handed out so far, over all epochs
        # An image set in memory gains nothing from processes that copy it about.
        self.workers = 0 if isinstance(images, InMemory) else workers
        self._device = device if device is not None and device.type == "cuda" else None
        self._length = full_batches(images, batch_size, world_size) if shuffle else -(-self.total // batch_size)
        self._whole, self._transform = shuffle if whole is None else whole, transform
        # More bad images than this end the run, so no search for a substitute need go further.
        self._tries = self.bad.limit + 2 if shuffle else 1
        self._order: Order | StreamOrder
        if isinstance(images, Stream):
            self._order = StreamOrder(images, batch_size, shuffle, seed, rank, world_size)
        else:
            self._order = Order(self.total, batch_size, shuffle, seed, rank, world_size)
        longest = MAX_ASPECT * size if self._whole else size
        fetch = Fetch(images, size, longest, self._tries, seed, transform)
        self._reader = functools.partial(reader, fetch, self._order, self.workers)
        self._loader = self._reader()

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        self._order.epoch, self._order.start = divmod(self.position, len(self)) if self.shuffle else (0, self.position)
        batches = self._indexed() if self._on_device else self._read()
        for batch in batches if self._device is None or self._on_device else _sent_ahead(batches, self._device):
            self.position += self.shuffle
            if batch is not None:
                yield batch

    def close(self) -> None:
        """End the processes that read; the next iteration starts others.

        They live from epoch to epoch, and would outlive a training until Python's collector comes by, which closes what
        tells them to end before it tells them: five seconds each.
        """
        self._loader = self._reader()

    @property
    def _on_device(self) -> bool:
        return isinstance(self.images, OnDevice) and self.shuffle and self._whole and self._transform is None

    def _indexed(self) -> Iterator[Batch | None]:
        assert isinstance(self.images, OnDevice)
        for _, rows in self._order:
            found = self.images.readable(np.asarray(rows, np.int64), self._tries)
            yield self.images.batch(found) if len(found) else None

    def _read(self) -> Iterator[Batch | None]:
        for fetched in self._loader:
            self.bad.record(fetched.bad)
            index = np.asarray(fetched.rows, np.int64)
            yield (
                Batch(
                    torch.from_numpy(fetched.pixels),
                    torch.from_numpy(self.images.labels[index]),
                    torch.from_numpy(index),
                    None if fetched.box is None else torch.from_numpy(fetched.box),
                    fetched.captions,
                    None if fetched.sounds is None else torch.from_numpy(fetched.sounds),
                )
                if fetched.rows
                else None
            )

    def state_dict(self) -> dict[str, Any]:
        """The position, for a checkpoint, with what tells whether the images are the same."""
        state = {"position": self.position, "images": self.total, "names": self._names()}
        if isinstance(self._order, StreamOrder):
            state["place"] = self._order.place(*divmod(self.position, len(self)))
        return state

    def _names(self) -> list[str]:
        """Some of the images, or of a stream's shards, all over the set, without the folder, which may move."""
        shards = self.images.shards if isinstance(self.images, Stream) else None
        count = self.total if shards is None else len(shards)
        rows = np.linspace(0, count - 1, min(count, NAMED), dtype=np.int64)
        return [os.path.basename(self.images.path(int(row)) if shards is None else shards[row]) for row in rows]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position that `state_dict` gave.

        Raises:
            ToolkitError: If there are more or fewer images than then, or others, or in another order.
        """
        if state["images"] != self.total:
            raise ToolkitError(
                f"'{self.images.word}' has {self.total} images, the run to resume was trained on {state['images']}: "
                "bring the images back as they were, or start a new run from its encoder"
            )
        names = self._names()
        known = state.get("names", names)
        if len(names) != len(known):
            raise ToolkitError(
                f"'{self.images.word}' has {len(names)} shards, the run to resume was trained on {len(known)}: "
                "bring the shards back as they were, or start a new run from its encoder"
            )
        for now, before in zip(names, known, strict=True):
            if now != before:
                raise ToolkitError(
                    f"'{self.images.word}' has the image {now} where the run to resume had {before}: bring the images "
                    "back as they were, or start a new run from its encoder"
                )
        self.position = state["position"]
        if isinstance(self._order, StreamOrder):
            self._order.go_to(*divmod(self.position, len(self)), state["place"])


def _sent_ahead(batches: Iterator[Batch | None], device: torch.device) -> Iterator[Batch | None]:
    """Batches on a CUDA device: while the step runs, the next one is on its way, from pinned memory."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def sent(batch: Batch | None) -> Batch | None:
        if batch is None:
            return None
        pinned = batch.each(torch.Tensor.pin_memory)
        with torch.cuda.stream(stream):
            return pinned.to(device, non_blocking=True)

    def arrived(batch: Batch | None) -> Batch | None:
        step = torch.cuda.current_stream(device)
        step.wait_stream(stream)
        for part in batch or ():
            if isinstance(part, torch.Tensor):
                part.record_stream(step)
        return batch

    ready = next(batches, None)
    ready = sent(ready)
    for batch in batches:
        handed = arrived(ready)
        ready = sent(batch)
        yield handed
    yield arrived(ready)
