"""Activation maximisation: the image that a unit, or a class, answers to most, by gradient ascent from noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# How colours of photographs vary together (ImageNet), as Lucid has it: rows are red, green and blue.
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_SPREAD = 1.1  # standard deviation before the sigmoid: that of photographs after it is about a quarter


def ascend(
    objective: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int, int],
    *,
    steps: int = 200,
    rate: float = 0.05,
    jitter: int | None = None,
    smooth: float = 1.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Images that raise an objective, one each, from noise.

    An image is a spectrum whose frequencies are scaled down as those of photographs are, with no more contrast than
    photographs have, through a sigmoid. In each step it is shifted at random and its total variation is charged for,
    so that no single pixel does the work.

    Args:
        objective: Images (N, C, H, W) in [0, 1] to numbers (N,), one an image, with gradient.
        shape: (N, C, H, W).
        steps: Of Adam.
        rate: Its learning rate.
        jitter: Largest shift, pixels; None takes a sixteenth of the side.
        smooth: Weight of the total variation, the mean absolute difference of neighbouring pixels, in units of the
            objective's present size.
        seed: Equal seeds give equal images.
        device: Where to compute.

    Returns:
        Images (N, C, H, W) float32 in [0, 1], and the objective at the start and at the end, (2, N), both without
        shifts.

    Source: Olah, Mordvintsev and Schubert 2017, Feature visualization, Distill; Lucid's parametrisation.
    """
    n, channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.randn(n, channels, height, width // 2 + 1, 2, generator=generator) * 0.01
    spectrum = spectrum.to(device).requires_grad_()
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2).sqrt()
    scale = (math.sqrt(height * width) / frequency.clamp(min=1 / max(height, width))).to(device)
    jitter = max(1, min(height, width) // 16) if jitter is None else jitter

    def image() -> Tensor:
        x = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=(height, width), norm="ortho")
        if channels == 3:
            x = torch.einsum("rc,nchw->nrhw", x.new_tensor(_COLOURS) / 0.27, x)
        spread = x.flatten(1).std(dim=1)[:, None, None, None]
        made: Tensor = (x / (spread / _SPREAD).clamp(min=1)).sigmoid()
        return made

    with torch.no_grad():
        start = objective(image())
    optimizer = torch.optim.Adam([spectrum], lr=rate)
    for _ in range(steps):
        x = image()
        down, right = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
        variation = x.diff(dim=2).abs().mean(dim=(1, 2, 3)) + x.diff(dim=3).abs().mean(dim=(1, 2, 3))
        value = objective(x.roll((down, right), (2, 3)))
        loss = (smooth * variation * value.detach().abs() - value).sum()
        (spectrum.grad,) = torch.autograd.grad(loss, [spectrum])
        optimizer.step()
    with torch.no_grad():
        x = image()
        return x, torch.stack([start, objective(x)])
