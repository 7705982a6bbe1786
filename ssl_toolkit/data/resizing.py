"""Size and channels of pixel arrays, of any depth."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ssl_toolkit.data.depth import FULL, Pixels

MAX_PIXELS = 2**27  # 134 million: above every camera, 0.4 GB as RGB


def check_pixels(size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    """Raise ValueError for more pixels than a cap; `size` is width and height."""
    if size[0] * size[1] > max_pixels:
        raise ValueError(f"{size[0]} x {size[1]} pixels are more than the cap of {max_pixels:,}")


def resize(pixels: Pixels, size: int | None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Resize (C, H, W) pixels of any channel count, antialiased, as `read_image` does.

    Args:
        pixels: (C, H, W) uint8, uint16 or float32.
        size: Length of the short side; None keeps the size.
        max_pixels: Refuse a larger result.

    Returns:
        (C, h, w) of the same type, contiguous.
    """
    if size is None or min(pixels.shape[1:]) == size:
        return np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint8 and pixels.shape[0] == 3:
        return to_chw(scaled(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))), size, max_pixels))
    working = np.uint8 if pixels.dtype == np.uint8 else np.float32  # in which Pillow resizes anything deeper
    bands = [Image.fromarray(np.ascontiguousarray(band, working)) for band in pixels]
    made = np.concatenate([to_chw(scaled(band, size, max_pixels)) for band in bands])
    if working is np.uint8:
        return made
    made = made.clip(0, FULL[pixels.dtype])  # the kernel overshoots
    return made if pixels.dtype == np.float32 else (made + 0.5).astype(np.uint16)


def convert_channels(pixels: Pixels, channels: int) -> Pixels:
    """(C, H, W) to (channels, H, W): grey is replicated, RGB becomes luminance, equal counts pass.

    Raises:
        ValueError: Any other pair of counts.
    """
    if pixels.shape[0] == channels:
        return pixels
    if (pixels.shape[0], channels) == (1, 3):
        return np.repeat(pixels, 3, axis=0)
    if (pixels.shape[0], channels) != (3, 1):
        raise ValueError(f"{pixels.shape[0]} channels cannot become {channels}")
    if pixels.dtype == np.uint8:
        return to_chw(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).convert("L"))
    luma = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), pixels.astype(np.float32), 1)[None]
    return luma if pixels.dtype == np.float32 else (luma + 0.5).astype(np.uint16)


def scaled(image: Image.Image, size: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image of Pillow with `size` for its short side."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short == size:
        return image
    long = max(size, round(long * size / short))
    check_pixels((size, long), max_pixels)  # a line of 1 x 100,000 pixels would grow without bounds
    wanted = (size, long) if width <= height else (long, size)
    return image.resize(wanted, Image.Resampling.BICUBIC, reducing_gap=2.0)


def to_chw(image: Image.Image) -> Pixels:
    """The pixels of an image of Pillow, (C, H, W)."""
    array = np.asarray(image)  # (H, W) or (H, W, 3)
    return np.array(array[None] if array.ndim == 2 else array.transpose(2, 0, 1), order="C")
