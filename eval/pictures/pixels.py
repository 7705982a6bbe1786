"""Images made ready to be shown.

Images are (C, H, W), uint8 or float in [0, 1]. One channel is shown as grey, two as grey by the first, more than three
by the first three as red, green and blue.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.images import resize, to_uint8
from ssl_toolkit.data.reading import center_crop

Pixels: TypeAlias = NDArray[Any]
"""An image (C, H, W), uint8 or float in [0, 1]."""


def displayed(image: Pixels) -> NDArray[np.uint8]:
    """An image (C, H, W), uint8 or float in [0, 1], ready to be shown: (H, W, 3) uint8."""
    shown = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    if shown.dtype.kind == "f":
        shown = shown.clip(0, 1)  # arithmetic on views may leave the range by a rounding error
    return np.ascontiguousarray(to_uint8(shown).transpose(1, 2, 0))


def tile(image: Pixels, side: int) -> NDArray[np.uint8]:
    """The square middle of an image, ready to be shown.

    Args:
        image: (C, H, W), uint8 or float in [0, 1].
        side: Height and width of the result, pixels.

    Returns:
        (side, side, 3) uint8.
    """
    return displayed(center_crop(resize(displayed(image).transpose(2, 0, 1), side), side))
