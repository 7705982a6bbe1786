"""The linear probe on spoilt images: what it reports is what it answered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.eval.features.corruptions import CORRUPTIONS
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.protocol import score
from ssl_toolkit.eval.scores.robustness import corruptions


def test_a_probe_of_brightness_errs_where_brightness_is_changed(noise_images: Callable) -> None:
    images = noise_images(20)
    images.pixels[:] = np.where(images.labels % 2, 200, 60)[:, None, None, None]
    images.labels = images.labels % 2
    one = torch.ones(1)
    probe = LinearClassifier(torch.tensor([[-1.0, 1.0]]), torch.tensor([0.5, -0.5]), 0 * one, one, np.array([0, 1]))

    def encode(image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(1, 2, 3))[:, None]

    found = corruptions(encode, probe, ImageLoader(images, 16, batch_size=8), count=20)
    assert found["clean"] == 1
    # Of dark images, 60 / 255, severities 3 to 5 are beyond a half; nothing moves the mean as far but fog, which hides.
    assert found["by_corruption"]["brightness"] == pytest.approx(1 - 0.5 * 3 / 5)
    exact = set(CORRUPTIONS) - {"fog", "brightness"}
    assert {name: found["by_corruption"][name] for name in exact} == dict.fromkeys(exact, 1.0)
    assert found["top1"] == pytest.approx(np.mean(list(found["by_corruption"].values())))
    assert found["top1"] == pytest.approx(np.mean(found["by_severity"]))
    assert found["by_severity"][0] > found["by_severity"][4]
    assert found["images"] == 20
    low, high = found["interval"]
    assert low < found["top1"] < high


def test_as_a_protocol_it_asks_the_linear_probe(noise_images: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_toolkit.eval.scores.protocol.CORRUPTED", 12)
    images = noise_images(60)
    images.pixels[:, 1] = 20 + 60 * images.labels[:, None, None]
    loader = ImageLoader(images, 16)
    encoders = {"x": lambda x: x[:, 1, :4, :4].flatten(1)}
    found = score(encoders, loader, loader, ["linear", "corruptions"])["x"]
    assert found["corruptions"]["images"] == 12
    assert found["corruptions"]["clean"] == 1
    assert found["corruptions"]["top1"] < 1
    alone = score(encoders, loader, None, ["corruptions"])["x"]["corruptions"]
    assert alone["images"] == 12
