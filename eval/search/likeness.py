"""How alike two images look, pixel by pixel, once flips, turns, a cut edge and another brightness are undone.

An embedding says what an image shows: two pages of text, or two photographs of a dog, are near. A copy agrees in its
fine detail too. So thumbnails are laid over one another and the correlation of what is left of them without their
coarse light and shade is measured.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_toolkit.data.depth import Range
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.shown import Look
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.progress import progress_bar
from ssl_toolkit.runs import available_cores

SIDE = 32
"""Side of a thumbnail, pixels: the whole image, its sides made equal."""

ALIKE = 0.6
"""Least correlation of coarse grey thumbnails, in the best of the eight flips and turns, for a closer look."""

_COARSE = 16  # pixels
_STEPS = 5  # of laying one over the other
_FARTHEST = 0.15  # from there, in halves of a side: a cut edge of 10 % or so
_COARSE_NOISE, _FINE_NOISE = 16.0, 0.02  # variance that says nothing, of grey levels and of `_detail`
_CONTRAST = 8.0  # grey levels, from which on stronger detail counts no more
_LIGHT = 0.9  # least agreement of mean brightness: a factor of 1.6
_PAIRS = 1 << 11  # at once


def thumbnails(
    paths: Sequence[str],
    channels: int = 3,
    root: str | os.PathLike[str] | None = None,
    progress: bool = False,
    range: Range | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Small pictures of images, read again from where they lie.

    Args:
        paths: What `open_item` takes.
        channels: Channels of the images.
        root: Folder of torchvision's data sets.
        progress: Whether a progress bar is shown.
        range: Of the images, see `open_images`.

    Returns:
        Thumbnails, (N, 3, SIDE, SIDE), and for each image whether it could be read; black where it could not.
    """

    def read(path: str) -> NDArray[np.uint8] | None:
        try:
            image = open_item(path, channels, root=root, size=2 * SIDE, range=range)
        except (ToolkitError, OSError):
            return None
        picture = Image.fromarray(Look.of([image])(image).transpose(1, 2, 0).copy())
        pixels: NDArray[np.uint8] = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(
            2, 0, 1
        )
        return pixels

    small = np.zeros((len(paths), 3, SIDE, SIDE), dtype=np.uint8)
    there = np.zeros(len(paths), dtype=np.bool_)
    with ThreadPoolExecutor(available_cores()) as pool, progress_bar(len(paths), "looking", "image", progress) as bar:
        for place, picture in enumerate(pool.map(read, paths)):
            if picture is not None:
                small[place], there[place] = picture, True
            bar.update()
    return small, there


