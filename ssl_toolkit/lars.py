"""LARS: every layer takes steps in proportion to its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

TRUST = 0.001  # eta of the paper


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling around gradient descent with momentum.

    The gradient ``g`` of a weight ``w`` becomes ``q (g + wd w)`` with the trust ratio ``q = eta |w| / (|g| + wd |w|)``;
    where one of the norms is zero, ``q`` is 1. Groups with ``decayed`` false, of norms and biases, keep ``g``: they are
    neither decayed nor adapted. The momentum is that of the adapted gradients, before the learning rate.

    All parameters of a group move together, and nothing waits for the device.

    Args:
        groups: Parameter groups with ``params`` and, where they differ from the others, ``lr``, ``momentum``,
            ``weight_decay`` and ``decayed`` (see `ssl_toolkit.optim.parameter_groups`).
        lr: Learning rate.
        momentum: Share of the last step that the next one keeps, in [0, 1].
        weight_decay: Weight decay of the groups that are decayed.

    Source: You et al. 2017, algorithm 1 and eq. 6; the groups as in Chen et al. 2020, appendix B.8.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "decayed": True})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient.

        Args:
            closure: Computes the gradients first.

        Returns:
            What `closure` returned, the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = [p.grad for p in params]
            if group["decayed"]:
                gradients = _adapted(gradients, params, group["weight_decay"])
            momenta = [self._momentum(p) for p in params]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            torch._foreach_add_(params, momenta, alpha=-group["lr"])
        return loss

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _adapted(gradients: list[Tensor], weights: list[Tensor], weight_decay: float) -> list[Tensor]:
    """``q (g + wd w)`` of each weight."""
    w = torch.stack(torch._foreach_norm(weights))
    g = torch.stack(torch._foreach_norm(gradients))
    q = torch.where((w > 0) & (g > 0), TRUST * w / (g + weight_decay * w), 1.0)
    steps = torch._foreach_add(gradients, weights, alpha=weight_decay)
    torch._foreach_mul_(steps, q.unbind())
    return list(steps)
