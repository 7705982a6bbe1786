"""Image sets that are decoded once and kept, in memory or on a device."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.reading import MAX_ASPECT, Fetch, Order, Sounds, captions_of, reader, stacked
from ssl_toolkit.progress import progress_bar

READ_AT_ONCE = 64  # images
CACHE_LIMIT = 2 * 2**30  # bytes
DEVICE_SHARE = 0.25  # of the device's free memory


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
        self.channels, self.frames, self.dtype, self.range = images.channels, images.frames, images.dtype, images.range
        self.images, self.size = images, size
        self._pixels: list[Pixels | None] = [None] * len(images)
        self._captions: dict[int, str] = {}
        self._sounds: dict[int, NDArray[np.float16]] = {}
        self._reasons: dict[int, str] = {}
        batches = reader(Fetch(images, size, MAX_ASPECT * size), Order(len(images), READ_AT_ONCE), workers)
        with progress_bar(len(images), "reading images", "image", progress) as bar:
            for pixels, box, indices, unread, captions, sounds in batches:
                bad.record(unread)
                self._reasons |= unread
                self._captions |= zip(indices, captions or (), strict=captions is not None)
                self._sounds |= zip(indices, () if sounds is None else sounds, strict=sounds is not None)
                # Images of one size stay rows of their batch.
                rows: Iterable[Pixels] = pixels
                if box is not None:
                    rows = [row[:, :h, :w].copy() for row, (h, w) in zip(pixels, box.tolist(), strict=True)]
                for index, row in zip(indices, rows, strict=True):
                    self._pixels[index] = row
                bar.update(len(indices))

    def path(self, index: int) -> str:
        """Where the image came from."""
        return self.images.path(index)

    def caption(self, index: int) -> str | None:
        """As `ImageSet.caption`."""
        return self._captions.get(index)

    def sound(self, index: int) -> Sounds:
        """As `ImageSet.sound`."""
        return self._sounds.get(index)

    def load(self, index: int, size: int | None) -> Pixels:
        """The pixels (C, H, W) of image `index`; `size` must be the one that was read, or None."""
        pixels = self._pixels[index]
        if pixels is None:
            raise BadImageError(self.path(index), self._reasons[index])
        if size not in (None, self.size):
            raise ValueError(f"images were read at {self.size} px, asked for {size}")
        return pixels


class OnDevice(InMemory):
    """An image set in memory that also lies on a device, as deep as they are: a batch is an index.

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
        empty = np.zeros((self.channels, 0, 0), self.dtype)
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
        # Of 16 bits without a sign a device can do little: they lie there, and are picked out, as such with one.
        self.pixels = torch.from_numpy(stored.view(np.int16) if stored.dtype == np.uint16 else stored).to(device)

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
        found = Batch(self.pixels, label, index, caption=captions_of(self, rows.tolist()), sound=self._heard(rows))
        if self.pixels.dim() == 4:
            return found._replace(image=self._given(self.pixels.index_select(0, index)))
        sizes = self.sizes[rows]
        height, width = sizes.max(axis=0).tolist()
        box = self._device_sizes.index_select(0, index)
        y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        own_height, own_width = box[:, 0, None, None], box[:, 1, None, None]
        place = self._first.index_select(0, index)[:, None, None] + y * own_width + x
        inside = (y < own_height) & (x < own_width)
        image = self.pixels[place.where(inside, torch.zeros_like(place))] * inside[..., None]
        equal = bool((sizes == sizes[0]).all())
        image = self._given(image.permute(0, 3, 1, 2).contiguous())
        return found._replace(image=image, box=None if equal else box)

    def _heard(self, rows: NDArray[np.int64]) -> Tensor | None:
        sounds = stacked([self.sound(row) for row in rows.tolist()])
        return None if sounds is None else torch.from_numpy(sounds).to(self.pixels.device)

    def _given(self, image: Tensor) -> Tensor:
        """Stored pixels as the loader gives them."""
        return image.view(torch.uint16) if image.dtype == torch.int16 else image


def fits_in_memory(images: ImageSet, size: int, cache: str = "auto") -> bool:
    """Whether `cached` keeps the images in memory."""
    return cache in ("memory", "device") or (cache == "auto" and _bytes(images, size) <= CACHE_LIMIT)


def _bytes(images: ImageSet, size: int) -> float:
    # Photographs are 3:2 at the longest, most of them.
    return len(images) * images.channels * size * size * 1.5 * images.dtype.itemsize


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
    """The images decoded once and kept in memory or on a device, or as they are, which a stream always is.

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
    if not images.indexed:
        return images
    if device is not None and fits_on_device(images, size, cache, device):
        return OnDevice(images, size, bad, device, workers, progress)
    return InMemory(images, size, bad, workers, progress) if fits_in_memory(images, size, cache) else images
