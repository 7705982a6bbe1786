"""Networks that follow a trained one: the same at the start, moved once a step by the formula, trained by nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ssl_toolkit.contrastive.byol import BYOL
from ssl_toolkit.contrastive.dino import DINO
from ssl_toolkit.contrastive.moco import MoCo, MoCoV3
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.method import Method

SMALL: dict[type[Method], dict[str, int]] = {
    MoCo: {"hidden_dim": 8, "projection_dim": 4, "queue_size": 16},
    MoCoV3: {"hidden_dim": 8, "projection_dim": 4},
    BYOL: {"hidden_dim": 8, "projection_dim": 4},
    DINO: {"hidden_dim": 8, "bottleneck_dim": 4, "prototypes": 8, "freeze_last_layer": 0},
}
FOLLOWERS = {
    MoCo: {"key_encoder": "encoder", "key_projector": "projector"},
    MoCoV3: {"key_encoder": "encoder", "key_projector": "projector"},
    BYOL: {"target_encoder": "encoder", "target_projector": "projector"},
    DINO: {"teacher_encoder": "encoder", "teacher_head": "head"},
}
each_method = pytest.mark.parametrize("found", SMALL)


def small(found: type[Method], encoder: Encoder, **options: Any) -> Method:
    return found(encoder, found.default_views(16), **SMALL[found] | options)  # type: ignore[call-arg]


def pairs(method: Method) -> list[tuple[nn.Module, nn.Module]]:
    names = next(names for found, names in FOLLOWERS.items() if isinstance(method, found))
    return [(method.get_submodule(follower), method.get_submodule(leader)) for follower, leader in names.items()]


def vector(*modules: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def some_batch() -> Batch:
    image = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.zeros(6), torch.arange(6))


def norm_network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_update_by_the_formula() -> None:
    leader = norm_network()
    follower = momentum_copy(norm_network())
    before = vector(follower)
    momentum_update(follower, leader, 0.9)
    expected = 0.9 * before + 0.1 * vector(leader)
    torch.testing.assert_close(vector(follower), expected)


def test_update_leaves_buffers_alone() -> None:
    leader = norm_network()
    follower = momentum_copy(leader)
    leader(torch.randn(8, 3))
    momentum_update(follower, leader, 0.5)
    assert all(torch.equal(mine, its) for mine, its in zip(follower.buffers(), norm_network().buffers(), strict=True))


@each_method
def test_statistics_of_followers_are_of_what_they_see(small_encoder: Encoder, found: type[Method]) -> None:
    method = small(found, small_encoder, momentum=0.5)
    seen: dict[nn.Module, list[Tensor]] = {}
    first = {
        norm: norm.running_mean.clone()
        for follower, _ in pairs(method)
        for norm in follower.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
    }
    assert first
    for norm in first:
        norm.register_forward_pre_hook(lambda module, args: seen.setdefault(module, []).append(args[0].detach()))
    method.step(method.views(some_batch().image), some_batch())["loss"].backward()
    method.after_update()
    for norm, expected in first.items():
        for x in seen[norm]:
            mean = x.mean([axis for axis in range(x.ndim) if axis != 1])
            expected = expected.lerp(mean, norm.momentum)
        torch.testing.assert_close(norm.running_mean, expected)


def test_update_leaves_the_leader_alone() -> None:
    leader = norm_network()
    before = vector(leader)
    momentum_update(momentum_copy(norm_network()), leader, 0.5)
    assert torch.equal(vector(leader), before)


def test_a_copy_shares_nothing_and_wants_no_gradient() -> None:
    leader = norm_network()
    follower = momentum_copy(leader)
    assert not any(p.requires_grad for p in follower.parameters())
    assert all(p.requires_grad for p in leader.parameters())
    storages = {t.data_ptr() for t in leader.state_dict().values()}
    assert not storages & {t.data_ptr() for t in follower.state_dict().values()}


@each_method
def test_followers_start_as_copies(small_encoder: Encoder, found: type[Method]) -> None:
    for follower, leader in pairs(small(found, small_encoder)):
        theirs = leader.state_dict()
        assert follower.state_dict().keys() == theirs.keys()
        assert all(torch.equal(mine, theirs[name]) for name, mine in follower.state_dict().items())


@each_method
def test_followers_are_not_in_the_optimizer(small_encoder: Encoder, found: type[Method]) -> None:
    method = small(found, small_encoder)
    groups = method.configure_optimizers()["optimizer"].param_groups
    trained = {id(p) for group in groups for p in group["params"]}
    following = {id(p) for follower, _ in pairs(method) for p in follower.parameters()}
    assert not trained & following
    assert trained == {id(p) for p in method.parameters()} - following


@each_method
def test_followers_get_no_gradient_and_leaders_do(small_encoder: Encoder, found: type[Method]) -> None:
    method = small(found, small_encoder)
    views = [view.requires_grad_() for view in method.views(some_batch().image)]
    made: list[tuple[nn.Module, Tensor]] = []
    for follower, _ in pairs(method):
        follower.register_forward_hook(lambda module, args, output: made.append((module, output)))
    method.step(views, some_batch())["loss"].backward()
    assert {module for module, _ in made} == {follower for follower, _ in pairs(method)}
    assert not any(output.requires_grad for _, output in made)
    for follower, leader in pairs(method):
        assert all(p.grad is None for p in follower.parameters())
        assert all(p.grad is not None for p in leader.parameters())


class Weights(pl.Callback):
    """Step, followers' and leaders' weights at the start and after each batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        followers, leaders = zip(*pairs(pl_module), strict=True)
        self.seen.append((trainer.global_step, vector(*followers), vector(*leaders)))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.on_train_start(trainer, pl_module)


