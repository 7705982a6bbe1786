"""Images made ready to be shown: upright in rows, as `ssl_toolkit.data.shown` says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.reading import center_crop
from ssl_toolkit.data.resizing import resize
from ssl_toolkit.data.shown import Look


def displayed(image: Pixels) -> NDArray[np.uint8]:
    """An image (C, H, W), uint8, uint16 or float in [0, 1], ready to be shown as it is: (H, W, 3) uint8."""
    shown: NDArray[np.uint8] = np.ascontiguousarray(Look()(image).transpose(1, 2, 0))
    return shown


def tile(image: Pixels, side: int, channels: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """The square middle of an image, ready to be shown; deeper than 8 bits, it is stretched.

    Args:
        image: (C, H, W), uint8, uint16 or float in [0, 1].
        side: Height and width of the result, pixels.
        channels: See `Look`.

    Returns:
        (side, side, 3) uint8.
    """
    return displayed(center_crop(resize(Look.of([image], channels)(image), side), side))
