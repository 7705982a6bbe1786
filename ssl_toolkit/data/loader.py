"""From image sets to uint8 batches, in an order and with contents that never depend on the number of workers."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.sources import ImageSet
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.progress import progress_bar
from ssl_toolkit.randomness import numpy_generator

Transform: TypeAlias = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]

Pixels: TypeAlias = NDArray[np.uint8]
Boxes: TypeAlias = NDArray[np.int64]

# What a worker hands over: pixels, their boxes, positions of the images that were read, reasons for those that could
# not be.
_Fetched: TypeAlias = tuple[Pixels, Boxes | None, list[int], dict[int, str]]

# Of an image that is longer, the middle is taken: one panorama would blow up the whole batch.
MAX_ASPECT = 4


def center_crop(image: Pixels, size: int) -> Pixels:
    """The central part of an image (C, H, W), each side cut to at most `size`."""
    top, left = (max(0, side - size) // 2 for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def pad(images: Sequence[Pixels]) -> tuple[Pixels, Boxes | None]:
    """Images (C, h, w) of any sizes as one array (N, C, H, W), each in the top left, zeros around it.

    Returns:
        The array, and the sizes, (N, 2); None where the images are all of one size.
    """
    if len({image.shape for image in images}) == 1:
        return np.stack(images), None
    box = np.array([image.shape[1:] for image in images], np.int64)
    padded = np.zeros((len(images), images[0].shape[0], *box.max(axis=0)), np.uint8)
    for row, image in enumerate(images):
        padded[row, :, : image.shape[1], : image.shape[2]] = image
    return padded, box


def read_some(images: ImageSet, order: Iterable[int], count: int, size: int | None = None) -> list[Pixels]:
    """Up to `count` images (C, H, W), the first in `order` that can be read, with `size` for their short side."""
    read: list[Pixels] = []
    for index in order:
        if len(read) == count:
            break
        with contextlib.suppress(BadImageError):
            read.append(images.load(int(index), size))
    return read


class BadImages:
    """The list of images that could not be read, on disk as it grows, and the limit to it.

    Args:
        images: The image set that is being read.
        file: CSV file with a path and a reason a line; existing lines are kept. None keeps the list in memory.
        max_rate: Share of the image set that may be bad, in [0, 1].
        total: Images that the share is of, where `images` are a part of them; None: all of `images`.
    """

    def __init__(
        self, images: ImageSet, file: Path | None = None, max_rate: float = 0.01, total: int | None = None
    ) -> None:
        self.images, self.file, self.max_rate = images, file, max_rate
        self.total = len(images) if total is None else total
        self.reasons: dict[str, str] = {}
        if file is not None and file.exists():
            with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
                rows = [row for row in csv.reader(lines) if len(row) == 2]  # the last may be torn
                self.reasons = dict(rows[1:])

    def __len__(self) -> int:
        return len(self.reasons)

    def record(self, bad: dict[int, str]) -> None:
        """Add images by position, with the reason; each is listed once.

        Raises:
            ToolkitError: If more than `max_rate` of the image set is bad.
        """
        new = {self.images.path(index): reason for index, reason in bad.items()}
        new = {path: reason for path, reason in new.items() if path not in self.reasons}
        if not new:
            return
        self.reasons |= new
        if self.file is not None:
            fresh = not self.file.exists() or not self.file.stat().st_size
            with self.file.open("a", newline="", encoding="utf-8", errors="surrogateescape") as lines:
                writer = csv.writer(lines)
                writer.writerows(([("path", "reason")] if fresh else []) + list(new.items()))
        if len(self) > self.max_rate * self.total:
            path, reason = next(iter(self.reasons.items()))
            raise ToolkitError(
                f"{len(self)} of the {self.total} images of '{self.images.word}' cannot be read, more than "
                f"{self.max_rate:.1%}; the first is {path}: {reason}. Mend or remove them, or raise --max-bad-rate"
                + (f"; all are listed in {self.file}" if self.file else "")
            )


class InMemory(ImageSet):
    """An image set whose pixels have all been read: `load` is a look-up.

    Args:
        images: What to read.
        size: Short side to which images are resized.
        bad: Receives the images that cannot be read.
        workers: Processes that read.
        progress: Shows a progress bar.
    """

    def __init__(self, images: ImageSet, size: int, bad: BadImages, workers: int = 0, progress: bool = False) -> None:
        self.word, self.classes, self.labels = images.word, images.classes, images.labels
        self.channels, self.frames = images.channels, images.frames
        self.images, self.size = images, size
        self._pixels: list[Pixels | None] = [None] * len(images)
        loader = ImageLoader(images, size, batch_size=64, workers=workers, bad=bad, whole=True)
        with progress_bar(len(images), "reading images", "image", progress) as bar:
            for batch in loader:
                # Images of one size stay rows of their batch.
                images_read: Iterable[Pixels] = batch.image.numpy()
                if batch.box is not None:
                    sizes = batch.box.tolist()
                    images_read = [row[:, :h, :w].copy() for row, (h, w) in zip(images_read, sizes, strict=True)]
                for index, pixels in zip(batch.index.tolist(), images_read, strict=True):
                    self._pixels[index] = pixels
                bar.update(len(batch.index))
        self._reasons = {i: bad.reasons[images.path(i)] for i, pixels in enumerate(self._pixels) if pixels is None}

    def path(self, index: int) -> str:
        """Where the image came from."""
        return self.images.path(index)

    def load(self, index: int, size: int | None) -> Pixels:
        """The pixels (C, H, W) of image `index`; `size` must be the one that was read."""
        pixels = self._pixels[index]
        if pixels is None:
            raise BadImageError(self.path(index), self._reasons[index])
        if size != self.size:
            raise ValueError(f"images were read at {self.size} px, asked for {size}")
        return pixels


class OnDevice(InMemory):
    """An image set in memory that also lies on a device, as bytes: a batch is an index.

    Args:
        images: What to read.
        size: Short side to which images are resized.
        bad: Receives the images that cannot be read.
        device: Where they lie.
        workers: Processes that read.
        progress: Shows a progress bar.
    """

    def __init__(
        self,
        images: ImageSet,
        size: int,
        bad: BadImages,
        device: torch.device,
        workers: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(images, size, bad, workers, progress)
        empty = np.zeros((self.channels, 0, 0), np.uint8)
        whole = [empty if pixels is None else pixels for pixels in self._pixels]
        self.sizes = np.array([pixels.shape[1:] for pixels in whole], np.int64).reshape(-1, 2)
        self._readable = np.array([pixels is not None for pixels in self._pixels])
        self._device_labels = torch.from_numpy(self.labels).to(device)
        self._first = torch.from_numpy(np.cumsum([0, *self.sizes.prod(axis=1)])[:-1]).to(device)
        self._device_sizes = torch.from_numpy(self.sizes).to(device)
        if self._readable.all() and len(np.unique(self.sizes, axis=0)) == 1:
            stored = np.stack(whole)  # (N, C, H, W)
        else:  # one pixel after the other, whatever the sizes: (pixels of all, C)
            stored = np.concatenate([pixels.reshape(self.channels, -1).T for pixels in whole])
        self.pixels = torch.from_numpy(stored).to(device)

    def readable(self, rows: NDArray[np.int64], tries: int) -> NDArray[np.int64]:
        """In the place of an image that cannot be read, the next one that can; left out if `tries` find none."""
        found = []
        for row in rows.tolist():
            candidates = ((row + step) % len(self) for step in range(tries))
            found += [each for each in candidates if self._readable[each]][:1]
        return np.array(found, np.int64)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The images at `rows`, all of them readable, as the loader gives them: whole, and padded where they differ."""
        device = self.pixels.device
        index = torch.from_numpy(rows)
        index = index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index.to(device)
        label = self._device_labels.index_select(0, index)
        if self.pixels.dim() == 4:
            return Batch(self.pixels.index_select(0, index), label, index)
        sizes = self.sizes[rows]
        height, width = sizes.max(axis=0).tolist()
        box = self._device_sizes.index_select(0, index)
        y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        own_height, own_width = box[:, 0, None, None], box[:, 1, None, None]
        place = self._first.index_select(0, index)[:, None, None] + y * own_width + x
        inside = (y < own_height) & (x < own_width)
        image = self.pixels[place.where(inside, torch.zeros_like(place))] * inside[..., None]
        equal = bool((sizes == sizes[0]).all())
        return Batch(image.permute(0, 3, 1, 2).contiguous(), label, index, None if equal else box)


