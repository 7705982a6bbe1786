"""What holds for every method: it learns, it leaves the views alone, its draws depend on the step alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssl_toolkit.augment import eval_view
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.loader import BadImages, ImageLoader, InMemory
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.eval.features import extract
from ssl_toolkit.eval.knn import knn
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.rotation import Rotation

METHODS = [SimCLR, Rotation]


def shapes(word: str) -> InMemory:
    images = open_images(word)
    return InMemory(images, 32, BadImages(images))


def knn_accuracy(encoder: Encoder) -> float:
    bank, queries = (
        extract(encoder, ImageLoader(shapes(word), 32), view=eval_view(32))
        for word in ("shapes:train:1500", "shapes:test:500")
    )
    return knn(bank, queries)["top1"]


SIMCLR_VIEWS = {"size": 24, "crop_scale": (0.3, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "blur_p": 0.0}


@pytest.mark.parametrize(
    ("found", "epochs", "gain", "views"), [(SimCLR, 8, 0.1, SIMCLR_VIEWS), (Rotation, 5, 0.1, {"size": 24})]
)
def test_learns(train_quickly: Callable, found: type[Method], epochs: int, gain: float, views: dict[str, Any]) -> None:
    method = train_quickly(
        found,
        shapes("shapes:train:1500"),
        size=32,
        epochs=epochs,
        batch_size=100,
        optimizer=OptimizerConfig(lr=3e-3),
        views=views,
    )
    trained, random = knn_accuracy(method.encoder), knn_accuracy(method.encoder.reinitialized(0))
    assert trained > random + gain


@pytest.mark.parametrize("found", METHODS)
def test_every_trained_weight_has_a_gradient_and_only_those(found: type[Method], small_encoder: Encoder) -> None:
    method = found(small_encoder, found.default_views(16))
    image = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(image, torch.full((8,), -1), torch.arange(8))
    views = method.views(image)
    assert not any(view.requires_grad for view in views)
    scalars = method.step(views, batch)
    assert scalars["loss"].ndim == 0
    scalars["loss"].backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or "bias" in name, name


@pytest.mark.parametrize("found", METHODS)
def test_labels_never_reach_the_loss(found: type[Method], small_encoder: Encoder) -> None:
    method = found(small_encoder, found.default_views(16))
    views = method.views(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8))
    losses = [
        method.step(views, Batch(views[0], label, torch.arange(8)))["loss"].item()
        for label in (torch.arange(8), torch.zeros(8, dtype=torch.int64))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("found", METHODS)
def test_features_are_the_encoders_not_the_heads(found: type[Method], small_encoder: Encoder) -> None:
    method = found(small_encoder, found.default_views(16)).eval()
    image = torch.rand(4, 3, 16, 16)
    assert torch.equal(method(image), small_encoder(image))


def test_first_loss_is_that_of_chance() -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(image, torch.full((64,), -1), torch.arange(64))
    encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
    rotation = Rotation(encoder, Rotation.default_views(32))
    loss = rotation.step(rotation.views(image), batch)["loss"].item()
    assert loss == pytest.approx(torch.tensor(4.0).log().item(), abs=0.15)


def test_seed_decides_the_run(train_quickly: Callable, noise_images: Callable) -> None:
    weights = [
        train_quickly(SimCLR, noise_images(16), out=str(number), epochs=1, seed=seed).encoder.sha256
        for number, seed in enumerate((0, 0, 1))
    ]
    assert weights[0] == weights[1] != weights[2]
