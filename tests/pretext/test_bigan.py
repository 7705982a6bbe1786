"""BiGAN: pairs of image and code, of two kinds; encoder and generator against a discriminator of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_toolkit.augment import eval_view
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Encode, extract
from ssl_toolkit.eval.scores.knn import knn
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.adversary import discriminator_loss, hinge_loss
from ssl_toolkit.pretext.bigan import (
    BiGAN,
    Generator,
    JointDiscriminator,
    correlation,
    generator_loss,
    hinge_generator_loss,
)
from tests.conftest import Arrays

TINY = {"code_dim": 8, "generator_dim": 16, "discriminator_dim": 4}
REAL, FAKE = torch.tensor([0.0, math.log(3), 2.0]), torch.tensor([0.0, -math.log(3), 0.5])


def made(encoder: Encoder, **options: Any) -> BiGAN:
    torch.manual_seed(0)
    return BiGAN(encoder, BiGAN.default_views(16), **{**TINY, **options})


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def step(method: BiGAN, image: Tensor, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return method.step([image], None)  # type: ignore[arg-type]


def test_losses_by_hand() -> None:
    log = math.log
    real = [log(2), log(4 / 3), log(1 + math.exp(-2))]
    fake = [log(2), log(4 / 3), log(1 + math.exp(0.5))]
    assert discriminator_loss(REAL, FAKE).item() == pytest.approx((np.mean(real) + np.mean(fake)) / 2)
    real, fake = [log(2), log(4), log(1 + math.exp(2))], [log(2), log(4), log(1 + math.exp(-0.5))]
    assert generator_loss(REAL, FAKE).item() == pytest.approx((np.mean(real) + np.mean(fake)) / 2)
    expected = (np.mean([1, 0, 0]) + np.mean([1, 0, 1.5])) / 2
    assert hinge_loss(torch.tensor([0.0, 1.1, 2.0]), torch.tensor([0.0, -1.1, 0.5])).item() == pytest.approx(expected)
    assert hinge_generator_loss(REAL, FAKE).item() == pytest.approx((REAL.mean() - FAKE.mean()).item() / 2)


def test_a_guess_costs_log_2_on_both_sides() -> None:
    zero = torch.zeros(4)
    for loss in (discriminator_loss, generator_loss):
        assert loss(zero, zero).item() == pytest.approx(math.log(2))
    assert (hinge_loss(zero, zero).item(), hinge_generator_loss(zero, zero).item()) == (1.0, 0.0)


@pytest.mark.parametrize("loss", [discriminator_loss, generator_loss, hinge_loss, hinge_generator_loss])
def test_gradcheck(loss: Callable[..., Tensor]) -> None:
    inputs = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.autograd.gradcheck(loss, [each.requires_grad_() for each in inputs])


@pytest.mark.parametrize("adversary", ["cross_entropy", "hinge"])
def test_what_one_side_lowers_the_other_raises(adversary: str, small_encoder: Encoder) -> None:
    """The sign of each logit's gradient is the other's: a confusion of the two kinds of pairs would show."""
    method = made(small_encoder, adversary=adversary)
    real, fake = torch.zeros(2, 5, requires_grad=True).unbind()
    theirs = torch.autograd.grad(method.told_apart(real, fake), [real, fake], retain_graph=True)
    ours = torch.autograd.grad(method.confused(real, fake), [real, fake])
    for one, other in zip(theirs, ours, strict=True):
        assert (one * other < 0).all()


def test_step_joins_images_with_their_codes_and_codes_with_their_images(small_encoder: Encoder) -> None:
    method = made(small_encoder).eval()
    loss = step(method, images())["loss"]
    torch.manual_seed(0)
    z = method.draw(6)
    assert z.min() >= -1
    assert z.max() <= 1
    real = method.discriminator(images(), method.code(small_encoder(images())))
    fake = method.discriminator(method.generator(z), z)
    assert loss.item() == pytest.approx(generator_loss(real, fake).item(), abs=1e-5)
    assert method.judge().item() == pytest.approx(discriminator_loss(real, fake).item(), abs=1e-5)


def test_encoder_and_generator_learn_from_the_step_and_the_discriminator_from_its_judgement(
    small_encoder: Encoder,
) -> None:
    method = made(small_encoder)
    step(method, images())["loss"].backward()
    reached = {name.split(".")[0] for name, weight in method.named_parameters() if weight.grad is not None}
    assert reached == {"encoder", "code", "generator"}
    method.zero_grad()
    method.discriminator.requires_grad_(True)
    method.judge().backward()
    reached = {name.split(".")[0] for name, weight in method.named_parameters() if weight.grad is not None}
    assert reached == {"discriminator"}
    assert all(weight.grad.any() for weight in method.discriminator.parameters())


def test_a_pair_is_judged_by_both_of_its_parts(small_encoder: Encoder) -> None:
    judge = made(small_encoder).discriminator.eval()
    image, code = images(), torch.rand(6, 8)
    logits = judge(image, code)
    assert (judge(image.roll(1, 0), code) - logits).abs().min() > 1e-5
    assert (judge(image, code.roll(1, 0)) - logits).abs().min() > 1e-5
    torch.testing.assert_close(judge(image[:2], code[:2]), logits[:2], atol=1e-5, rtol=1e-4)  # each by itself


def test_spectral_norm_keeps_the_largest_singular_value_at_1() -> None:
    torch.manual_seed(0)
    judge = JointDiscriminator(4, 3, 16, 4, spectral=True)
    for _ in range(30):
        judge(images(), torch.rand(6, 4))
    judge.eval()
    layers = [layer for layer in judge.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("size", [16, 24, 33])
def test_the_generator_makes_images_of_the_encoders_size(size: int) -> None:
    image = Generator(4, 3, size, 8)(torch.rand(2, 4))
    assert image.shape == (2, 3, size, size)
    assert 0 < image.min() < image.max() < 1


def test_views_of_another_size_are_refused(small_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"bigan makes images of 16x16 px, the views are 24x24: give --views.size"):
        step(made(small_encoder), torch.rand(2, 3, 24, 24))


def test_the_picture_shows_images_reconstructions_and_samples(small_encoder: Encoder) -> None:
    picture = made(small_encoder).eval().task_picture([images()])
    assert list(picture.rows) == ["view", "reconstruction", "sample"]
    assert {tuple(row.shape) for row in picture.rows.values()} == {(6, 3, 16, 16)}
    assert not torch.equal(picture.rows["reconstruction"], picture.rows["sample"])
    assert picture.captions["reconstruction"][0].endswith(" dB")
    assert all(-1 <= float(words.removeprefix("r ")) <= 1 for words in picture.captions["sample"])


def test_correlation_is_that_of_numpy() -> None:
    one, other = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(one.numpy(), other.numpy(), strict=True)]
    np.testing.assert_allclose(correlation(one, other).numpy(), expected, rtol=1e-5)
    torch.testing.assert_close(correlation(one, -3 * one + 2), torch.full((5,), -1.0))


class Quarters(Arrays):
    """Quarters of random brightness in one of eight pale tints, which is the class."""

    def __init__(self, count: int, seed: int) -> None:
        rng, label = np.random.default_rng(seed), np.arange(count) % 8
        hue = (label + rng.uniform(-0.3, 0.3, count)) / 8
        tint = np.clip(np.abs((6 * hue[:, None] + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
        block = rng.uniform(20, 255, (count, 1, 2, 2)).repeat(8, 2).repeat(8, 3)
        pixels = block * (0.75 + 0.25 * tint)[:, :, None, None] + rng.normal(0, 10, (count, 3, 16, 16))
        super().__init__(pixels.clip(0, 255).astype(np.uint8), label)


RECIPE: dict[str, Any] = {
    "batch_size": 50,
    "seed": 1,
    "optimizer": OptimizerConfig(lr=1e-3, betas=(0.5, 0.999)),
    "views": {"crop_scale": (0.9, 1.0)},
    "method": {
        "code_dim": 16, "generator_dim": 64, "discriminator_dim": 16, "adversary": "hinge", "spectral_norm": True
    },
}  # fmt: skip


def found_again(method: BiGAN) -> float:
    """Mean correlation of drawn codes with the encoder's codes of the images made of them."""
    torch.manual_seed(0)
    with torch.no_grad():
        z = method.draw(1000)
        return float(correlation(method.code(method.encoder(method.generator(z))), z).mean())


