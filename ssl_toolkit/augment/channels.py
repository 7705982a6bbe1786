"""Colour arithmetic on planes: torchvision's brightness, contrast, saturation, hue and greyscale, one pass each.

The working layout is `x`, contiguous float32 planes (C, n, P) in [0, 1]: channels, images, pixels. Every factor is
(n, 1), one a sample. Functions that end in an underscore change `x` in place; their `scratch` is memory to work in,
so that nothing is allocated (on a CPU fresh pages cost more than the arithmetic).
"""

from __future__ import annotations

import torch
from torch import Tensor

# ITU-R 601-2 luma as Pillow and torchvision round it; the sum is .9999.
LUMA = (0.2989, 0.587, 0.114)
_TINY = 1e-12
SCRATCH_PLANES = 5


def grey_of(x: Tensor, out: Tensor) -> Tensor:
    """Luma of RGB planes (3, n, P) -> `out` (n, P)."""
    torch.mul(x[0], LUMA[0], out=out)
    return out.add_(x[1], alpha=LUMA[1]).add_(x[2], alpha=LUMA[2])


def mean_grey(x: Tensor) -> Tensor:
    """Mean luma of each image, (n, 1); for other than three channels the mean over all of them."""
    mean = x.mean(dim=-1, keepdim=True)  # (C, n, 1)
    if len(x) != 3:
        return mean.mean(dim=0)
    return mean[0] * LUMA[0] + mean[1] * LUMA[1] + mean[2] * LUMA[2]


def brightness_(x: Tensor, factor: Tensor) -> None:
    """``factor * x``, clamped to [0, 1]; factors are not negative."""
    x.mul_(factor).clamp_(max=1)


def contrast_(x: Tensor, factor: Tensor) -> None:
    """Blend with the mean grey of the image: ``factor * x + (1 - factor) * mean``, clamped."""
    offset = (1 - factor) * mean_grey(x)
    x.mul_(factor).add_(offset).clamp_(0, 1)


def saturation_(x: Tensor, factor: Tensor, scratch: Tensor) -> None:
    """Blend with the grey pixel: ``factor * x + (1 - factor) * grey``, clamped."""
    grey = grey_of(x, scratch[0]).mul_(1 - factor)
    torch.addcmul(grey, x, factor, out=x).clamp_(0, 1)


def blend_(x: Tensor, factor: Tensor, to_mean: Tensor, to_grey: Tensor, scratch: Tensor) -> None:
    """A different one of the three above for each image: ``factor x + to_mean mean + to_grey grey``, clamped.

    With `factor` f, brightness has (to_mean, to_grey) = (0, 0), contrast (1 - f, 0), saturation (0, 1 - f).
    """
    if len(x) != 3:
        offset = mean_grey(x).mul_(to_mean)
        x.mul_(factor).add_(offset).clamp_(0, 1)
        return
    base = grey_of(x, scratch[0])
    offset = base.mean(dim=-1, keepdim=True).mul_(to_mean)
    base.mul_(to_grey).add_(offset)
    torch.addcmul(base, x, factor, out=x).clamp_(0, 1)


def greyscale_(x: Tensor, scratch: Tensor) -> None:
    """All three channels become the luma."""
    x.copy_(grey_of(x, scratch[0]))


def turn_hue_(x: Tensor, turns: Tensor, scratch: Tensor) -> None:
    """Turn the HSV hue by `turns` (n, 1) of the full circle, exactly, without a branch.

    With chroma ``c = max - min``, u and v the larger and the smaller of green and blue, and t = min(r, u), the hue's
    distance from red is ``|(t - v) / c - 2 [r < u]|`` sixths of a turn, towards green where g > b. After the turn by
    h (in turns), a channel is ``min + c clamp(|6 h - 3| - 1, 0, 1)`` (red) or ``max - c clamp(|6 h - 2k| - 1, 0, 1)``
    (green k = 1, blue k = 2).
    """
    red, green, blue = x.unbind(0)
    high, low, hue, chroma, swap = scratch[:SCRATCH_PLANES].unbind(0)
    torch.maximum(green, blue, out=high)
    torch.minimum(green, blue, out=low)
    torch.lt(red, high, out=swap)
    torch.minimum(red, high, out=hue).sub_(low)
    torch.maximum(red, high, out=high)
    torch.minimum(red, low, out=low)
    torch.sub(high, low, out=chroma).clamp_(min=_TINY)
    torch.addcdiv(swap, hue, chroma, value=-0.5, out=hue).abs_()  # thirds of a turn
    torch.sub(green, blue, out=swap)
    hue.copysign_(swap)
    torch.add(turns + 1, hue, alpha=1 / 3, out=hue).frac_()  # [0, 1): hue and turns are within half a turn each
    torch.sub(high, chroma, alpha=2, out=low)  # min - c
    high.add_(chroma)  # max + c
    torch.addcmul(low, _ramp(hue, 1 / 2, red), chroma, value=6, out=red)
    torch.addcmul(high, _ramp(hue, 1 / 3, green), chroma, value=-6, out=green)
    torch.addcmul(high, _ramp(hue, 2 / 3, blue), chroma, value=-6, out=blue)


def _ramp(hue: Tensor, at: float, out: Tensor) -> Tensor:
    """``clamp(|hue - at|, 1/6, 1/3)``."""
    return torch.sub(hue, at, out=out).abs_().clamp_(1 / 6, 1 / 3)


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """`turn_hue_` as one expression, for a compiler to fuse into one pass."""
    red, green, blue = x.unbind(0)
    upper, lower = torch.maximum(green, blue), torch.minimum(green, blue)
    high, low = torch.maximum(red, upper), torch.minimum(red, lower)
    chroma = (high - low) * 6
    distance = (torch.minimum(red, upper) - lower) / chroma.clamp(min=_TINY) - (red < upper) / 3
    hue = torch.frac(torch.copysign(distance.abs(), green - blue) + turns + 1)
    new_red = low - chroma / 6 + chroma * (hue - 1 / 2).abs().clamp(1 / 6, 1 / 3)
    new_green = high + chroma / 6 - chroma * (hue - 1 / 3).abs().clamp(1 / 6, 1 / 3)
    new_blue = high + chroma / 6 - chroma * (hue - 2 / 3).abs().clamp(1 / 6, 1 / 3)
    return torch.stack([new_red, new_green, new_blue])


def hue_matrix(turns: Tensor) -> Tensor:
    """The linear hue turn: a rotation of RGB space about the grey axis.

    A third of a turn permutes the channels and equals the HSV turn exactly; in between the rotation keeps the sum of
    the channels where HSV keeps the largest and the smallest. (A rotation of the chrominance of YIQ, often used for
    this, turns colours by unequal angles and is further from HSV.)

    Args:
        turns: (n,) of the full circle.

    Returns:
        (n, 3, 3) matrices on RGB.
    """
    angle = (turns * (2 * torch.pi))[:, None, None]
    mean = torch.full((3, 3), 1 / 3)
    swirl = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    return angle.cos() * (torch.eye(3) - mean) + mean + angle.sin() * swirl
