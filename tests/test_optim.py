import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from ssl_toolkit.optim import (
    OptimizerConfig,
    build_optimizer,
    parameter_groups,
    scaled_lr,
    schedule_factor,
    schedule_weight_decay,
)
from ssl_toolkit.pretext.rotation import Rotation
from ssl_toolkit.schedules import cosine


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_warm_up_then_each_schedule() -> None:
    def factor(name: str, step: int) -> float:
        return schedule_factor(name, step, total=100, warmup=0.2)  # type: ignore[arg-type]

    for name in ("cosine", "linear", "step", "inverse_sqrt", "constant"):
        assert [factor(name, step) for step in (0, 9, 19)] == pytest.approx([0.05, 0.5, 1.0])
        assert factor(name, 20) == pytest.approx(1, abs=0.03)
    assert factor("cosine", 60) == pytest.approx(0.5)
    assert factor("cosine", 40) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factor("cosine", 100) == pytest.approx(0)
    assert factor("linear", 60) == pytest.approx(0.5)
    assert factor("linear", 100) == pytest.approx(0)
    assert [factor("step", step) for step in (59, 60, 79, 80)] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert factor("inverse_sqrt", 79) == pytest.approx(0.5)
    assert factor("constant", 99) == 1


def test_what_is_extended_warms_up_once() -> None:
    factors = [schedule_factor("cosine", step, total=100, warmup=0.2, first=10) for step in range(100)]
    assert factors[:3] == pytest.approx([0.5, 1, 1])
    assert factors[51] == pytest.approx(0.5)


def test_no_warm_up() -> None:
    assert schedule_factor("cosine", 0, total=10, warmup=0) == 1


@pytest.mark.parametrize(("scaling", "expected"), [("none", 0.3), ("linear", 1.2), ("sqrt", 0.6)])
def test_lr_scaling(scaling: str, expected: float) -> None:
    assert scaled_lr(OptimizerConfig(lr=0.3, lr_scaling=scaling), 1024) == pytest.approx(expected)  # type: ignore[arg-type]


def test_norms_and_biases_are_not_decayed() -> None:
    net = network()
    decayed, plain = parameter_groups(net, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(net[0].weight), id(net[3].weight)}
    assert {id(p) for p in plain["params"]} == {id(net[0].bias), id(net[1].weight), id(net[1].bias), id(net[3].bias)}


def test_frozen_weights_are_not_in_the_optimizer() -> None:
    net = network()
    net[0].requires_grad_(False)
    trained = [p for group in build_optimizer(net, OptimizerConfig(), 256).param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in (*net[1].parameters(), *net[3].parameters())}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars", "rmsprop", "adagrad"])
def test_named_parameters_take_their_share_of_the_learning_rate(name: str) -> None:
    net = network()
    optimizer = build_optimizer(net, OptimizerConfig(name, lr=0.1), 256, {"0.weight": 0.25, "0.bias": 0.5})  # type: ignore[arg-type]
    lr = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    shares = {id(net[0].weight): 0.25, id(net[0].bias): 0.5}
    assert lr == {id(p): pytest.approx(0.1 * shares.get(id(p), 1)) for p in net.parameters()}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars", "rmsprop", "adagrad"])
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    net = network()
    lr = {"lars": 5.0, "adagrad": 0.1, "sgd": 0.05}.get(name, 0.01)
    optimizer = build_optimizer(net, OptimizerConfig(name, lr=lr), 256)  # type: ignore[arg-type]
    assert type(optimizer).__name__.lower() == name
    x, y = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_lars_adapts_weights_only() -> None:
    """You et al. 2017: a layer steps by its trust ratio times the gradient, norms and biases by the gradient alone."""
    net = network()
    optimizer = build_optimizer(net, OptimizerConfig("lars", lr=1.0, weight_decay=0.01, momentum=0), 256)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    after = dict(net.named_parameters())
    torch.testing.assert_close(after["3.bias"], before["3.bias"] - 1)
    w = before["3.weight"]
    ratio = 0.001 * w.norm() / (torch.ones_like(w).norm() + 0.01 * w.norm())
    torch.testing.assert_close(after["3.weight"], w - ratio * (1 + 0.01 * w), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("progress", "expected"), [(0, 0.04), (0.5, 0.22), (1, 0.4)])
def test_weight_decay_reaches_its_end_and_spares_norms_and_biases(progress: float, expected: float) -> None:
    net, config = network(), OptimizerConfig(weight_decay=0.04, final_weight_decay=0.4)
    optimizer = build_optimizer(net, config, 256)
    schedule_weight_decay(optimizer, config, progress)
    of_each = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    decayed = {id(net[0].weight), id(net[3].weight)}
    assert of_each == {id(p): pytest.approx(expected) if id(p) in decayed else 0 for p in net.parameters()}


def test_weight_decay_stays_without_an_end() -> None:
    config = OptimizerConfig(weight_decay=0.04)
    optimizer = build_optimizer(network(), config, 256)
    schedule_weight_decay(optimizer, config, 0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.04, 0]


class Decays(pl.Callback):
    """Weight decay of each group in each optimiser step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step > len(self.seen):
            self.seen.append([group["weight_decay"] for group in trainer.optimizers[0].param_groups])


def test_weight_decay_follows_the_training(train_quickly: Callable, noise_images: Callable) -> None:
    config, decays = OptimizerConfig(weight_decay=0.04, final_weight_decay=0.4), Decays()
    train_quickly(Rotation, noise_images(32), epochs=2, accumulate=2, optimizer=config, callbacks=[decays])
    due = [cosine(0.04, 0.4, step / 4) for step in range(4)]
    assert decays.seen == [[pytest.approx(each), 0] for each in due]


def test_weight_decay_goes_on_after_a_kill(train_quickly: Callable, noise_images: Callable, tmp_path: Path) -> None:
    config = OptimizerConfig(weight_decay=0.04, final_weight_decay=0.4)
    common = {"epochs": 2, "checkpoint_every": 1, "optimizer": config}
    whole = train_quickly(Rotation, noise_images(16), out="whole", **common)
    (tmp_path / "whole" / "checkpoints" / "step-00000004.ckpt").unlink()
    resumed = train_quickly(Rotation, noise_images(16), out="whole", resume=True, **common)
    assert resumed.encoder.sha256 == whole.encoder.sha256
