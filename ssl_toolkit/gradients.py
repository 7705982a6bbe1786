"""Gradients that are too long are shortened before they move the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

ClipMode = Literal["norm", "parameter"]


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float, mode: ClipMode = "norm") -> None:
    """Shorten gradients that are longer than `largest`, in place: ``g min(1, largest / (|g| + 1e-6))``.

    Args:
        parameters: Those without a gradient are left out.
        largest: The norm; 0 leaves them alone.
        mode: What a norm is of: ``norm``, of all gradients together (Pascanu et al. 2013, algorithm 1); ``parameter``,
            of each parameter's own, as in the code of DINO.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not largest or not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    if mode == "norm":
        norms = norms.norm().expand_as(norms)
    torch._foreach_mul_(gradients, (largest / (norms + 1e-6)).clamp(max=1.0).unbind())
