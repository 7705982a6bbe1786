"""Holes: which pixels of an image are hidden."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = 5
CELLS = 8  # of the noise that free-form holes are made of, a side
SMALLEST, LARGEST = 0.2, 0.3  # share of the image in free-form holes


def centre_mask(image: Tensor) -> Tensor:
    """A square of half the side in the middle: a quarter of the image.

    Args:
        image: (N, C, H, W), of which only shape and device count.

    Returns:
        (N, 1, H, W) bool, true in the hole.

    Source: Pathak et al. 2016, section 3.3.
    """
    n, _, height, width = image.shape
    hole = torch.zeros(n, 1, height, width, dtype=torch.bool, device=image.device)
    top, left = height // 4, width // 4
    hole[..., top : top + height // 2, left : left + width // 2] = True
    return hole


def block_mask(image: Tensor) -> Tensor:
    """One to five blocks anywhere, which may overlap, together between 1/64 and 1/4 of the image.

    Each side of a block is between 2/3 and all of that at which as many squares would cover a quarter of the image.

    Args:
        image: (N, C, H, W) of 16 px and more a side, of which only shape and device count.

    Returns:
        (N, 1, H, W) bool, true in the hole.

    Source: Pathak et al. 2016, section 3.3, which gives the quarter; number and sides are ours.
    """
    n, _, height, width = image.shape
    device = image.device
    count = torch.randint(1, BLOCKS + 1, (n, 1), device=device)
    most = 0.5 / count.sqrt()  # (N, 1) share of a side

    def spans(side: int) -> Tensor:
        """Which of the positions along an axis each block covers, (N, BLOCKS, side)."""
        length = (most * side * (2 / 3 + torch.rand(n, BLOCKS, device=device) / 3)).floor()
        start = (torch.rand(n, BLOCKS, device=device) * (side - length + 1)).floor()
        position = torch.arange(side, device=device)
        return (position >= start[..., None]) & (position < (start + length)[..., None])

    down, across = spans(height), spans(width)
    down &= (torch.arange(BLOCKS, device=device) < count)[..., None]
    return (down[..., None] & across[:, :, None, :]).any(dim=1, keepdim=True)


def free_form_mask(image: Tensor) -> Tensor:
    """Blobs of any form, together 20 to 30 % of the image: smooth noise, cut off where that share is below.

    Args:
        image: (N, C, H, W), of which only shape and device count.

    Returns:
        (N, 1, H, W) bool, true in the hole.

    Source: Pathak et al. 2016, section 3.3, "random region", as the authors' code makes them: noise enlarged by bicubic
        interpolation and thresholded, of which those that cover 20 to 30 % are taken. Here the share is drawn and the
        threshold follows from it.
    """
    n, _, height, width = image.shape
    noise = torch.rand(n, 1, CELLS, CELLS, device=image.device)
    smooth = F.interpolate(noise, (height, width), mode="bicubic").flatten(1)  # (N, H * W)
    share = SMALLEST + (LARGEST - SMALLEST) * torch.rand(n, 1, device=image.device)
    place = (share * smooth.shape[1]).long()
    limit = smooth.sort(dim=1).values.gather(1, place)
    return (smooth < limit).view(n, 1, height, width)
