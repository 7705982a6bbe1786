"""Layers: all depths in one pass, and the columns that classifiers read of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.eval.features.extraction import extract
from ssl_toolkit.eval.features.layers import Layers, Tokens, token_count


def test_every_depth_is_found_in_its_columns(small_encoder: Encoder, noise_images: Callable) -> None:
    loader = ImageLoader(noise_images(20), 16, batch_size=8)
    layers = Layers(small_encoder)
    x = extract(layers, loader).x
    columns = layers.inputs()
    assert list(columns) == ["output", "depth 2", "depth 3", "depth 4", "last 4"]
    np.testing.assert_array_equal(x[:, columns["output"]], extract(small_encoder, loader).x)
    image = torch.from_numpy(loader.images.pixels).float() / 255
    with torch.no_grad():
        found = small_encoder.eval().layers(image)
    for name in ("depth 2", "depth 3", "depth 4"):
        np.testing.assert_allclose(x[:, columns[name]], found[name].numpy(), atol=1e-5)
    assert x[:, columns["last 4"]].shape == (20, 64 + 128 + 128 + 256)


def test_one_pass_over_images_and_network(small_encoder: Encoder, noise_images: Callable) -> None:
    calls = []
    small_encoder.backbone.features[0].register_forward_hook(lambda module, args, out: calls.append(len(out)))
    extract(Layers(small_encoder), ImageLoader(noise_images(20), 16, batch_size=8))
    assert calls == [8, 8, 4]


def test_class_tokens_come_with_and_without_the_mean_patch() -> None:
    layers = Layers(Encoder(EncoderConfig("vit_tiny_patch16_224", image_size=32, load_size=32)).eval())
    with torch.no_grad():
        assert layers(torch.rand(2, 3, 32, 32)).shape == (2, 5 * 192)
    assert {name: (each.start // 192, each.stop // 192) for name, each in layers.inputs().items()} == {
        "output": (3, 4), "depth 2": (2, 3), "depth 3": (1, 2), "depth 4": (0, 1), "last 4": (0, 4),
        "mean": (4, 5), "output + mean": (3, 5), "last 4 + mean": (0, 5),
    }  # fmt: skip


def test_a_function_has_its_output_only(noise_images: Callable) -> None:
    layers = Layers(lambda image: image.flatten(1))
    assert extract(layers, ImageLoader(noise_images(4), 16)).x.shape == (4, 768)
    assert layers.inputs() == {"output": slice(0, 768)}


def test_tokens_are_patches_or_places_without_the_class_token(small_encoder: Encoder, noise_images: Callable) -> None:
    vit = Encoder(EncoderConfig("test_vit", image_size=16, load_size=16, patch_size=4)).eval()
    for encoder in (small_encoder, vit):
        tokens = Tokens(encoder)
        x = extract(tokens, loader := ImageLoader(noise_images(6), 16)).x
        count = token_count(encoder)
        assert x.shape == (6, count * tokens.width)
        image = torch.from_numpy(loader.images.pixels).float() / 255
        with torch.no_grad():
            expected = encoder.eval().feature_map(image).flatten(2).transpose(1, 2)
        np.testing.assert_allclose(x.reshape(6, count, -1), expected.numpy(), atol=1e-5)
    assert count == 16
    assert token_count(lambda image: image.flatten(1)) == 1
    assert extract(Tokens(lambda image: image.flatten(1)), ImageLoader(noise_images(4), 16)).x.shape == (4, 768)


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_as_before(small_encoder: Encoder, noise_images: Callable, training: bool) -> None:
    small_encoder.train(training)
    extract(Layers(small_encoder), ImageLoader(noise_images(4), 16))
    assert all(module.training == training for module in small_encoder.modules())
