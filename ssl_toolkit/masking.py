"""Which patches of an image are hidden: at random, in squares, in blocks.

Patches are counted row by row in a grid of L = rows x columns. What is drawn comes from the global generators.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Grid = tuple[int, int]
Range = tuple[float, float]

SMALLEST_BLOCK = 4  # patches
NARROWEST = 0.3  # height over width of a block, or width over height
BLOCKS = 10  # that may overlap: they nearly always cover what is to be hidden
LEAST_CONTEXT = 20  # of so many patches one is context at least


def visible_count(length: int, ratio: float) -> int:
    """Patches of `length` that are shown where `ratio` is hidden, rounded: at least one is shown and one is hidden."""
    return min(max(1, round(length * (1 - ratio))), length - 1)


def random_masking(n: int, length: int, ratio: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Draw the patches that are shown, for each image by itself, all choices equally likely.

    Args:
        n: Number of images N.
        length: Patches of an image L, at least 2.
        ratio: Share that is hidden; see `visible_count`.
        device: Of what is returned.

    Returns:
        Places of the visible patches (N, V) int64, ascending; which patches are hidden, (N, L) bool.

    Source: He et al. 2022, section 3.
    """
    return _first(torch.rand(n, length, device=device), visible_count(length, ratio))


def square_masking(n: int, grid: Grid, ratio: float, side: int, device: torch.device | None = None) -> Tensor:
    """Hide squares of patches that lie on a coarser grid, all choices equally likely.

    Args:
        n: Number of images N.
        grid: Rows and columns of patches, more than one square of them.
        ratio: Share of the squares that is hidden; see `visible_count`.
        side: Of a square, patches; where it does not divide the grid, the last ones are cut off.
        device: Of what is returned.

    Returns:
        Which patches are hidden, (N, L) bool.

    Source: Xie et al. 2022 (SimMIM), section 3.2.
    """
    rows, columns = (-(-each // side) for each in grid)
    squares = random_masking(n, rows * columns, ratio, device)[1].view(n, rows, columns)
    patches = squares.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return patches[:, : grid[0], : grid[1]].flatten(1)


def block_masking(share: Tensor, grid: Grid) -> Tensor:
    """Hide rectangles of many sizes and forms until the share is reached, of which the last one may be cut off.

    Args:
        share: Of each image's patches that is hidden, (N,) in [0, 1]; rounded, 0 for none.
        grid: Rows and columns of patches.

    Returns:
        Which patches are hidden, (N, L) bool, on the device of `share`.

    Source: Bao et al. 2022 (BEiT), algorithm 1; of blocks of four patches and more, up to 0.3 times as wide as high or
        as high as wide. As in the code of DINOv2, but that exactly the share is hidden.
    """
    n, device = len(share), share.device
    count = (share * math.prod(grid)).round()[:, None]
    area = SMALLEST_BLOCK + torch.rand(n, BLOCKS, device=device) * (count - SMALLEST_BLOCK).clamp_min(0)
    form = torch.exp((2 * torch.rand(n, BLOCKS, device=device) - 1) * math.log(1 / NARROWEST))
    height, width = (side.sqrt().round() for side in (area * form, area / form))
    return _rank_by_block(height, width, grid) < count


def inverse_block_masking(
    n: int, grid: Grid, ratio: float, side: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Show squares anywhere, which may overlap, and hide all around them.

    Args:
        n: Number of images N.
        grid: Rows and columns of patches.
        ratio: Share that is hidden; see `visible_count`.
        side: Of a square, patches.
        device: Of what is returned.

    Returns:
        Places of the visible patches (N, V) int64, ascending; which patches are hidden, (N, L) bool.

    Source: Baevski et al. 2023 (data2vec 2.0), section 3.2, inverse block masking; as many are shown in each image.
    """
    count = visible_count(math.prod(grid), ratio)
    squares = torch.full((n, 1 + 2 * count // side**2), float(side), device=device)
    return _first(_rank_by_block(squares, squares, grid), count)


def multiblock_masking(
    n: int,
    grid: Grid,
    targets: int = 4,
    target_scale: Range = (0.15, 0.2),
    target_ratio: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0),
) -> tuple[Tensor, Tensor]:
    """Some small blocks to predict, and a large one to predict them from, which has nothing of them.

    The sizes of the blocks are drawn for the whole batch, their places for each image. Where the targets leave
    hardly any context to an image, it has the first of them only, several times, and all else is context. Of what the
    context of an image has more than that of another, patches are left out at random.

    Args:
        n: Number of images N.
        grid: Rows and columns of patches, at least 2 each.
        targets: Number of blocks to predict M.
        target_scale: Least and largest share of the patches in one of them.
        target_ratio: Least and largest height over width.
        context_scale: Least and largest share of the patches in the block, a square, that context is taken from.

    Returns:
        Places of the context (N, V) int64, ascending; places of the targets (N, M, K) int64. Both on the CPU, where
        the smallest context can be known without waiting for a device.

    Source: Assran et al. 2023 (I-JEPA), section 3 and the authors' ``masks/multiblock.py``, which takes the upper
        patches of a context that is too large.
    """
    length = math.prod(grid)
    blocks = _block_places(n, targets, _block_size(grid, target_scale, target_ratio), grid)
    inside = _marked(_block_places(n, 1, _block_size(grid, context_scale, (1.0, 1.0)), grid), length)
    context = inside & ~_marked(blocks, length)
    few = (context.sum(1) < max(1, length // LEAST_CONTEXT))[:, None]
    blocks = torch.where(few[..., None], blocks[:, :1], blocks)
    context = torch.where(few, ~_marked(blocks, length), context)
    order = torch.rand(n, length) + (~context).float()  # context first
    return _first(order, int(context.sum(1).min()))[0], blocks


def _first(order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the `count` patches that come first in each image's `order` (N, L), ascending; which do not."""
    visible = order.argsort(dim=1)[:, :count].sort(dim=1).values
    return visible, torch.ones_like(order, dtype=torch.bool).scatter(1, visible, value=False)


def _rank_by_block(height: Tensor, width: Tensor, grid: Grid) -> Tensor:
    """Put blocks anywhere, and rank patches: those of the first block row by row, of the second, ..., then the others.

    Args:
        height: Of each image's blocks, (N, B) patches; at least one is taken, and at most what there is.
        width: Likewise.
        grid: Rows and columns of patches.

    Returns:
        (N, L) int64; patches of no block are in random order.
    """
    (n, count), length, device = height.shape, math.prod(grid), height.device

    def spans(side: Tensor, most: int) -> Tensor:
        """Which positions along an axis each block covers, (N, B, most)."""
        side = side.clamp(1, most)
        start = (torch.rand(n, count, device=device) * (most - side + 1)).floor()
        position = torch.arange(most, device=device)
        return (position >= start[..., None]) & (position < (start + side)[..., None])

    covered = (spans(height, grid[0])[..., None] & spans(width, grid[1])[:, :, None]).flatten(2)  # (N, B, L)
    within = torch.arange(length, device=device) / length
    first = covered.to(torch.uint8).argmax(1) + within
    order = torch.where(covered.any(1), first, count + torch.rand(n, length, device=device))
    return order.argsort(dim=1).argsort(dim=1)


def _block_size(grid: Grid, scale: Range, ratio: Range) -> Grid:
    """Height and width of a block of a random share and form, less than the grid's."""
    share, form = (low + (high - low) * torch.rand(()).item() for low, high in (scale, ratio))
    area = math.prod(grid) * share
    height, width = round(math.sqrt(area * form)), round(math.sqrt(area / form))
    return min(max(1, height), grid[0] - 1), min(max(1, width), grid[1] - 1)


def _block_places(n: int, count: int, size: Grid, grid: Grid) -> Tensor:
    """Places of the patches of so many blocks anywhere in each image, (n, count, height * width) int64."""
    top, left = (torch.randint(0, most - side + 1, (n, count, 1, 1)) for side, most in zip(size, grid, strict=True))
    places = (top + torch.arange(size[0])[:, None]) * grid[1] + left + torch.arange(size[1])
    return places.flatten(2)


def _marked(places: Tensor, length: int) -> Tensor:
    """Which patches of an image are in any of its blocks (N, M, K): (N, length) bool."""
    return torch.zeros(len(places), length, dtype=torch.bool).scatter(1, places.flatten(1), value=True)
