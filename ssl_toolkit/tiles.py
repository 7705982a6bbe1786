"""Tiles: an image as a grid of patches that do not touch, for tasks that ask where a patch belongs."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

SMALLEST_TILE = 8  # px: what small networks still make a feature map of
FLAT = 1 / 255  # standard deviation below which a tile shows nothing


def tile_and_gap(side: int, grid: int, tile_share: float, gap_share: float) -> tuple[int, int]:
    """Side of a tile and least gap between two, in pixels, which leave room for a shift from cells of 10 px on.

    Args:
        side: Of the image, pixels.
        grid: Cells a side.
        tile_share: Side of a tile over that of a cell.
        gap_share: Least gap over the side of a cell.

    Raises:
        UsageError: If the image is too small for tiles of 8 px that do not touch.

    Examples:
        >>> tile_and_gap(225, 3, 64 / 75, 1 / 75)
        (64, 1)
    """
    cell = side // grid
    if cell <= SMALLEST_TILE:
        raise UsageError(
            f"views of {side} px are too small for a grid of {grid}x{grid} tiles of at least {SMALLEST_TILE} px "
            f"that do not touch: give --views.size {grid * (SMALLEST_TILE + 1)} or more"
        )
    tile = max(SMALLEST_TILE, min(round(tile_share * cell), cell - 2))
    return tile, max(1, min(round(gap_share * cell), cell - tile - 1))


def cut_tiles(image: Tensor, grid: int, tile: int, gap: int) -> Tensor:
    """One tile out of each cell of a grid, anywhere in its cell but for the gap.

    Without a gap, lines that go on from tile to tile would give the places away; without the random shifts, the tiles'
    positions would be known to the pixel.

    Args:
        image: (N, C, S, S).
        grid: Cells a side.
        tile: Side of a tile, pixels.
        gap: Least distance of two tiles, pixels.

    Returns:
        (N, grid * grid, C, tile, tile), row by row.

    Raises:
        UsageError: If a tile with its gap is larger than a cell.

    Source: Doersch et al. 2015, section 3; Noroozi & Favaro 2016, section 4.2.
    """
    n, _, height, width = image.shape
    cell = min(height, width) // grid
    shifts = cell - tile - gap + 1  # the gap is kept free on one side of each tile, which serves both neighbours
    if shifts < 1:
        raise UsageError(
            f"tiles of {tile} px with a gap of {gap} px do not fit a grid of {grid}x{grid} in {height}x{width} px: "
            f"cells have {cell} px"
        )
    place = torch.arange(grid * grid, device=image.device)
    corner = torch.stack([place // grid, place % grid]) * cell  # (2, G)
    top, left = corner[:, None] + torch.randint(shifts, (2, n, grid * grid), device=image.device)  # (N, G)
    inside = torch.arange(tile, device=image.device)
    rows = (top[..., None] + inside)[..., :, None]  # (N, G, tile, 1)
    columns = (left[..., None] + inside)[..., None, :]  # (N, G, 1, tile)
    which = torch.arange(n, device=image.device).view(n, 1, 1, 1)
    return image.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 1, 4, 2, 3)


def standardized(tile: Tensor) -> Tensor:
    """Each channel of each tile by itself with mean 0 and standard deviation 1: brightness does not tell neighbours.

    Args:
        tile: (..., C, h, w).

    Source: Noroozi & Favaro 2016, section 4.2.
    """
    mean = tile.mean(dim=(-2, -1), keepdim=True)
    std = tile.std(dim=(-2, -1), keepdim=True, correction=0)
    return (tile - mean) / std.clamp_min(FLAT)


def encode_apart(encoder: Encoder, tiles: Tensor) -> Tensor:
    """Encode tiles (N, G, C, h, w) to (N, G, D), one place after another.

    No batch norm sees two tiles of one image, so that none of them hears of its siblings on that way.
    """
    return torch.stack([encoder.encode_patch(tile) for tile in tiles.unbind(1)], dim=1)
