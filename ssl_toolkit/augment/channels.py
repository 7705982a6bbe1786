"""Colour arithmetic: torchvision's brightness, contrast, saturation, hue and greyscale, on planes.

`x` are the channels of n images, float32 in [0, 1]: one tensor (C, n, h, w), which a CPU works through with the fewest
calls, or a tuple of C planes (n, h, w), of which a compiler makes one pass. Every factor is (n, 1, 1), one an image.
Functions that end in an underscore change `x` in place, and work in memory that is kept between calls: on a CPU fresh
pages cost more than the arithmetic. None has a branch that depends on a value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_toolkit.augment.workspace import take

Planes = Tensor | tuple[Tensor, ...]

# ITU-R 601-2 luma as Pillow and torchvision round it; the sum is .9999.
LUMA = (0.2989, 0.587, 0.114)
_TINY = 1e-12


def each(x: Planes, function: Callable[[Tensor], Tensor]) -> Planes:
    """A function of every channel."""
    return function(x) if isinstance(x, Tensor) else tuple(map(function, x))


def luma(x: Planes, out: Tensor | None = None) -> Tensor:
    """Luma of RGB, (n, h, w); for other than three channels their mean."""
    if len(x) != 3:
        return sum(x[1:], x[0]) / len(x)
    red, green, blue = x
    return torch.mul(red, LUMA[0], out=out).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def blend_(x: Planes, keep: Tensor, to_luma: Tensor) -> None:
    """``keep x + to_luma luma(x)``, clamped.

    With a factor f, saturation is (f, 1 - f), brightness (f, 0), greyscale (0, 1).
    """
    base = luma(x, _scratch(x, 1)[0]).mul_(to_luma)
    each(x, lambda plane: torch.addcmul(base, plane, keep, out=plane).clamp_(0, 1))


def scale_(x: Planes, factor: Tensor) -> None:
    """``factor x``, clamped: brightness."""
    each(x, lambda plane: plane.mul_(factor).clamp_(max=1))


def contrast_(x: Planes, factor: Tensor) -> None:
    """``factor x + (1 - factor) m`` with the image's mean luma m, clamped."""
    offset = luma(each(x, lambda plane: plane.mean((-2, -1), keepdim=True))).mul_(1 - factor)
    # Not `addcmul`, which on a CPU is four times slower where two of its operands are broadcast.
    each(x, lambda plane: plane.mul_(factor).add_(offset).clamp_(0, 1))


def turn_hue_(x: Planes, turns: Tensor) -> None:
    """Turn the HSV hue by `turns` of the full circle, exactly.

    With chroma ``c = max - min``, u and v the larger and the smaller of green and blue, and t = min(r, u), the hue's
    distance from red is ``|(t - v) / c - 2 [r < u]|`` sixths of a turn, towards green where g > b. After the turn by
    h (in turns), a channel is ``min + c clamp(|6 h - 3| - 1, 0, 1)`` (red) or ``max - c clamp(|6 h - 2k| - 1, 0, 1)``
    (green k = 1, blue k = 2).
    """
    red, green, blue = x
    high_, low_, hue_, chroma_ = _scratch(x, 4)
    high = torch.maximum(green, blue, out=high_)
    low = torch.minimum(green, blue, out=low_)
    swap = torch.lt(red, high, out=take("swap", tuple(red.shape), red.device))
    hue = torch.minimum(red, high, out=hue_).sub_(low)
    torch.maximum(red, high, out=high)
    torch.minimum(red, low, out=low)
    chroma = torch.sub(high, low, out=chroma_).clamp_(min=_TINY)
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


def _scratch(x: Planes, count: int) -> tuple[Tensor | None, ...]:
    """Memory for so many planes; None where the allocator keeps its own."""
    if not isinstance(x, Tensor) or x.device.type != "cpu":
        return (None,) * count
    return tuple(take(f"scratch {number}", tuple(x.shape[1:]), x.device) for number in range(count))


def mix_channels_(x: Planes, matrix: Tensor, offset: Tensor) -> None:
    """``matrix x + offset`` at every pixel, clamped.

    Args:
        x: RGB.
        matrix: (n, 3, 3).
        offset: (n, 3).
    """
    before = [plane.clone() for plane in x]
    for row in range(3):
        plane = torch.addcmul(offset[:, row, None, None], before[0], matrix[:, row, 0, None, None], out=x[row])
        for column in (1, 2):
            plane.addcmul_(before[column], matrix[:, row, column, None, None])
        plane.clamp_(0, 1)


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
    angle = turns * (2 * torch.pi)
    mean = (1 - angle.cos()) / 3
    swirl = angle.sin() / 3**0.5
    one, two, three = angle.cos() + mean, mean - swirl, mean + swirl
    return torch.stack([one, two, three, three, one, two, two, three, one], dim=1).view(-1, 3, 3)
