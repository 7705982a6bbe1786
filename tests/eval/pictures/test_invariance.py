"""Invariance curves: 1 where nothing is changed, and as low as what an encoder sees of the change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.eval.pictures.invariance import CHANGES, invariance, invariance_figure
from ssl_toolkit.eval.pictures.png import figure_png

IMAGE = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Seen(nn.Module):
    """Features that are a function of the image."""

    def __init__(self, see: object) -> None:
        super().__init__()
        self.see = see

    def forward(self, image: Tensor) -> Tensor:
        return self.see(image)  # type: ignore[operator, no-any-return]


def test_nothing_changed_is_one_and_curves_are_cosines(small_encoder: Encoder) -> None:
    curves = invariance(small_encoder, IMAGE)
    assert list(curves) == list(CHANGES)
    for name, cosine in curves.items():
        assert cosine.shape == (len(CHANGES[name].strengths), 5)
        assert cosine[0] == pytest.approx(np.ones(5), abs=1e-5)
        assert cosine.min() >= -1.0001
    x = small_encoder.eval()(IMAGE)
    turned = small_encoder(torch.rot90(IMAGE, 1, (2, 3)))
    expected = torch.cosine_similarity(x, turned).detach().numpy()
    assert curves["rotation"][CHANGES["rotation"].strengths.index(90)] == pytest.approx(expected, abs=1e-3)


def test_what_an_encoder_does_not_see_does_not_move_it() -> None:
    grey = Seen(lambda image: image.amax(dim=1).flatten(1))  # the V of HSV: no hue, and no saturation
    curves = invariance(grey, IMAGE)  # type: ignore[arg-type]
    assert curves["hue"].min() == pytest.approx(1, abs=1e-4)
    assert curves["saturation"].min() == pytest.approx(1, abs=1e-4)
    assert curves["rotation"][-1].max() < 0.99
    mean = invariance(Seen(lambda image: image.mean(dim=(2, 3))), IMAGE)  # type: ignore[arg-type]
    assert mean["rotation"][-1] == pytest.approx(np.ones(5), abs=1e-4)
    assert mean["hue"].min() < 0.999


def test_grey_images_have_no_hue(small_encoder: Encoder) -> None:
    curves = invariance(Seen(lambda image: image.flatten(1)), IMAGE[:, :1])  # type: ignore[arg-type]
    assert set(CHANGES) - set(curves) == {"hue", "saturation"}
    many = invariance(Seen(lambda image: image.flatten(1)), torch.rand(2, 5, 16, 16))  # type: ignore[arg-type]
    assert set(many) == {"rotation", "zoom", "translation"}
    assert figure_png(invariance_figure(many, 0.3))
