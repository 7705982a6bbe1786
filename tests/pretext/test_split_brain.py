import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ssl_toolkit.colours import lab_to_rgb
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.pretext.colorization import Colorization
from ssl_toolkit.pretext.colour_head import lab_target
from ssl_toolkit.pretext.split_brain import SplitBrain, lightness_bin, mean_lightness
from tests.conftest import small_config


def made(**options: Any) -> SplitBrain:
    torch.manual_seed(0)
    return SplitBrain(Encoder(small_config(SplitBrain, 16)), SplitBrain.default_views(16), **options)


def step(method: SplitBrain, image: torch.Tensor) -> dict[str, torch.Tensor]:
    return method.step([image], None)  # type: ignore[arg-type]


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_bins_of_lightness() -> None:
    lightness = torch.tensor([0.0, 1.9, 2.0, 49.0, 98.1, 100.0, 100.01]).view(7, 1, 1, 1)
    assert lightness_bin(lightness).flatten().tolist() == [0, 0, 1, 24, 49, 49, 49]


def test_mean_lightness_is_that_of_the_bins() -> None:
    logits = torch.full((1, 50, 2, 2), -100.0)
    logits[0, 10] = 100.0
    assert mean_lightness(logits).flatten().tolist() == pytest.approx([21.0] * 4)
    assert mean_lightness(torch.zeros(1, 50, 1, 1)).item() == pytest.approx(50)


def test_what_is_predicted_is_never_seen() -> None:
    method = made().eval()
    generator = torch.Generator().manual_seed(0)
    lightness = 40 + 20 * torch.rand(3, 1, 16, 16, generator=generator)
    ab = 10 + 10 * torch.rand(3, 2, 16, 16, generator=generator)

    def predicted(lightness: torch.Tensor, ab: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image = lab_to_rgb(torch.cat([lightness, ab], dim=1))
        return method._predict(image, lab_target(image)[0])

    with torch.no_grad():
        colours, painted = predicted(lightness, ab)
        same_colours, other_painted = predicted(lightness, -ab)
        other_colours, same_painted = predicted(lightness.flip(-1), ab)
    assert colours.shape == (3, 261, 4, 4)
    assert painted.shape == (3, 50, 4, 4)
    for same, other, first in ((same_colours, other_colours, colours), (same_painted, other_painted, painted)):
        assert (same - first).abs().max() < 1e-3 * first.abs().max()
        assert (other - first).abs().max() > 0.05 * first.abs().max()


def gradient(method: SplitBrain, half: str) -> float:
    return sum(
        p.grad.abs().sum().item() for n, p in method.encoder.named_parameters() if half in n and p.grad is not None
    )


def test_each_loss_teaches_the_half_that_sees_the_rest() -> None:
    method, image = made(), images()
    lab, coloured = lab_target(image)
    colours, _ = method._predict(image, lab)
    method.colour_head.scores(colours, lab[:, 1:], coloured)["loss"].backward()
    assert gradient(method, "lightness") > 0
    assert gradient(method, "colour") == 0
    method.zero_grad()
    step(method, image)["loss"].backward()
    assert gradient(method, "lightness") > 0
    assert gradient(method, "colour") > 0


def test_loss_is_the_sum_of_both() -> None:
    method, image = made().eval(), images()
    lab, coloured = lab_target(image)
    colours, lightness = method._predict(image, lab)
    from_lightness = method.colour_head.scores(colours, lab[:, 1:], coloured)
    from_colour = F.cross_entropy(lightness, (lab[:, 0] / 2).long())
    found = step(method, image)
    assert found["loss"].item() == pytest.approx((from_lightness["loss"] + from_colour).item(), rel=1e-5)
    assert found["accuracy"] == from_lightness["accuracy"]
    off = (mean_lightness(lightness) - lab[:, :1]).abs().mean().item()
    assert found["lightness_error"].item() == pytest.approx(off, rel=1e-5)


def test_regression_of_both() -> None:
    method, image = made(target="regression").eval(), images()
    lab, _ = lab_target(image)
    colours, lightness = method._predict(image, lab)
    assert (colours.shape[1], lightness.shape[1]) == (2, 1)
    expected = (colours - lab[:, 1:] / 15).square().sum(dim=1).mean() + (
        lightness * 25 + 50 - lab[:, :1]
    ).square().mean() / 625
    assert step(method, image)["loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert method.chance_loss(4) is None


def test_chance_is_a_guess_of_both() -> None:
    method = made()
    for layer in (method.colour_head.decoder.layers[-1], method.lightness_head.layers[-1]):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    assert method.chance_loss(4) == pytest.approx(math.log(261) + math.log(50))
    assert step(method, images())["loss"].item() == pytest.approx(math.log(261 * 50), rel=1e-5)


@pytest.mark.parametrize("target", ["classification", "regression"])
def test_grey_images_count_for_nothing(target: str) -> None:
    method, grey = made(target=target).eval(), images()[:, :1].expand(-1, 3, -1, -1)
    alone, found = step(method, images()), step(method, torch.cat([images(), grey[:2]]))
    assert found["grey"].item() == pytest.approx(1 / 3)
    for name in set(alone) - {"grey"}:
        assert found[name].item() == pytest.approx(alone[name].item(), rel=1e-4), name
    none = step(method, grey)["loss"]
    none.backward()
    assert none.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_features_are_those_of_the_trunks() -> None:
    method = made().eval()
    features = method(images())
    assert features.shape == (4, 256)
    pooled = method.encoder.feature_map(images()).mean(dim=(2, 3))
    torch.testing.assert_close(features, pooled)


def test_colours_that_are_rare_weigh_more_if_asked() -> None:
    for lambda_, spread in ((1.0, 0), (0.5, 1)):
        method = made(lambda_=lambda_).eval()
        before = step(method, images())["loss"].item()
        method.prepare(iter([[0.3 * images() + 0.3]]))
        assert method.colour_head.prior.sum().item() == pytest.approx(1, rel=1e-5)
        assert (step(method, images())["loss"].item() == pytest.approx(before, rel=1e-5)) == (not spread)


def test_an_encoder_that_is_not_split_is_refused(small_encoder: Encoder) -> None:
    for encoder in (small_encoder, Encoder(small_config(Colorization, 16))):
        with pytest.raises(UsageError, match=r"kind 'split', this one sees '(rgb|lightness)'"):
            SplitBrain(encoder, SplitBrain.default_views(16))


def test_picture_shows_both_halves() -> None:
    method = made().eval()
    with torch.no_grad():
        picture = method.task_picture([images(2)])
    assert list(picture.rows) == ["view", "lightness", "colours painted", "colours", "lightness painted"]
    assert all(row.shape == (2, 3, 16, 16) for row in picture.rows.values())
    assert set(picture.captions) == {"colours painted", "lightness painted"}
