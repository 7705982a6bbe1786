"""The depth of pixels: values of any source as uint8, uint16 or float32, whose type says what 0 and 1 are.

An image set gives one of the three types, and they reach the device as they are: uint8 from 0 to 255, uint16 from 0 to
65,535, float32 from 0 to 1. A stated range says which values of a source deeper than 8 bits become 0 and 1, and clamps
what lies outside: integers are stretched onto uint16, which keeps every one of up to 16 bits apart, floats onto
float32. What has 8 bits means 0 to 255, whatever the range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import ToolkitError, UsageError

Pixels: TypeAlias = NDArray[Any]
"""Mostly (C, H, W); uint8, uint16 or float32, of which `FULL` is 1."""

Range: TypeAlias = tuple[float, float]
"""The values that become 0 and 1."""

FULL = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}

PERCENTILES = (0.1, 99.9)  # of the values, for a range that is measured
_MEASURED, _VALUES = 256, 1 << 14  # images that are looked at for it, and values of each


def parse_range(given: str | Sequence[float] | None) -> Range | Literal["auto"] | None:
    """A range as users state it: ``"0,4095"``, a pair of numbers, ``"auto"``, or None.

    Raises:
        UsageError: It is something else, or its second number is not above the first.

    Examples:
        >>> parse_range("-1000,400"), parse_range([0, 1]), parse_range("auto")
        ((-1000.0, 400.0), (0.0, 1.0), 'auto')
    """
    if given is None:
        return None
    if given == "auto":
        return "auto"
    try:
        low, high = map(float, re.split(r"\s*,\s*", given.strip("[]() ")) if isinstance(given, str) else given)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not (np.isfinite((low, high)).all() and low < high):
        raise UsageError(f"--range is {given}: it must be two numbers, the lower first, as in --range 0,4095; or auto")
    return low, high


def depth_of(values: np.dtype[Any]) -> np.dtype[Any]:
    """The type of pixels that values of a type become."""
    return np.dtype(np.uint8 if values == np.uint8 else np.float32 if values.kind == "f" else np.uint16)


def to_pixels(values: NDArray[Any], range: Range | None = None) -> Pixels:
    """Values of any source as pixels, never by the values of one image.

    Args:
        values: Any shape and number type.
        range: What becomes 0 and 1 of all but uint8. None: of uint16 its own range, of floats [0, 1].

    Returns:
        uint8 of uint8, float32 of floats, else uint16; contiguous.

    Raises:
        ValueError: Without a range, another type, or floats outside [0, 1]; NaN in any case.
    """
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values, np.uint8)
    if range is not None and kind in "iuf":
        wide = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
        scaled = ((wide - range[0]) / (range[1] - range[0])).clip(0, 1)
        if np.isnan(scaled).any():
            raise ValueError("some values are no numbers (NaN)")
        return scaled.astype(np.float32) if kind == "f" else (scaled * 65535 + 0.5).astype(np.uint16)
    if kind == "u" and values.dtype.itemsize == 2:
        return np.ascontiguousarray(values, np.uint16)  # whatever the order of its bytes
    way_out = "or give --range LOW,HIGH or --range auto"
    if kind != "f":
        raise ValueError(f"values are {values.dtype}: known are uint8, uint16 and floats in [0, 1]; {way_out}")
    floats = np.ascontiguousarray(values, np.float32)
    low, high = float(floats.min()), float(floats.max())
    if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails
        raise ValueError(f"float values from {low:.4g} to {high:.4g}: scale them to [0, 1], {way_out}")
    return floats


def at_depth(pixels: Pixels, dtype: np.dtype[Any] | type[np.generic]) -> Pixels:
    """Pixels of one type as another, 0 and 1 kept in place; rounded where that has fewer bits."""
    dtype = np.dtype(dtype)
    if pixels.dtype == dtype:
        return pixels
    if dtype == np.float32:
        floats: Pixels = pixels.astype(np.float32) / np.float32(FULL[pixels.dtype])
        return floats
    if pixels.dtype == np.float32:
        return np.asarray(pixels * np.float32(FULL[dtype]) + np.float32(0.5)).astype(dtype)
    if dtype == np.uint16:
        return np.asarray(pixels.astype(np.uint16) * np.uint16(257))
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def equally_deep(images: Sequence[Pixels]) -> Sequence[Pixels]:
    """Images of any types as one type, the deepest among them."""
    types = {image.dtype for image in images}
    if len(types) == 1:
        return images
    deepest = max(types, key=lambda dtype: dtype.itemsize)
    return [at_depth(image, deepest) for image in images]


def measured_range(values: Callable[[int], NDArray[Any]], count: int, word: str) -> Range | None:
    """The range of an image set: the outer `PERCENTILES` of the values of up to 256 images all over it.

    Args:
        values: Of the image at a position; raises a `ToolkitError` where it cannot be read.
        count: Images there are.
        word: What they are called.

    Returns:
        Whole numbers for integers; None for images of 8 bits, whose range is no matter of choice.

    Raises:
        ToolkitError: None of them can be read.
        UsageError: They are all of one value.
    """
    found: list[NDArray[Any]] = []
    for row in np.unique(np.linspace(0, count - 1, min(count, _MEASURED)).astype(np.int64)):
        try:
            flat = values(int(row)).reshape(-1)
        except ToolkitError:
            continue
        found.append(flat[:: 1 + len(flat) // _VALUES])
    if not found:
        raise ToolkitError(f"none of the images of '{word}' that were tried can be read, to measure their range")
    deep = [part for part in found if part.dtype != np.uint8]
    if not deep:
        return None
    every = np.concatenate([part.astype(np.float64) for part in deep])
    every = every[np.isfinite(every)]
    low, high = np.percentile(every, PERCENTILES).tolist() if len(every) else (0.0, 0.0)
    if all(part.dtype.kind != "f" for part in deep):
        low, high = float(np.floor(low)), float(np.ceil(high))
    if not low < high:
        raise UsageError(f"--range auto: nearly all values of '{word}' are {low:g}: give --range LOW,HIGH")
    return low, high
