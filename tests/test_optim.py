import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import nn

from ssl_toolkit.contrastive.simsiam import SimSiam
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.optim import (
    OptimizerConfig,
    build_optimizer,
    parameter_groups,
    scaled_lr,
    schedule_factor,
    schedule_weight_decay,
    scheduled,
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
    decayed, plain = parameter_groups(net, OptimizerConfig(weight_decay=0.1))
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


GRADIENTS = [
    np.array([[0.3, -2.0], [1.5, 0.1]]),
    np.array([[-1.0, 0.2], [0.4, 3.0]]),
    np.array([[0.0, 0.5], [2.0, -1]]),
]


def stepped(config: OptimizerConfig, batch_size: int = 256) -> dict[int, NDArray[np.float64]]:
    """A weight (2, 2) and a bias (2,), by their dimensions, after steps along `GRADIENTS`, or their first rows."""
    net = nn.Linear(2, 2).double()
    for p in net.parameters():
        nn.init.constant_(p, 0.5)
    optimizer = build_optimizer(net, config, batch_size)
    for gradient in GRADIENTS:
        net.weight.grad, net.bias.grad = torch.tensor(gradient), torch.tensor(gradient[0])
        optimizer.step()
    return {p.ndim: p.detach().numpy() for p in net.parameters()}


@pytest.mark.parametrize("name", ["adamw", "adam"])
@pytest.mark.parametrize("betas", [None, (0.9, 0.95), (0.8, 0.999)])
def test_betas_are_those_of_the_moving_averages(name: str, betas: tuple[float, float] | None) -> None:
    """Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2."""
    found = stepped(OptimizerConfig(name, lr=0.1, weight_decay=0.2, betas=betas))[2]  # type: ignore[arg-type]
    first, second = betas or (0.9, 0.999)
    w, m, v = np.full((2, 2), 0.5), np.zeros((2, 2)), np.zeros((2, 2))
    for t, gradient in enumerate(GRADIENTS, start=1):
        g = gradient + (0.2 * w if name == "adam" else 0)
        m, v = first * m + (1 - first) * g, second * v + (1 - second) * g**2
        decay = 0.1 * 0.2 * w if name == "adamw" else 0
        w = w - 0.1 * (m / (1 - first**t)) / (np.sqrt(v / (1 - second**t)) + 1e-8) - decay
    np.testing.assert_allclose(found, w, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_nesterov_looks_a_step_ahead(nesterov: bool) -> None:
    """Sutskever et al. 2013, as deep-learning code writes it: the step is ``g + momentum v``."""
    found = stepped(OptimizerConfig("sgd", lr=0.1, weight_decay=0.2, nesterov=nesterov))[2]
    w, v = np.full((2, 2), 0.5), np.zeros((2, 2))
    for gradient in GRADIENTS:
        g = gradient + 0.2 * w
        v = 0.9 * v + g
        w = w - 0.1 * (g + 0.9 * v if nesterov else v)
    np.testing.assert_allclose(found, w, rtol=1e-12)


@pytest.mark.parametrize("every", [False, True])
def test_norms_and_biases_are_decayed_where_that_is_wanted(every: bool) -> None:
    """MoCo and SimSiam give torch's SGD all parameters."""
    found = stepped(OptimizerConfig("sgd", lr=0.1, weight_decay=0.2, decay_norms_and_biases=every))[1]
    b, v = np.full(2, 0.5), np.zeros(2)
    for gradient in GRADIENTS:
        v = 0.9 * v + gradient[0] + (0.2 * b if every else 0)
        b = b - 0.1 * v
    np.testing.assert_allclose(found, b, rtol=1e-12)


def test_lars_on_everything_is_swavs() -> None:
    """The step of apex' LARC around SGD, over all parameters as in the code of SwAV."""
    found = stepped(OptimizerConfig("lars", lr=3.0, weight_decay=0.01, decay_norms_and_biases=True))
    for ndim in (1, 2):
        w, v = np.full((2,) * ndim, 0.5), np.zeros((2,) * ndim)
        for gradient in GRADIENTS:
            g = gradient[0] if ndim == 1 else gradient
            norm, size = np.linalg.norm(w), np.linalg.norm(g)
            v = 0.9 * v + 0.001 * norm / (size + 0.01 * norm + 1e-8) * (g + 0.01 * w)
            w = w - 3.0 * v
        np.testing.assert_allclose(found[ndim], w, rtol=1e-6)


def test_norms_and_biases_take_their_share_of_the_learning_rate() -> None:
    """Barlow Twins: 0.2 for weights, 0.0048 for the others, each times the batch size over 256."""
    shared = {"lr": 0.2, "weight_decay": 1e-6, "lr_scaling": "linear"}
    found = stepped(OptimizerConfig("lars", bias_lr_share=0.024, **shared), 2048)  # type: ignore[arg-type]
    b, v = np.full(2, 0.5), np.zeros(2)
    for gradient in GRADIENTS:
        v = 0.9 * v + gradient[0]
        b = b - 0.0048 * 2048 / 256 * v
    np.testing.assert_allclose(found[1], b, rtol=1e-12)
    assert np.array_equal(found[2], stepped(OptimizerConfig("lars", **shared), 2048)[2])  # type: ignore[arg-type]


def test_the_learning_rate_ends_where_the_authors_have_it() -> None:
    """Barlow Twins' and VICReg's ``adjust_learning_rate``, behind the warm-up; DINO's ends at ``min_lr``."""
    steps, warm = 1000, 10
    for step in (warm, 300, 999):
        q = 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        found = schedule_factor("cosine", step, steps, warm / steps, 0.001)
        assert found == pytest.approx(q + 0.001 * (1 - q), rel=1e-12)
        dino = 1e-6 + 0.5 * (0.002 - 1e-6) * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        assert 0.002 * schedule_factor("cosine", step, steps, warm / steps, 0.0005) == pytest.approx(dino, rel=1e-12)
    assert schedule_factor("linear", steps, steps, 0, 0.001) == pytest.approx(0.001)
    config = OptimizerConfig("sgd", lr=0.2, warmup=0.0, final_lr_share=0.001)
    configured = scheduled(build_optimizer(network(), config, 256), config, total_steps=2)
    for _ in range(2):
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert [group["lr"] for group in configured["optimizer"].param_groups] == pytest.approx([0.0002] * 2)


class Rates(pl.Callback):
    """Learning rates of the groups in each step, by whether they are constant."""

    def __init__(self) -> None:
        self.seen: list[dict[bool, float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.seen.append({group["constant"]: group["lr"] for group in optimizer.param_groups})


SMALL_SIMSIAM = {"projection_dim": 16, "hidden_dim": 8, "fix_predictor_lr": True}


def test_simsiams_predictor_keeps_its_learning_rate(train_quickly: Callable, noise_images: Callable) -> None:
    """``adjust_learning_rate`` of the authors, whose predictor has ``fix_lr``; theirs goes by epochs."""
    rates, config = Rates(), OptimizerConfig("sgd", lr=0.05, warmup=0.0)
    method = train_quickly(
        SimSiam, noise_images(16), epochs=2, optimizer=config, callbacks=[rates], method=SMALL_SIMSIAM
    )
    expected = [{False: 0.05 * 0.5 * (1 + math.cos(math.pi * step / 4)), True: 0.05} for step in range(4)]
    assert rates.seen == [pytest.approx(each) for each in expected]
    groups = method.configure_optimizers()["optimizer"].param_groups
    constant = {id(p) for group in groups if group["constant"] for p in group["params"]}
    assert constant == {id(p) for p in method.predictor.parameters()}


def test_no_learning_rate_is_constant_by_itself(small_encoder: Encoder) -> None:
    method = SimSiam(small_encoder, SimSiam.default_views(16), projection_dim=16, hidden_dim=8)
    assert not any(group["constant"] for group in method.configure_optimizers()["optimizer"].param_groups)


def test_an_optimiser_of_the_users_own_has_constant_rates_too(small_encoder: Encoder) -> None:
    method = SimSiam(small_encoder, SimSiam.default_views(16), **SMALL_SIMSIAM)  # type: ignore[arg-type]
    method.total_steps, method.optimizer_function = 4, lambda groups: torch.optim.SGD(groups, 0.3)
    configured = method.configure_optimizers()
    for _ in range(2):
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert {g["constant"]: g["lr"] for g in configured["optimizer"].param_groups} == {False: 0.15, True: 0.3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sgd", "betas": (0.9, 0.95)}, "--optimizer.betas is for adamw and adam, sgd has none"),
        ({"betas": (0.9, 1.0)}, r"--optimizer.betas is \(0.9, 1.0\): both must be"),
        ({"name": "adam", "nesterov": True}, "--optimizer.nesterov is for sgd with a momentum"),
        ({"name": "sgd", "nesterov": True, "momentum": 0.0}, "--optimizer.nesterov is for sgd with a momentum"),
        (
            {"schedule": "step", "final_lr_share": 0.1},
            "--optimizer.final-lr-share is for the schedules cosine",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OptimizerConfig(**options)


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


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(weight_decay=0.04, final_weight_decay=0.4, betas=(0.8, 0.95), decay_norms_and_biases=True),
        OptimizerConfig("sgd", lr=0.05, nesterov=True, bias_lr_share=0.5, final_lr_share=0.1),
    ],
    ids=["adamw", "sgd"],
)
def test_a_run_goes_on_after_a_kill(
    config: OptimizerConfig, train_quickly: Callable, noise_images: Callable, tmp_path: Path
) -> None:
    common = {"epochs": 2, "checkpoint_every": 1, "clip_gradient": 0.5, "clip_mode": "parameter", "optimizer": config}
    whole = train_quickly(SimSiam, noise_images(16), out="whole", method=SMALL_SIMSIAM, **common)
    (tmp_path / "whole" / "checkpoints" / "step-00000004.ckpt").unlink()
    resumed = train_quickly(SimSiam, noise_images(16), out="whole", resume=True, method=SMALL_SIMSIAM, **common)
    assert resumed.encoder.sha256 == whole.encoder.sha256