CACHE_LIMIT = 2 * 2**30  # bytes
DEVICE_SHARE = 0.25  # of the device's free memory


def fits_in_memory(images: ImageSet, size: int, cache: str = "auto") -> bool:
    """Whether `cached` keeps the images in memory."""
    return cache in ("memory", "device") or (cache == "auto" and _bytes(images, size) <= CACHE_LIMIT)


def _bytes(images: ImageSet, size: int) -> float:
    # Photographs are 3:2 at the longest, most of them.
    return len(images) * images.channels * size * size * 1.5


def fits_on_device(images: ImageSet, size: int, cache: str, device: torch.device) -> bool:
    """Whether `cached` also keeps the images on the device."""
    if cache != "auto" or device.type != "cuda":
        return cache == "device"
    free, _ = torch.cuda.mem_get_info(device)
    return fits_in_memory(images, size) and _bytes(images, size) <= DEVICE_SHARE * free


def cached(
    images: ImageSet,
    size: int,
    bad: BadImages,
    cache: str = "auto",
    workers: int = 0,
    progress: bool = False,
    device: torch.device | None = None,
) -> ImageSet:
    """The images decoded once and kept in memory or on a device, or as they are.

    Args:
        images: What to read.
        size: Short side to which images are resized, pixels.
        bad: Receives the images that cannot be read.
        cache: ``memory`` keeps them, ``device`` keeps them on the device too, ``none`` does not; ``auto`` keeps up to
            2 GiB, on a CUDA device where a quarter of its free memory suffices.
        workers: Processes that read.
        progress: Shows a progress bar.
        device: Where the images are needed; None: on the CPU, where memory is all there is.
    """
    if device is not None and fits_on_device(images, size, cache, device):
        return OnDevice(images, size, bad, device, workers, progress)
    return InMemory(images, size, bad, workers, progress) if fits_in_memory(images, size, cache) else images


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


