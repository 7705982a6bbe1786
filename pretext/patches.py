"""Patches as they are painted: cut out of images, and put together again."""

from __future__ import annotations

from torch import Tensor

from ssl_toolkit.encoders import Encoder


def patchify(image: Tensor, patch: int) -> Tensor:
    """Cut images into square patches that touch.

    Args:
        image: (N, C, H, W), both sides multiples of `patch`.
        patch: Side of a patch P, pixels.

    Returns:
        (N, L, P * P * C): patches row by row, in each the pixels row by row, in each the channels.

    Source: He et al. 2022, section 3; the order is that of the authors' code.
    """
    n, c, height, width = image.shape
    cells = image.view(n, c, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, patch * patch * c)


def unpatchify(patches: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Put the patches (N, L, P * P * C) of `patchify` together again: (N, C, `height`, `width`)."""
    n = len(patches)
    cells = patches.view(n, height // patch, width // patch, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, height, width)


def in_colour(patches: Tensor, encoder: Encoder) -> Tensor:
    """Patches (..., P * P * C) as an encoder sees them, in the units of images: [0, 1]."""
    channels = encoder.config.channels
    pixels = patches.view(*patches.shape[:-1], -1, channels) * encoder.std.flatten() + encoder.mean.flatten()
    return pixels.flatten(-2)
