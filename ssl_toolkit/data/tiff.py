"""TIFFs with any number of planes and pages, by the package tifffile (the extra ``[deep]``)."""

from __future__ import annotations

import importlib
import itertools
import logging
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.resizing import check_pixels
from ssl_toolkit.errors import missing_extra

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PLANES = 4096
_DEFLATE = (8, 32946)
_REDUCED = 1  # a bit of the tag NewSubfileType: a page is a smaller copy of another one


def tiff_type(file: BinaryIO) -> np.dtype[Any]:
    """The type of a TIFF's values."""
    dtype: np.dtype[Any] = np.dtype(_pages(file, MAX_PLANES)[0].dtype)
    return dtype


def tiff_planes(file: BinaryIO, channels: int, max_pixels: int) -> NDArray[Any]:
    """The planes of a TIFF, (C, H, W), as they are stored.

    What must not be is refused before anything is decoded: other planes, pages of unequal size or type, more than
    `max_pixels` pixels or three times as many values, and strips that would inflate beyond their size.

    Args:
        file: At any place.
        channels: 1 and 3 give the first page, which has one of the two; other counts all planes of all pages, of which
            there must be as many.
        max_pixels: Of a plane.

    Raises:
        ValueError: Saying which.
        UsageError: tifffile is not installed.
    """
    one = channels in (1, 3)
    pages = _pages(file, channels)[: 1 if one else None]
    shapes = {(page.shape, page.axes, page.dtype) for page in pages}
    if len(shapes) > 1:
        raise ValueError(f"its {len(pages)} pages differ in size or type")
    ((shape, axes, dtype),) = shapes
    if axes not in ("YX", "YXS", "SYX") or dtype is None:
        raise ValueError(f"a TIFF of {shape} ({axes}), and no stack of planes")
    sizes = dict(zip(axes, shape, strict=True))
    planes = len(pages) * sizes.get("S", 1)
    if planes not in ((1, 3) if one else (channels,)):
        raise ValueError(f"the TIFF has {planes} planes, {channels} are wanted")
    check_pixels((sizes["X"], sizes["Y"]), max_pixels)
    check_pixels((sizes["X"] * planes, sizes["Y"]), 3 * max_pixels)
    for page in pages:
        _refuse_bombs(page, file)
    each = [page.asarray(maxworkers=1) for page in pages]  # not by `series`, which follows names to other files
    if axes == "YXS":
        return np.concatenate([np.moveaxis(page, -1, 0) for page in each])
    return np.concatenate(each) if axes == "SYX" else np.stack(each)


def _pages(file: BinaryIO, most: int) -> list[Any]:
    """The pages of a TIFF, without smaller copies; not more than one above `most`."""
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError as error:
        raise missing_extra("reading such TIFFs", "deep", "tifffile") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is an error of ours
    file.seek(0)
    pages = itertools.islice(tifffile.TiffFile(file).pages, min(most, MAX_PLANES) + 1)
    kept = [page.aspage() for page in pages if not int(page.subfiletype or 0) & _REDUCED]
    if not kept:
        raise ValueError("the TIFF has no page")
    return kept


def _refuse_bombs(page: Any, file: BinaryIO) -> None:
    """Refuse compressed data that is out of proportion to what it should become."""
    whole = int(np.prod(page.chunks)) * page.dtype.itemsize  # of a strip or tile
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count > 2 * whole + 1024 and page.compression != 1:
            raise ValueError("a strip is larger compressed than it can be")
        if page.compression in _DEFLATE and count:
            file.seek(offset)
            inflating = zlib.decompressobj()
            if len(inflating.decompress(file.read(count), whole + 1)) > whole:
                raise ValueError("a strip inflates beyond its size")