class Subset(ImageSet):
    """A part of an image set, in the order given.

    Args:
        images: The whole.
        rows: Positions in it, (n,) int64.
    """

    def __init__(self, images: ImageSet, rows: NDArray[np.int64]) -> None:
        self.word, self.classes = images.word, images.classes
        self.channels, self.frames = images.channels, images.frames
        self.images, self.rows, self.labels = images, rows, images.labels[rows]

    def path(self, index: int) -> str:
        """Where the image came from."""
        return self.images.path(int(self.rows[index]))

    def load(self, index: int, size: int | None) -> Pixels:
        """Pixels (C, H, W) of the part's image `index`."""
        return self.images.load(int(self.rows[index]), size)


class ImageLoader:
    """Iterates over an image set as `Batch`es of uint8 images on the CPU.

    For training (`shuffle`), the order is a function of (seed, epoch), each iteration is the next epoch, incomplete
    batches are left out, and an image that cannot be read is replaced by the next one that can, so that a batch is
    always full. Images come whole (see `whole`), so that crops are cut from all of each of them. For evaluation, images
    come in their order, all of them, as their central squares, and those that cannot be read are left out.

    The loader knows its position and resumes from it (`state_dict`, `load_state_dict`).

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
        self._device = device if device is not None and device.type == "cuda" else None
        whole = shuffle if whole is None else whole
        self.images, self.size, self.batch_size, self.shuffle = images, size, batch_size, shuffle
        self.total = len(images)
        self.bad = bad if bad is not None else BadImages(images)
        self.position = 0  # batches handed out so far, over all epochs
        self._length = full_batches(images, batch_size, world_size) if shuffle else -(-self.total // batch_size)
        # An image set in memory gains nothing from processes that copy it about.
        self.workers = workers = 0 if isinstance(images, InMemory) else workers
        self._whole, self._transform = whole, transform
        # More bad images than this end the run, so no search for a substitute need go further.
        self._tries = int(self.bad.max_rate * len(images)) + 2
        self._order = _Order(self.total, batch_size, shuffle, seed, rank, world_size)
        self._loader: DataLoader[Any] = DataLoader(
            _Fetch(
                images,
                size,
                longest=MAX_ASPECT * size if whole else size,
                substitute=shuffle,
                seed=seed,
                transform=transform,
                tries=self._tries,
            ),
            batch_size=None,  # the sampler's items are whole batches
            sampler=self._order,
            num_workers=workers,
            collate_fn=_as_is,
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        self._order.epoch, self._order.start = divmod(self.position, len(self)) if self.shuffle else (0, 0)
        batches = self._indexed() if self._on_device else self._read()
        for batch in batches if self._device is None or self._on_device else _sent_ahead(batches, self._device):
            self.position += self.shuffle
            if batch is not None:
                yield batch

    @property
    def _on_device(self) -> bool:
        return isinstance(self.images, OnDevice) and self.shuffle and self._whole and self._transform is None

    def _indexed(self) -> Iterator[Batch | None]:
        assert isinstance(self.images, OnDevice)
        for _, rows in self._order:
            found = self.images.readable(np.asarray(rows, np.int64), self._tries)
            yield self.images.batch(found) if len(found) else None

    def _read(self) -> Iterator[Batch | None]:
        for pixels, box, indices, bad in self._loader:
            self.bad.record(bad)
            index = np.asarray(indices, np.int64)
            yield (
                Batch(
                    torch.from_numpy(pixels),
                    torch.from_numpy(self.images.labels[index]),
                    torch.from_numpy(index),
                    None if box is None else torch.from_numpy(box),
                )
                if indices
                else None
            )

    def state_dict(self) -> dict[str, int]:
        """The position, for a checkpoint."""
        return {"position": self.position, "images": self.total}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a position that `state_dict` gave.

        Raises:
            ToolkitError: If there are more or fewer images than then: their order would be another one.
        """
        if state["images"] != self.total:
            raise ToolkitError(
                f"'{self.images.word}' has {self.total} images, the run to resume was trained on {state['images']}: "
                "bring the images back as they were, or start a new run from its encoder"
            )
        self.position = state["position"]


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
            if part is not None:
                part.record_stream(step)
        return batch

    ready = next(batches, None)
    ready = sent(ready)
    for batch in batches:
        handed = arrived(ready)
        ready = sent(batch)
        yield handed
    yield arrived(ready)


