"""Gradient ascent on an input: it climbs, stays an image, and depends on the seed alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.eval.pictures.ascent import ascend
from ssl_toolkit.eval.pictures.units import feature_maps


def redness(image: Tensor) -> Tensor:
    """Mean red less mean of the others."""
    return image[:, 0].mean(dim=(1, 2)) - image[:, 1:].mean(dim=(1, 2, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_climb_and_stay_in_range(channels: int) -> None:
    wanted = torch.zeros(16, 16)
    wanted[4:12, 4:12] = 1

    def likeness(image: Tensor) -> Tensor:
        return 1 - (image - wanted).square().mean(dim=(1, 2, 3))

    image, (start, end) = ascend(likeness, (2, channels, 16, 16), steps=60, jitter=0, smooth=0.0)
    assert image.shape == (2, channels, 16, 16)
    assert image.min() >= 0
    assert image.max() <= 1
    torch.testing.assert_close(end, likeness(image))
    assert start.max() < 0.8
    assert end.min() > 0.93


def test_each_image_has_its_own_objective() -> None:
    sign = torch.tensor([1.0, -1.0])
    image, (start, end) = ascend(lambda x: sign * redness(x), (2, 3, 16, 16), steps=80)
    assert (end > start + 0.2).all()
    assert redness(image)[0] > 0.2
    assert redness(image)[1] < -0.2


def test_units_of_an_encoder_climb(small_encoder: Encoder) -> None:
    def answers(image: Tensor) -> Tensor:
        return feature_maps(small_encoder, "features.5", image)[:, :4].mean(dim=(2, 3)).diagonal()

    _, (start, end) = ascend(answers, (4, 3, 16, 16), steps=40)
    assert (end > 2 * start).all()


def test_equal_seeds_give_equal_images() -> None:
    torch.manual_seed(1)
    first, _ = ascend(redness, (1, 3, 12, 10), steps=3, seed=4)
    torch.manual_seed(2)
    assert torch.equal(ascend(redness, (1, 3, 12, 10), steps=3, seed=4)[0], first)
    assert not torch.equal(ascend(redness, (1, 3, 12, 10), steps=3, seed=5)[0], first)


def test_variation_is_charged_for() -> None:
    def rough(weight: float) -> float:
        def stripes(image: Tensor) -> Tensor:
            return 1 + image[..., ::2].mean(dim=(1, 2, 3)) - image[..., 1::2].mean(dim=(1, 2, 3))

        image, _ = ascend(stripes, (1, 3, 16, 16), smooth=weight, steps=60, jitter=0)
        return float(image.diff(dim=3).abs().mean())

    assert rough(3.0) < 0.5 * rough(0.0)
