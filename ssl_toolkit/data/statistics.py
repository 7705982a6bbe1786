"""What the pixels of an image set are like."""

from __future__ import annotations

import numpy as np

from ssl_toolkit.data.depth import FULL
from ssl_toolkit.data.image_set import ImageSet, read_some
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.randomness import numpy_generator

MEASURED = 2000  # images that are looked at before training


def channel_statistics(images: ImageSet, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of up to 2,000 images, the same ones each time.

    Args:
        images: Images, or clips, all frames of which count as images.
        size: Short side at which they are read, pixels.

    Returns:
        Mean and standard deviation of the C channels, in [0, 1]. A deviation, which is divided by, is at least 1/255,
        of images deeper than 8 bits 1/65535.

    Raises:
        ToolkitError: If none of them can be read.
    """
    channels, images = images.channels // images.frames, images.few()
    order = numpy_generator(0, "statistics").permutation(len(images))[:MEASURED]
    sums, pixels = np.zeros((2, channels)), 0
    for row in order:
        for image in read_some(images, [row], 1, size):  # one at a time: they need not fit in memory
            flat = image.reshape(images.frames, channels, -1).astype(np.float64) / FULL[image.dtype]  # (F, C, H * W)
            sums += flat.sum(axis=(0, 2)), (flat**2).sum(axis=(0, 2))
            pixels += flat.shape[0] * flat.shape[2]
    if not pixels:
        raise ToolkitError(f"none of {len(order)} images of '{images.word}' can be read, to measure their colours")
    mean, square = sums / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0)).clip(min=1 / (255 if images.dtype == np.uint8 else 65535))
    return tuple(mean.tolist()), tuple(std.tolist())