class _Order(Sampler[tuple[int, list[int]]]):
    """(epoch, positions of a batch's images) for each batch of the current epoch, from batch `start` on."""

    def __init__(self, total: int, batch_size: int, shuffle: bool, seed: int, rank: int, world_size: int) -> None:
        self.total, self.batch_size, self.shuffle, self.seed = total, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        if self.shuffle:
            order = numpy_generator(self.seed, "order", self.epoch).permutation(self.total)
            step = self.batch_size * self.world_size
            firsts = [b * step + self.rank * self.batch_size for b in range(self.start, self.total // step)]
        else:
            order, firsts = np.arange(self.total), list(range(0, self.total, self.batch_size))
        for first in firsts:
            yield self.epoch, order[first : first + self.batch_size].tolist()


class _Fetch(Dataset[_Fetched]):
    """Reads the images of a batch; runs in the workers."""

    def __init__(
        self,
        images: ImageSet,
        size: int,
        *,
        longest: int,
        substitute: bool,
        seed: int,
        transform: Transform | None,
        tries: int,
    ) -> None:
        self.images, self.size, self.longest = images, size, longest
        self.substitute, self.seed, self.transform, self.tries = substitute, seed, transform, tries

    def __getitem__(self, item: tuple[int, list[int]]) -> _Fetched:
        epoch, indices = item
        bad: dict[int, str] = {}
        read: list[int] = []
        pixels: list[Pixels] = []
        for index in indices:
            for candidate in range(index, index + (self.tries if self.substitute else 1)):
                candidate %= len(self.images)
                try:
                    pixels.append(self._read(candidate, epoch))
                except BadImageError as error:
                    bad[candidate] = error.reason
                else:
                    read.append(candidate)
                    break
        return *(pad(pixels) if pixels else (np.empty((0, 0, 0, 0), np.uint8), None)), read, bad

    def _read(self, index: int, epoch: int) -> Pixels:
        image = center_crop(self.images.load(index, self.size), self.longest)
        if self.transform is not None:
            image = self.transform(image, numpy_generator(self.seed, "sample", epoch, index))
        return image


def _as_is(fetched: Any) -> Any:
    return fetched
