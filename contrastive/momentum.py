"""Momentum networks: copies that follow a trained network by a moving average and never see a gradient."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """A copy with the same weights that no optimiser trains; it follows by `momentum_update`."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def momentum_update(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Move the parameters of `follower` towards those of `leader` by a moving average.

    Buffers stay: the statistics of its batch norms come from what passes through it, as in the authors' code of MoCo,
    BYOL and DINO. Its weights are others than the leader's, whose statistics would not fit them.

    Args:
        follower: From `momentum_copy`.
        leader: The network that is trained.
        momentum: Share that stays, in [0, 1]: ``follower = momentum follower + (1 - momentum) leader``.

    Source: He et al. 2020 (MoCo), equation 2; Tarvainen & Valpola 2017.
    """
    torch._foreach_lerp_(list(follower.parameters()), list(leader.parameters()), 1 - momentum)