@each_method
def test_followers_move_once_a_step_on_their_schedule(
    train_quickly: Callable, noise_images: Callable, found: type[Method]
) -> None:
    # Two batches an optimiser step, so every other batch only accumulates; 2 steps an epoch, 4 in all.
    class Small(found):  # type: ignore[valid-type, misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, **SMALL[found], momentum=0.6)

    weights = Weights()
    train_quickly(Small, noise_images(32), epochs=2, accumulate=2, callbacks=[weights])
    assert [step for step, _, _ in weights.seen] == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    for (step, before, _), (next_step, after, leader) in zip(weights.seen, weights.seen[1:], strict=False):
        if step == next_step:
            assert torch.equal(after, before)
            continue
        m = 0.6 if found is MoCo else 1 - 0.4 * (1 + math.cos(math.pi * step / 4)) / 2
        torch.testing.assert_close(after, m * before + (1 - m) * leader)
        assert not torch.equal(after, before)


@pytest.mark.parametrize("found", [MoCoV3, BYOL, DINO])
@pytest.mark.parametrize(("step", "momentum"), [(0, 0.6), (50, 0.8), (100, 1.0)])
def test_momentum_rises_to_one(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, found: type[Method], step: int, momentum: float
) -> None:
    method = small(found, small_encoder, momentum=0.6)
    method.total_steps = 100
    monkeypatch.setattr(found, "global_step", property(lambda self: step))
    with torch.no_grad():
        for p in method.encoder.parameters():
            p += 1
    before = [vector(follower) for follower, _ in pairs(method)]
    method.after_update()
    for (follower, leader), start in zip(pairs(method), before, strict=True):
        expected = momentum * start + (1 - momentum) * vector(leader)
        torch.testing.assert_close(vector(follower), expected)


@each_method
@pytest.mark.parametrize("momentum", [1.5, -0.1, float("nan")])
def test_a_momentum_that_is_no_share_is_refused(small_encoder: Encoder, found: type[Method], momentum: float) -> None:
    with pytest.raises(UsageError, match=rf"^--method.momentum is {momentum}: it must be from 0 to 1$"):
        small(found, small_encoder, momentum=momentum)
