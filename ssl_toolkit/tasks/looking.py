"""What some images of a collection are like: near copies, colours, and how much detail they hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_toolkit.data.depth import at_depth
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.pictures.pixels import displayed
from ssl_toolkit.eval.search.copies import LIMITS
from ssl_toolkit.eval.search.likeness import ALIKE, SIDE, coarse_likeness, likeness
from ssl_toolkit.progress import progress_bar
from ssl_toolkit.runs import available_cores

LOOKED_AT = 1000  # images
COLOURLESS = 4.0  # mean difference of the largest and the least channel, grey levels: what JPEG makes of grey
# Share of an image's variance that is no loss. At half the side 95 % of photographs lose more (300 of Imagenette at 128
# px, median .047, and of CIFAR-10, .059), and 95 % of the same, enlarged twofold, less than .0055.
LOST = 0.01


@dataclass(frozen=True)
class Look:
    """What some images are like.

    Attributes:
        copies: Share that are near copies of the image before them, in the order of their names: frames of a film,
            bursts, files that were saved twice.
        grey: Share that have no colours.
        detail: Share of the side that holds detail, the median.
    """

    copies: float
    grey: float
    detail: float


def look(images: ImageSet, side: int, progress: bool = False) -> Look:
    """Look at up to `LOOKED_AT` images from all over a collection, each with the one after it.

    Args:
        images: Of clips, their first frames are looked at.
        side: Short side at which they are read, pixels.
        progress: Show a progress bar.

    Raises:
        ToolkitError: If none of the images can be read.
    """

    def read(row: int) -> NDArray[np.uint8] | None:
        try:
            return at_depth(images.load(row, side)[: images.channels // images.frames], np.uint8)
        except BadImageError:
            return None

    starts = np.linspace(0, max(0, len(images) - 2), LOOKED_AT // 2).astype(int)
    rows = np.unique(np.minimum(np.concatenate([starts, starts + 1]), len(images) - 1)).tolist()
    there, grey, details, small = [], [], [], []
    with ThreadPoolExecutor(available_cores()) as pool, progress_bar(len(rows), "looking", "image", progress) as bar:
        for row, pixels in zip(rows, pool.map(read, rows), strict=True):
            bar.update()
            if pixels is not None:
                there.append(row)
                grey.append(bool(np.ptp(pixels.astype(np.int16), axis=0).mean() < COLOURLESS))
                details.append(detail(pixels.mean(axis=0, dtype=np.float32)))
                small.append(_thumbnail(pixels))
    if not there:
        raise ToolkitError(f"none of the images of '{images.word}' can be read")
    return Look(copies_of_the_one_before(there, np.stack(small)), float(np.mean(grey)), float(np.median(details)))


def copies_of_the_one_before(rows: list[int], small: NDArray[np.uint8]) -> float:
    """Share of images that are near copies of the one before them.

    Args:
        rows: Their places, ascending; those whose neighbour is not there are not asked.
        small: Their thumbnails, (N, 3, SIDE, SIDE).
    """
    pairs = np.array([(n, n + 1) for n in range(len(rows) - 1) if rows[n] + 1 == rows[n + 1]], dtype=np.int64)
    if not len(pairs):
        return 0.0
    coarse, orientation = coarse_likeness(small, pairs)
    return float(np.mean((coarse >= ALIKE) & (likeness(small, pairs, orientation) >= LIMITS[1])))


def detail(image: NDArray[np.float32]) -> float:
    """Share of its side to which a grey image (H, W) can be made smaller without loss: 1, a half or a quarter.

    Examples:
        >>> noise, wave = np.random.default_rng(0).normal(size=(64, 64)), np.sin(np.arange(64) / 5)
        >>> detail(noise.astype(np.float32)), detail(np.outer(wave, wave).astype(np.float32))
        (1.0, 0.25)
    """
    whole, share = Image.fromarray(image), 1.0
    for smaller in (0.5, 0.25):
        size = max(1, round(whole.width * smaller)), max(1, round(whole.height * smaller))
        back = whole.resize(size, Image.Resampling.LANCZOS).resize(whole.size, Image.Resampling.BICUBIC)
        if (np.asarray(back) - image).var() > LOST * image.var() + 1e-6:
            break
        share = smaller
    return share


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Image.fromarray(displayed(pixels)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    small: NDArray[np.uint8] = np.asarray(picture).transpose(2, 0, 1)
    return small
