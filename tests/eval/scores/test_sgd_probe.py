"""The literature's linear evaluation: it learns, and leaves the encoder and the caller's draws as they were."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import extract
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.sgd_probe import sgd_probe

module = importlib.import_module("ssl_toolkit.eval.scores.sgd_probe")  # the package has its function

SIZES = {"size": 16, "load_size": 16}


@pytest.fixture
def encoder() -> nn.Module:
    """The mean of each channel, behind a batch norm that would move if it were let."""
    return nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def coloured(noise_images: Callable) -> Callable:
    """Images of four classes: one channel is bright, or none."""

    def make(count: int) -> object:
        images = noise_images(count)
        images.pixels //= 3
        for image, label in zip(images.pixels, images.labels, strict=True):
            image[label : label + 1] += 160
        return images

    return make


def test_it_learns_and_the_encoder_stays_as_it_was(encoder: nn.Module, coloured: Callable) -> None:
    train, test = coloured(64), extract(encoder, ImageLoader(coloured(40), 16))
    encoder.train()
    encoder[1].eval()
    before = {name: each.clone() for name, each in encoder.state_dict().items()}
    modes = [each.training for each in encoder.modules()]
    found = sgd_probe(encoder, train, test, **SIZES, epochs=30, batch_size=16, lr=5.0)
    assert found["top1"] > 0.9
    for name, each in encoder.state_dict().items():  # running statistics among them
        assert torch.equal(each, before[name]), name
    assert all(each.grad is None for each in encoder.parameters())
    assert [each.training for each in encoder.modules()] == modes
    assert (found["epochs"], found["batch_size"], found["lr"]) == (30, 16, 5.0 * 16 / 256)
    assert set(found) >= {"top5", "interval", "per_class", "confusion"}


def test_the_test_sets_labels_change_nothing_that_is_learnt(
    monkeypatch: pytest.MonkeyPatch, encoder: nn.Module, coloured: Callable
) -> None:
    learnt = []

    def spy(weight: torch.Tensor, *rest: object) -> object:
        learnt.append(weight.clone())
        return LinearClassifier(weight, *rest)

    monkeypatch.setattr(module, "LinearClassifier", spy)
    test = extract(encoder, ImageLoader(coloured(40), 16))
    for shift, seed in ((0, 0), (1, 0), (0, 1)):
        test.label[:] = (np.arange(40) + shift) % 4
        sgd_probe(encoder, coloured(32), test, **SIZES, epochs=2, batch_size=16, seed=seed)
    assert torch.equal(learnt[0], learnt[1])
    assert not torch.equal(learnt[0], learnt[2])


def test_every_epoch_sees_other_crops_of_every_image_at_a_falling_rate(
    monkeypatch: pytest.MonkeyPatch, coloured: Callable
) -> None:
    seen: list[torch.Tensor] = []
    rates: list[float] = []

    def encode(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.clone())
        return image.mean(dim=(2, 3))

    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD) -> None:
        rates.append(self.param_groups[0]["lr"])
        assert [(group["momentum"], group["weight_decay"]) for group in self.param_groups] == [(0.9, 0.0)] * 2
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    images = coloured(16)
    test = extract(encode, ImageLoader(images, 16))
    seen.clear()
    sgd_probe(encode, images, test, **SIZES, epochs=4, lr=25.6, schedule="cosine")
    assert [each.shape for each in seen] == [(16, 3, 16, 16)] * 4
    assert not torch.equal(seen[0].sort(dim=0).values, seen[1].sort(dim=0).values)
    np.testing.assert_allclose(rates, 1.6 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2)
    rates.clear()
    sgd_probe(encode, images, test, **SIZES, epochs=10, lr=25.6, schedule="step")
    np.testing.assert_allclose(rates, [1.6] * 6 + [0.16] * 2 + [0.016] * 2)


def test_the_callers_draws_go_on_as_if_nothing_had_happened(encoder: nn.Module, coloured: Callable) -> None:
    test = extract(encoder, ImageLoader(coloured(8), 16))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sgd_probe(encoder, coloured(16), test, **SIZES, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_images_that_cannot_be_read_are_stood_in_for(coloured: Callable) -> None:
    images = coloured(32)
    images.broken = (3,)
    encode = nn.Flatten()
    test = extract(encode, ImageLoader(coloured(8), 16))
    assert sgd_probe(encode, images, test, **SIZES, epochs=1, max_bad_rate=0.1)["batch_size"] == 32


def test_wrong_arguments_name_what_they_got(encoder: nn.Module, coloured: Callable) -> None:
    train = coloured(8)
    test = extract(encoder, ImageLoader(train, 16))
    for options in ({"epochs": 0}, {"lr": 0.0}):
        with pytest.raises(UsageError, match="epochs must be at least 1 and the learning rate above 0"):
            sgd_probe(encoder, train, test, **SIZES, **options)
    train.labels = np.full(8, -1)
    with pytest.raises(UsageError, match="8 of 8 images of the training set have no label"):
        sgd_probe(encoder, train, test, **SIZES)
