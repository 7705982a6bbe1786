"""What holds for every installed method: it learns, it does not collapse, it trains what it should and no more."""

from __future__ import annotations

import functools
import importlib
import itertools
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import ssl_toolkit.contrastive
import ssl_toolkit.pretext
from ssl_toolkit.augment import eval_view
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.loader import BadImages, ImageLoader, InMemory
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.eval.collapse import effective_rank, embedding_std
from ssl_toolkit.eval.features import Features, extract
from ssl_toolkit.eval.knn import knn
from ssl_toolkit.method import Method
from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.optim import OptimizerConfig
from tests.conftest import tiny_heads

every_method = pytest.mark.parametrize(
    "found", [pytest.param(method_class(name), id=name) for name in installed_methods()]
)


def test_every_method_is_installed() -> None:
    ours = {
        value
        for part in (ssl_toolkit.contrastive, ssl_toolkit.pretext)
        for module in pkgutil.iter_modules(part.__path__, f"{part.__name__}.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.name
    }
    assert ours <= {method_class(name) for name in installed_methods()}, "install the package again"


# What it does to one batch


def small(found: type[Method]) -> Method:
    torch.manual_seed(0)
    config = EncoderConfig("convnet", image_size=32, load_size=32, norm=found.encoder_norm)
    return found(Encoder(config), found.default_views(32), **tiny_heads(found))


def batch_of(label: torch.Tensor) -> Batch:
    image = torch.randint(
        0, 256, (len(label), 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Batch(image, label, torch.arange(len(label)))


UNLABELLED = torch.full((8,), -1)


def backward(found: type[Method]) -> Method:
    """The method after the backward pass of its first batch."""
    method, batch = small(found), batch_of(UNLABELLED)
    method.step(method.views(batch.image), batch)["loss"].backward()
    return method


@every_method
def test_views_have_no_gradient_and_step_returns_finite_scalars(found: type[Method]) -> None:
    method, batch = small(found), batch_of(UNLABELLED)
    views = method.views(batch.image)
    assert not any(view.requires_grad for view in views)
    scalars = method.step(views, batch)
    assert scalars["loss"].requires_grad
    for name, value in scalars.items():
        assert value.ndim == 0, name
        assert value.isfinite(), name


@every_method
def test_every_trained_weight_has_a_gradient_and_only_those(found: type[Method]) -> None:
    method = backward(found)
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.abs().sum() > 0 or "bias" in name, name
    assert all(parameter.requires_grad for parameter in method.encoder.parameters())


@every_method
def test_momentum_networks_and_buffers_have_no_gradient(found: type[Method]) -> None:
    method = backward(found)
    matrices = [(n, p) for n, p in method.named_parameters() if p.ndim > 1 and p.requires_grad]
    for (name, weight), (copy, other) in itertools.combinations(matrices, 2):
        assert not torch.equal(weight, other), f"{copy} starts as {name} and is trained"
    assert not any(buffer.requires_grad for buffer in method.buffers())


@every_method
def test_labels_never_reach_the_loss(found: type[Method]) -> None:
    views = small(found).views(batch_of(UNLABELLED).image)
    scalars = []
    for label in (UNLABELLED, torch.arange(8)):
        method = small(found)  # anew, for a step may change what it remembers
        scalars.append({name: value.item() for name, value in method.step(views, batch_of(label)).items()})
    assert scalars[0] == scalars[1]


@every_method
def test_features_are_the_kept_encoders_not_a_heads(found: type[Method]) -> None:
    method = small(found).eval()
    image = torch.rand(4, 3, 32, 32)
    assert isinstance(method.kept_encoder, Encoder)
    assert method(image).shape == (4, method.encoder.feature_dim)
    assert torch.equal(method(image), method.kept_encoder(image))


@every_method
def test_optimizer_has_the_trained_weights_and_decays_no_norm_or_bias(found: type[Method]) -> None:
    method = small(found)
    groups = method.configure_optimizers()["optimizer"].param_groups
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay.keys() == {parameter for parameter in method.parameters() if parameter.requires_grad}
    for module in method.modules():
        norm = isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm))
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in decay:
                assert (decay[parameter] == 0) == (norm or "bias" in name), f"{name} of {module}"


# What it does to an encoder


@functools.cache
def shapes(word: str) -> InMemory:
    images = open_images(word)
    return InMemory(images, 32, BadImages(images))


def features(encoder: Encoder, word: str) -> Features:
    return extract(encoder, ImageLoader(shapes(word), 32), view=eval_view(32))


def scores(encoder: Encoder) -> tuple[float, float, float]:
    """Accuracy of the nearest neighbours, effective rank and scatter of the features."""
    bank, queries = features(encoder, "shapes:train:1500"), features(encoder, "shapes:test:500")
    return knn(bank, queries)["top1"], effective_rank(queries.x), embedding_std(queries.x)


@functools.cache
def random_accuracy(config: EncoderConfig) -> float:
    return scores(Encoder(config).reinitialized(0))[0]


SIMCLR_VIEWS = {"size": 24, "crop_scale": (0.3, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "blur_p": 0.0}


@pytest.mark.parametrize(("name", "epochs", "views"), [("simclr", 8, SIMCLR_VIEWS), ("rotation", 5, {"size": 24})])
def test_learns(train_quickly: Callable, name: str, epochs: int, views: dict[str, Any]) -> None:
    method = train_quickly(
        method_class(name),
        shapes("shapes:train:1500"),
        size=32,
        epochs=epochs,
        batch_size=100,
        optimizer=OptimizerConfig(lr=3e-3),
        views=views,
    )
    accuracy, rank, scatter = scores(method.kept_encoder)
    assert accuracy > random_accuracy(method.kept_encoder.config) + 0.1
    assert rank > 8
    assert scatter > 0.1
