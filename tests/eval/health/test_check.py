"""Checks before a training: what is wrong with a loss, an optimiser or a configuration shows, and nothing is spoilt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.contrastive.vicreg import VICReg
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.health.check import Trial, first_loss, lr_range, overfit
from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.optim import OptimizerConfig
from tests.conftest import frames_of, small_config, tiny_heads


def batches(count: int, size: int = 16, frames: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 16, 3 * frames, size, size), dtype=torch.uint8, generator=generator)
    return [Batch(image, torch.full((16,), -1), torch.arange(16)) for image in images]


def trial(found: Any = SimCLR, size: int = 16, **optimizer: Any) -> Trial:
    torch.manual_seed(0)
    heads = {name: 64 if value == 16 else value for name, value in tiny_heads(found).items()}
    views = found.default_views(size, channels=3 * frames_of(found))
    method = found(Encoder(small_config(found, size)), views, OptimizerConfig(**optimizer), **heads)
    return Trial(method, images_per_step=16)


class Summed(SimCLR):
    """Its loss is a sum and no mean."""

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"loss": 32 * super().step(views, batch)["loss"]}


class Leaking(SimCLR):
    """Its second view is the first, and its temperature leaves no doubt."""

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        self.temperature = 0.001
        return super().step([views[0], views[0]], batch)


class Undefined(SimCLR):
    """Its loss is not finite."""

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"loss": super().step(views, batch)["loss"] / 0}


# These learn from more than images, which they ask for.
OF_IMAGES = sorted({*installed_methods()} - {"audio_visual", "clip"})


@pytest.mark.parametrize("name", OF_IMAGES)
def test_first_loss_of_every_method_passes(name: str) -> None:
    found = method_class(name)
    check = first_loss(trial(found, size=32), batches(1, 32, frames_of(found)))
    assert check.passed is (None if check.expected is None else True), check


def test_first_loss_is_compared_with_a_guess() -> None:
    assert first_loss(trial(), batches(2)).expected == pytest.approx(math.log(31))
    check = first_loss(trial(VICReg), batches(2))
    assert (check.passed, check.expected) == (None, None)


@pytest.mark.parametrize(("found", "word"), [(Summed, "a sum"), (Leaking, "leaks"), (Undefined, "not finite")])
def test_a_wrong_loss_is_found(found: type[SimCLR], word: str) -> None:
    check = first_loss(trial(found), batches(2))
    assert check.passed is False
    assert word in check.advice


def test_a_few_batches_are_overfitted_and_the_weights_are_as_before() -> None:
    one = trial()
    before = {name: value.clone() for name, value in one.method.state_dict().items()}
    check = overfit(one, batches(2), steps=40)
    assert check.passed
    assert check.value < check.expected
    assert all(torch.equal(before[name], value) for name, value in one.method.state_dict().items())


class Small(SimCLR):
    """Its loss is small, and cannot fall below 0."""

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"loss": super().step(views, batch)["loss"] / 100}


def test_a_small_loss_need_not_fall_below_zero() -> None:
    check = overfit(trial(Small), batches(2), steps=40)
    assert check.passed is True
    assert check.expected is not None
    assert check.expected > 0


def test_without_a_learning_rate_nothing_is_overfitted() -> None:
    assert overfit(trial(lr=1e-12), batches(2), steps=20).passed is False


def test_range_test_suggests_a_rate_and_leaves_the_weights() -> None:
    ticks: list[int] = []
    one = trial(lr_scaling="linear")
    before = one.method.encoder.sha256
    found = lr_range(one, batches(2) * 20, steps=40, tick=lambda: ticks.append(1))
    assert len(found.lr) == len(found.loss) <= len(ticks) <= 40
    assert found.lowest == found.lr[found.loss.argmin()]
    assert found.suggestion == pytest.approx(found.lowest / 10)
    assert 1e-5 < found.suggestion < 1
    assert found.images_per_second > 0
    assert one.method.encoder.sha256 == before


def test_range_test_of_a_loss_that_is_not_finite() -> None:
    with pytest.raises(ToolkitError, match="not finite after 0 steps"):
        lr_range(trial(Undefined), batches(20), steps=20)
