"""What Pillow opens of more than 8 bits, with all of them.

Pillow holds colour in 8 bits a channel: of a 16-bit file it keeps the high bytes. Decoded once more as if the order of
bytes were the other one, the same file gives the low bytes.
"""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_toolkit.data.resizing import to_chw

_SIXTEEN = re.compile(r"RGBA?;16([BLN])")
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}


def stored_type(image: Image.Image) -> np.dtype[Any]:
    """The type of an opened image's values, before it is decoded."""
    if image.mode == "F":
        return np.dtype(np.float32)
    return np.dtype(np.uint16 if image.mode.startswith("I") or _rawmodes(image) else np.uint8)


def deep_values(image: Image.Image, file: BinaryIO | None) -> NDArray[Any]:
    """The values of an image of which `stored_type` is not uint8; what is transparent is white.

    Args:
        image: Opened, not yet decoded.
        file: What it was opened from, at any place.

    Returns:
        (C, H, W), of one channel or three.

    Raises:
        ValueError: 32-bit integers outside 0..65535, which could mean anything.
    """
    rawmodes = _rawmodes(image)
    if file is not None and rawmodes:
        tiles = list(image.tile)  # type: ignore[attr-defined]
        image.load()
        file.seek(0)
        with Image.open(file, formats=[image.format or ""]) as again:
            again.tile = [_swapped(tile) for tile in tiles]
            values: NDArray[Any] = to_chw(image).astype(np.uint16) * np.uint16(256) + to_chw(again)
        if len(values) == 4:
            alpha = values[3:].astype(np.float32) / 65535
            values = (values[:3] * alpha + 65535 * (1 - alpha) + 0.5).astype(np.uint16)
        return values
    return to_chw(image)


def _rawmodes(image: Image.Image) -> list[str]:
    """How the 16-bit colours of an opened file lie there; nothing of other images."""
    tiles = getattr(image, "tile", [])
    found = [tile[3] if isinstance(tile[3], str) else str((tile[3] or ("",))[0]) for tile in tiles]
    return found if found and all(map(_SIXTEEN.fullmatch, found)) else []


def _swapped(tile: Any) -> Any:
    """A tile of Pillow's, read in the other order of bytes."""
    name, extents, offset, args = tile
    rawmode = args if isinstance(args, str) else args[0]
    swapped = _SIXTEEN.sub(lambda found: found[0][:-1] + _OTHER_ORDER[found[1]], rawmode)
    made = (name, extents, offset, swapped if isinstance(args, str) else (swapped, *args[1:]))
    return tuple.__new__(type(tile), made)  # in newer versions a named one
