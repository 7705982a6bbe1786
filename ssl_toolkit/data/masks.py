"""Images with a value for each pixel: masks of classes, or depth."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.images import check_channels
from ssl_toolkit.data.resizing import convert_channels
from ssl_toolkit.data.shapes import COUNTS, render, render_mask
from ssl_toolkit.errors import UsageError, unknown_name

Target = Literal["masks", "depth"]
VOID = -1
"""The class of pixels of which nobody says what they show; 255 in files."""


class MaskedSet:
    """Images and a value for each of their pixels.

    Args:
        word: What the user wrote.
        count: How many there are.
        read: Position and side to the image (3, side, side) uint8 and its values (side, side), int64 classes from 0,
            `VOID` where there is none, or float32 depths, 0 where there is none.
        channels: Of the images, 1 or 3.
    """

    def __init__(
        self,
        word: str,
        count: int,
        read: Callable[[int, int], tuple[Pixels, NDArray[Any]]],
        channels: int = 3,
    ) -> None:
        check_channels(channels)
        self.word, self._count, self._read, self._channels = word, count, read, channels

    def __len__(self) -> int:
        return self._count

    def load(self, index: int, side: int) -> tuple[Pixels, NDArray[Any]]:
        """The image, (channels, side, side) uint8, and its values, (side, side); both squeezed to a square.

        Raises:
            UsageError: One of them cannot be read, or they differ in size.
        """
        image, values = self._read(index, side)
        return convert_channels(image, self._channels), values


def open_masked(word: str, target: Target = "masks", *, root: str = "data", channels: int = 3) -> MaskedSet:
    """Images with masks or depths by the word for them.

    Args:
        word: ``IMAGES,MASKS``, two folders whose files have the same names but for the suffix; ``shapes:train`` or
            ``shapes:test:500``, rendered; ``voc:train``, ``voc:val`` or ``voc:trainval``, where torchvision's
            VOCSegmentation of 2012 lies in `root`.
        target: Masks are PNGs whose palette index or grey value is the class, 255 for none; or, of black and white, 0
            and 1. Depths are ``.npy`` or 16-bit PNGs, of any unit, 0 where nothing was measured.
        root: Folder of torchvision's data sets.
        channels: Of the images.

    Raises:
        UsageError: There is no such thing.
    """
    if word.startswith("shapes:") and target == "masks":
        return _open_shapes(word, channels)
    if word.startswith("voc:") and target == "masks":
        return _open_voc(word, root, channels)
    folders = word.split(",")
    if len(folders) != 2 or not all(Path(each).is_dir() for each in folders):
        raise UsageError(
            f"'{word}' is no set of images with {target}: name two folders, IMAGES,{target.upper()}"
            + (", or shapes:train, or voc:train" if target == "masks" else "")
        )
    pairs = _pairs(folders[0], folders[1], (".png", ".npy") if target == "depth" else (".png",))
    values = _read_depth if target == "depth" else _read_mask

    def read(index: int, side: int) -> tuple[Pixels, NDArray[Any]]:
        image, other = pairs[index]
        return _read_image(image, side), _squeezed(values(other), side)

    return MaskedSet(word, len(pairs), read, channels=channels)


def _open_shapes(word: str, channels: int) -> MaskedSet:
    split, _, count = word.removeprefix("shapes:").partition(":")
    if split not in COUNTS:
        raise unknown_name("split of shapes", split, COUNTS)
    if count and (not count.isdecimal() or int(count) < 1):
        raise UsageError(f"{word}: the count must be a whole number from 1")

    def read(index: int, side: int) -> tuple[Pixels, NDArray[Any]]:
        return render(split, index, side), render_mask(split, index, side)

    return MaskedSet(word, int(count or COUNTS[split]), read, channels)


def _open_voc(word: str, root: str, channels: int) -> MaskedSet:
    from torchvision.datasets import VOCSegmentation

    split = word.removeprefix("voc:")
    if split not in ("train", "val", "trainval"):
        raise unknown_name("split of voc", split, ("train", "val", "trainval"))
    try:
        found = VOCSegmentation(root, image_set=split)
    except (RuntimeError, OSError) as error:
        raise UsageError(
            f"{word}: torchvision's VOCSegmentation of 2012 is not in {root}: name it with --data-root"
        ) from (error)

    def read(index: int, side: int) -> tuple[Pixels, NDArray[Any]]:
        return _read_image(Path(found.images[index]), side), _squeezed(_read_mask(Path(found.masks[index])), side)

    return MaskedSet(word, len(found), read, channels)


def _pairs(images: str, others: str, suffixes: Sequence[str]) -> list[tuple[Path, Path]]:
    """Files of two folders with the same name, at the same place below them, but for the suffix."""

    def files(folder: str) -> dict[str, Path]:
        paths = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
        return {os.fspath(path.relative_to(folder).with_suffix("")): path for path in paths}

    values = {name: path for name, path in files(others).items() if path.suffix.lower() in suffixes}
    found = [(path, values[name]) for name, path in files(images).items() if name in values]
    if not found:
        raise UsageError(f"no image in {images} has the name of a {' or '.join(suffixes)} file in {others}")
    return found


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as an image") from error
    return image


def _read_image(path: Path, side: int) -> Pixels:
    rgb = _opened(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def _read_mask(path: Path) -> NDArray[np.int64]:
    image = _opened(path)
    if image.mode not in ("P", "L", "1", "I;16", "I"):
        raise UsageError(f"{path} is {image.mode}: a mask has a palette or grey values, which are the classes")
    values = np.asarray(image).astype(np.int64)
    if image.mode != "P" and set(np.unique(values)) <= {0, 255}:
        return values // 255
    return np.where(values == 255, VOID, values)


def _read_depth(path: Path) -> NDArray[np.float32]:
    try:
        values = np.load(path) if path.suffix.lower() == ".npy" else np.asarray(_opened(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as depths") from error
    if values.ndim != 2:
        raise UsageError(f"{path} has the shape {values.shape}: depths are (H, W)")
    return np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _squeezed(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Values (H, W) for the pixels of a square: those nearest to their middles."""
    rows, columns = (((np.arange(side) + 0.5) * length / side).astype(int) for length in values.shape)
    squeezed: NDArray[Any] = values[rows[:, None], columns]
    return squeezed
