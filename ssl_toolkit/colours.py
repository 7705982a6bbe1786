"""The CIE Lab colour space: lightness apart from colour."""

from __future__ import annotations

import torch
from kornia.color import lab_to_rgb as kornia_lab_to_rgb
from kornia.color import rgb_to_lab as kornia_rgb_to_lab
from torch import Tensor

# Centre and scale of Lab for networks: of L, and of a and b, which in photographs deviate by 11 and 17.
LIGHTNESS_MEAN, LIGHTNESS_STD = 50.0, 25.0
COLOUR_STD = 15.0

ROUNDING = 0.01  # of a and b; one step of one byte makes more than 0.1


def rgb_to_lab(image: Tensor) -> Tensor:
    """From sRGB to CIE Lab (D65), in float32 under mixed precision.

    Args:
        image: (N, 3, H, W) in [0, 1].

    Returns:
        (N, 3, H, W): L in 0 to 100, a and b within about -110 to 110; greys have a = b = 0, exactly.
    """
    with torch.autocast(image.device.type, enabled=False):
        lab: Tensor = kornia_rgb_to_lab(image if image.dtype == torch.float64 else image.float())
        # Kornia's white is not quite that of its matrix: without this, a and b of a grey would tell its lightness.
        ab = lab[:, 1:]
        return torch.cat([lab[:, :1], ab.masked_fill(ab.abs() < ROUNDING, 0)], dim=1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """From CIE Lab (D65) to sRGB, colours outside its gamut cut off.

    Args:
        lab: (N, 3, H, W): L in 0 to 100, a, b.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    with torch.autocast(lab.device.type, enabled=False):
        image: Tensor = kornia_lab_to_rgb(lab if lab.dtype == torch.float64 else lab.float(), clip=True)
    return image
