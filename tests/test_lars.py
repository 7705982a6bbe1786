from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_toolkit.lars import LARS, TRUST
from ssl_toolkit.optim import OptimizerConfig, build_optimizer, parameter_groups

SHAPES = [(4, 3, 3, 3), (4,), (5, 4), (5,), (2, 5), (), (3, 2)]


def network(shapes: list[tuple[int, ...]] = SHAPES) -> nn.ParameterList:
    """Weights and biases of some shapes; the weight (2, 5) is zero."""
    generator = torch.Generator().manual_seed(0)
    filled = [torch.randn(shape, generator=generator) * (shape != (2, 5)) for shape in shapes]
    return nn.ParameterList(nn.Parameter(p) for p in filled)


def set_gradients(net: nn.ParameterList, step: int) -> None:
    """Those of the weight (5, 4) are zero in the second step; the last weight has none."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in list(net)[:-1]:
        p.grad = torch.randn(p.shape, generator=generator) * (p.shape != (5, 4) or step != 1)


def moved(net: nn.ParameterList, optimizer: torch.optim.Optimizer, steps: range = range(4)) -> list[Tensor]:
    for step in steps:
        set_gradients(net, step)
        optimizer.step()
    return [p.detach() for p in net]


def by_hand(net: nn.ParameterList, lr: float, momentum: float, weight_decay: float) -> list[Tensor]:
    """Algorithm 1 of You et al. 2017, a parameter after the other."""
    buffers = [torch.zeros_like(p) for p in net]
    for step in range(4):
        set_gradients(net, step)
        for p, buffer in zip(net, buffers, strict=True):
            if p.grad is None:
                continue
            g = p.grad
            if p.ndim > 1:
                ratio = TRUST * p.norm() / (g.norm() + weight_decay * p.norm()) if p.norm() > 0 and g.norm() > 0 else 1
                g = ratio * (g + weight_decay * p.detach())
            buffer.copy_(momentum * buffer + g)
            p.data -= lr * buffer
    return [p.detach() for p in net]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_the_paper(momentum: float, weight_decay: float) -> None:
    net, config = network(), OptimizerConfig("lars", lr=2.0, momentum=momentum, weight_decay=weight_decay)
    before = [p.detach().clone() for p in net]
    found = moved(net, build_optimizer(net, config, 256))
    torch.testing.assert_close(found, by_hand(network(), 2.0, momentum, weight_decay))
    changed = [not torch.equal(p, old) for p, old in zip(found, before, strict=True)]
    assert changed == [True] * 6 + [False]


@pytest.mark.parametrize("weight_decay", [1e-6, 0.1])
def test_steps_are_those_of_timm(weight_decay: float) -> None:
    """timm takes weight decay as the sign of a group that is adapted."""
    ours, theirs = network(), network()
    config = OptimizerConfig(weight_decay=weight_decay)
    found = moved(ours, LARS(parameter_groups(ours, config), 2.0, 0.9))
    expected = moved(theirs, timm.optim.Lars(parameter_groups(theirs, config), 2.0, 0.9))
    torch.testing.assert_close(found, expected)


def test_a_run_goes_on_to_the_last_bit() -> None:
    config = OptimizerConfig("lars", lr=2.0, weight_decay=0.01)
    whole = network()
    expected = moved(whole, build_optimizer(whole, config, 256))
    first, second = network(), network()
    stopped = build_optimizer(first, config, 256)
    moved(first, stopped, range(2))
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second, config, 256)
    resumed.load_state_dict(stopped.state_dict())
    assert all(map(torch.equal, moved(second, resumed, range(2, 4)), expected))


def test_a_closure_computes_the_gradients() -> None:
    net = network([(2, 2), (2,)])
    optimizer = build_optimizer(net, OptimizerConfig("lars", lr=0.1), 256)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in net)
        loss.backward()
        return loss

    before = closure().item()
    assert optimizer.step(closure).item() == before
    assert closure().item() < before


class Operators(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def operators(shapes: list[tuple[int, ...]]) -> Counter[str]:
    """Those of a step that is not the first."""
    net = network(shapes)
    optimizer = build_optimizer(net, OptimizerConfig("lars", weight_decay=0.01), 256)
    for p in net:
        p.grad = torch.ones_like(p)
    optimizer.step()
    with Operators() as seen:
        optimizer.step()
    return seen.counts


def test_operators_do_not_grow_with_the_network_and_none_waits_for_the_device() -> None:
    counts = operators([(4, 3), (4,)] * 20)
    assert counts == operators([(4, 3), (4,)])
    assert not [name for name in counts if "_local_scalar_dense" in name or "_to_copy" in name]
