"""Explanations of a class: what a linear model makes of them is known in closed form."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.pictures import explain
from ssl_toolkit.eval.pictures.explain import ProbedEncoder, guided_backprop, occlusion, saliency, shapley, smoothgrad
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.linear_probe import fit_softmax

pytest.importorskip("captum")

SHAPE = (3, 8, 12)


class Linear(nn.Module):
    """Two classes: w * x and minus that."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))

    def forward(self, image: Tensor) -> Tensor:
        score = (image * self.w).flatten(1).sum(dim=1)
        return torch.stack([score, -score], dim=1)


class Curved(nn.Module):
    """Parts of the image matter together."""

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        return torch.stack([(x[:, :50].sum(1) * x[:, 50:].sum(1)).tanh() * 3, x.square().sum(1).sqrt()], dim=1)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(2))


TARGET = torch.tensor([0, 1])
SIGN = torch.tensor([1.0, -1.0])[:, None, None, None]


def by_patch(x: Tensor, rows: int, columns: int) -> Tensor:
    """Sums over the channels and pixels of each patch, (N, rows, columns)."""
    n, c, height, width = x.shape
    return x.reshape(n, c, rows, height // rows, columns, width // columns).sum(dim=(1, 3, 5))


def test_saliency_of_a_linear_model_is_its_weight(image: Tensor) -> None:
    model = Linear()
    torch.testing.assert_close(saliency(model, image, TARGET), model.w.abs().amax(0).expand(2, -1, -1))


def test_smoothgrad_of_a_linear_model_is_its_saliency(image: Tensor) -> None:
    model = Linear()
    torch.testing.assert_close(smoothgrad(model, image, TARGET, samples=5), saliency(model, image, TARGET))


def test_smoothgrad_averages_gradients_before_it_takes_their_size() -> None:
    class Square(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.square().flatten(1).sum(dim=1, keepdim=True)

    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 0] = 1
    found = smoothgrad(Square(), image, torch.tensor([0]), samples=400, noise=0.5)
    assert found[0, 0, 0] == pytest.approx(2, abs=0.2)  # of noise of 0.5, the mean of 400 is within 0.025
    assert found[0, 1:].max() < 0.25  # the mean size of the gradient is 0.8


def test_draws_depend_on_the_seed_alone(image: Tensor) -> None:
    model = Curved()
    for draw in (
        lambda seed: smoothgrad(model, image, TARGET, samples=4, seed=seed),
        lambda seed: shapley(model, image, TARGET, torch.zeros(1, 3, 1, 1), grid=(2, 3), samples=2, seed=seed),
    ):
        torch.manual_seed(5)
        first, before = draw(0), torch.random.get_rng_state()
        torch.manual_seed(6)
        assert torch.equal(draw(0), first)
        assert not torch.equal(draw(1), first)
        torch.manual_seed(5)
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("base", [0.0, 0.4])
def test_occlusion_of_a_linear_model_is_what_the_patch_adds(image: Tensor, base: float) -> None:
    model, baseline = Linear(), torch.full((1, 3, 1, 1), base)
    found = occlusion(model, image, TARGET, baseline, patch=4, stride=4)
    added = by_patch(SIGN * model.w * (image - base), 2, 3)
    torch.testing.assert_close(found, added.repeat_interleave(4, 1).repeat_interleave(4, 2), atol=2e-5, rtol=1e-4)


def test_occlusion_is_the_mean_over_the_squares_that_hold_a_pixel(image: Tensor) -> None:
    model = Linear()
    found = occlusion(model, image, TARGET, torch.zeros(1, 3, 1, 1), patch=4, stride=2)
    wx = SIGN * model.w * image
    squares = [wx[:, :, top : top + 4, left : left + 4].sum(dim=(1, 2, 3)) for top in (0, 2) for left in (0, 2)]
    torch.testing.assert_close(found[:, 2, 2], torch.stack(squares).mean(0), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, 0, 0], squares[0], atol=2e-5, rtol=1e-4)


def test_shapley_values_of_a_linear_model_are_its_occlusion(image: Tensor) -> None:
    model = Linear()
    found = shapley(model, image, TARGET, torch.full((1, 3, 1, 1), 0.4), grid=(2, 3), samples=1)
    torch.testing.assert_close(found, by_patch(SIGN * model.w * (image - 0.4), 2, 3), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("grid", [(2, 3), (3, 5)])  # the second does not divide the image
def test_shapley_values_sum_to_what_the_image_adds(image: Tensor, grid: tuple[int, int]) -> None:
    model, baseline = Curved(), torch.full((1, 3, 1, 1), 0.4)
    found = shapley(model, image, TARGET, baseline, grid=grid, samples=3)
    assert found.shape == (2, *grid)
    gain = (model(image) - model(baseline.expand_as(image))).gather(1, TARGET[:, None])[:, 0]
    torch.testing.assert_close(found.sum(dim=(1, 2)), gain, atol=1e-5, rtol=1e-4)


def test_shapley_values_of_two_patches_that_only_count_together() -> None:
    class Both(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (image[:, 0, 0, 0] * image[:, 0, 0, 1])[:, None]

    found = shapley(
        Both(), torch.ones(1, 1, 1, 2), torch.tensor([0]), torch.zeros(1, 1, 1, 1), grid=(1, 2), samples=400
    )
    assert found[0, 0].tolist() == pytest.approx([0.5, 0.5], abs=0.1)


def test_guided_backpropagation_stops_negative_gradients() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, image: Tensor) -> Tensor:
            hidden = self.relu(image.flatten(1))  # (N, 4)
            return (hidden * torch.tensor([2.0, -3.0, 5.0, 7.0])).sum(1, keepdim=True)

    image = torch.tensor([1.0, 1.0, -1.0, 1.0]).reshape(1, 1, 2, 2)
    assert guided_backprop(Net(), image, torch.tensor([0])).flatten().tolist() == [2, 0, 0, 7]
    assert saliency(Net(), image, torch.tensor([0])).flatten().tolist() == [2, 3, 0, 7]
    with pytest.raises(UsageError, match="networks with ReLU"):
        guided_backprop(Linear(), torch.rand(1, *SHAPE), torch.tensor([0]))


@pytest.mark.parametrize("name", ["convnet", "test_resnet"])
def test_probed_encoder_is_the_probe_on_the_features(name: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name, image_size=32, load_size=32)).train()
    generator = np.random.default_rng(0)
    x = generator.normal(3, 2, (40, encoder.feature_dim)).astype(np.float32)
    probe: LinearClassifier = fit_softmax(Features(x, np.arange(40) % 3, np.arange(40)), 0.1)
    image = torch.rand(2, 3, 32, 32)
    model = ProbedEncoder(encoder, probe)
    logits = model(image)
    features = encoder.eval()(image).detach().numpy()
    assert logits.numpy() == pytest.approx(probe.logits(features), abs=1e-3)
    value = guided_backprop(model, image, torch.tensor([0, 1]))  # its ReLUs work in place, ours must not
    assert value.shape == (2, 32, 32)
    assert not torch.equal(value, saliency(model, image, torch.tensor([0, 1])))
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_library_that_is_missing_is_named(image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[explain\]'"):
        saliency(Linear(), image, TARGET)
    assert explain.has_relu(nn.Sequential(nn.ReLU()))