def coarse_likeness(
    small: NDArray[np.uint8], pairs: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Correlation of grey thumbnails of `_COARSE` pixels, in the best orientation of the second.

    Args:
        small: (N, 3, SIDE, SIDE) uint8.
        pairs: (P, 2), positions in `small`.

    Returns:
        (P,) in [-1, 1], and which orientation that is, (P,): a number for `turned`.
    """
    blocks = (torch.from_numpy(small[start : start + _PAIRS]) for start in range(0, len(small), _PAIRS))
    grey = torch.cat([F.adaptive_avg_pool2d(_grey(block), _COARSE) for block in blocks])
    first = _unit(grey, _COARSE_NOISE)
    best, which = torch.full((len(pairs),), -2.0), torch.zeros(len(pairs), dtype=torch.int64)
    one, two = torch.from_numpy(pairs).T
    for number in range(8):
        other = _unit(turned(grey, number), _COARSE_NOISE)
        for start in range(0, len(pairs), _PAIRS):
            rows = slice(start, start + _PAIRS)
            score = (first[one[rows]] * other[two[rows]]).sum(dim=1)
            better = score > best[rows]
            best[rows] = torch.where(better, score, best[rows])
            which[rows] = torch.where(better, number, which[rows])
    return best.numpy(), which.numpy()


def likeness(small: NDArray[np.uint8], pairs: NDArray[np.int64], orientation: NDArray[np.int64]) -> NDArray[np.float32]:
    """How surely the images of each pair are copies of one another.

    Args:
        small: (N, 3, SIDE, SIDE) uint8.
        pairs: (P, 2), positions in `small`.
        orientation: (P,), in which the second looks most like the first.

    Returns:
        (P,) in [-1, 1]: correlation of their fine detail, or of the whole if that is less, where they overlap; -1 where
        they differ in brightness beyond what an edit does.
    """
    found = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _PAIRS):
        rows = slice(start, start + _PAIRS)
        one, two = (torch.from_numpy(small[pairs[rows, side]]).float() for side in (0, 1))
        for number in np.unique(orientation[rows]):
            same = torch.from_numpy(orientation[rows] == number)
            two[same] = turned(two[same], int(number))
        found[rows] = _overlaid(one, two).numpy()
    return found


def turned(x: Tensor, number: int) -> Tensor:
    """Square images in one of the eight orientations: quarter turns, and from 4 on mirrored."""
    x = torch.rot90(x, number % 4, (-2, -1))
    return x.flip(-1) if number >= 4 else x


def _overlaid(one: Tensor, two: Tensor) -> Tensor:
    """`likeness` of images (P, 3, SIDE, SIDE) of one orientation."""
    warp = _aligned(_grey(one), _grey(two))
    grid = F.affine_grid(warp, list(two.shape), align_corners=False)
    inside = (grid.abs() <= 1).all(dim=3)[:, None].float()  # (P, 1, SIDE, SIDE)
    two = F.grid_sample(two, grid, padding_mode="border", align_corners=False)
    whole = _correlation(one, two, inside, _COARSE_NOISE)
    fine = _correlation(_detail(one), _detail(two), inside, _FINE_NOISE)
    light = [(x * inside).sum(dim=(1, 2, 3)) / (3 * inside.sum(dim=(1, 2, 3))) for x in (one, two)]
    agree = (2 * light[0] * light[1] + 160) / (light[0] ** 2 + light[1] ** 2 + 160)
    return torch.where(agree < _LIGHT, -1.0, torch.minimum(whole, fine))


def _aligned(one: Tensor, two: Tensor) -> Tensor:
    """Scale and shift of each axis that lay the second image over the first, by least squares.

    Args:
        one: (P, 1, S, S).
        two: Likewise.

    Returns:
        (P, 2, 3), for `affine_grid`.

    Source: Lucas and Kanade 1981, An iterative image registration technique.
    """
    side = one.shape[-1]
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inner = ((x.abs() < 0.9) & (y.abs() < 0.9)).flatten()  # beyond, the cut image says nothing
    moved = torch.zeros(len(one), 4)  # scale of x and of y less one, shift of x and of y
    for _ in range(_STEPS):
        warped = F.grid_sample(two, F.affine_grid(_matrix(moved), list(two.shape), align_corners=False),
                               padding_mode="border", align_corners=False)  # fmt: skip
        down, across = torch.gradient(warped, spacing=2 / side, dim=(2, 3))
        slopes = [across * x, down * y, across, down, warped, torch.ones_like(warped)]
        system = torch.stack([slope.flatten(1)[:, inner] for slope in slopes], dim=2)  # (P, pixels, 6)
        square = system.transpose(1, 2) @ system + torch.diag(torch.tensor([1.0, 1, 1, 1, 1e-3, 1e-3]))
        wanted = system.transpose(1, 2) @ one.flatten(1)[:, inner, None]
        found = torch.linalg.solve(square, wanted)[..., 0]
        step = found[:, :4] / found[:, 4:5].clamp(min=0.3)  # the gain is that of brightness
        moved = (moved + step.clamp(-_FARTHEST / 2, _FARTHEST / 2)).clamp(-_FARTHEST, _FARTHEST)
    return _matrix(moved)


def _matrix(moved: Tensor) -> Tensor:
    """Scales and shifts (P, 4) as (P, 2, 3)."""
    scale, shift = torch.diag_embed(1 + moved[:, :2]), moved[:, 2:, None]
    return torch.cat([scale, shift], dim=2)


def _grey(x: Tensor) -> Tensor:
    return x.float().mean(dim=1, keepdim=True)


def _detail(x: Tensor) -> Tensor:
    """What a mean over 5 x 5 pixels leaves out, by its strength there: else a frame would be all that counts."""
    detail = x - _mean(x)
    return detail / (_mean(detail.square().mean(dim=1, keepdim=True)).sqrt() + _CONTRAST)


def _mean(x: Tensor) -> Tensor:
    """Mean over 5 x 5 pixels."""
    return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)


def _correlation(one: Tensor, two: Tensor, inside: Tensor, noise: float) -> Tensor:
    """Correlation of images (P, C, S, S) over the pixels that are `inside`, (P, 1, S, S); of two flat ones it is 1."""
    count = one.shape[1] * inside.sum(dim=(1, 2, 3), keepdim=True)
    one, two = (inside * (x - (x * inside).sum(dim=(1, 2, 3), keepdim=True) / count) for x in (one, two))
    of = [(a * b).sum(dim=(1, 2, 3)) / count.flatten() + noise for a, b in ((one, two), (one, one), (two, two))]
    return of[0] / (of[1] * of[2]).sqrt()


def _unit(x: Tensor, noise: float) -> Tensor:
    """Images as vectors whose products are `_correlation`."""
    x = x.flatten(1)
    constant = torch.full((len(x), 1), (noise * x.shape[1]) ** 0.5)
    return F.normalize(torch.cat([x - x.mean(dim=1, keepdim=True), constant], dim=1))