def from_images(method: BiGAN, real: np.ndarray) -> float:
    """Energy distance of samples and images (Székely & Rizzo 2013): 0 only where both are drawn alike."""
    torch.manual_seed(0)
    with torch.no_grad():
        x = method.eval().generator(method.draw(len(real))).flatten(1)
    y = torch.from_numpy(real / 255).float().flatten(1)
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def test_samples_become_like_the_images(train_quickly: Callable, tmp_path: Path) -> None:
    train = Quarters(500, 0)
    method = train_quickly(BiGAN, train, epochs=4, **RECIPE)
    before = made(Encoder(method.encoder.config), **RECIPE["method"])
    assert from_images(method, train.pixels) < 0.8 * from_images(before, train.pixels)
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert {"loss", "told_apart", "discriminator"} <= metrics[0].keys()


@pytest.mark.slow
def test_learns_more_than_random_weights_know(train_quickly: Callable) -> None:
    # The paper's adversary and a small rate: a hinge at twice the rate learned this on one kind of CPU, not on another.
    recipe = RECIPE | {
        "batch_size": 25,
        "seed": 2,
        "optimizer": OptimizerConfig(lr=5e-4, betas=(0.5, 0.999)),
        "method": {"code_dim": 16, "generator_dim": 64, "discriminator_dim": 16},
    }
    method = train_quickly(BiGAN, Quarters(1000, 0), epochs=30, **recipe).eval()

    def accuracy(encode: Encode) -> float:
        train, test = (ImageLoader(Quarters(*each), 16) for each in ((1000, 0), (600, 1)))
        return float(knn(*(extract(encode, each, view=eval_view(16)) for each in (train, test)))["top1"])

    random = method.encoder.reinitialized(0)
    with torch.no_grad():  # their batch norms have seen the images: these are better
        for batch in ImageLoader(Quarters(1000, 0), 16, batch_size=50):
            random.train()(eval_view(16)(batch.image))
    assert accuracy(method.encoder) > accuracy(random.eval()) + 0.1
    assert found_again(method) > 0.1
