import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_toolkit import pretrain
from ssl_toolkit.colours import lab_to_rgb, rgb_to_lab
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.pretext.ab_bins import rebalancing_weights, smoothed, soft_encoding
from ssl_toolkit.pretext.colorization import Colorization
from ssl_toolkit.pretext.colour_head import lab_target, mean_of_coloured
from tests.conftest import Arrays, small_config


def made(**options: Any) -> Colorization:
    torch.manual_seed(0)
    return Colorization(Encoder(small_config(Colorization, 16)), Colorization.default_views(16), **options)


def step(method: Colorization, image: torch.Tensor) -> dict[str, torch.Tensor]:
    return method.step([image], None)  # type: ignore[arg-type]


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def greys(count: int = 4) -> torch.Tensor:
    return images(count)[:, :1].expand(-1, 3, -1, -1)


def in_gamut(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of images of the same lightness, with opposite colours."""
    generator = torch.Generator().manual_seed(0)
    lightness = 40 + 20 * torch.rand(count, 1, 16, 16, generator=generator)
    ab = 5 + 10 * torch.rand(count, 2, 16, 16, generator=generator)
    return lab_to_rgb(torch.cat([lightness, ab], dim=1)), lab_to_rgb(torch.cat([lightness, -ab], dim=1))


# What goes in


def test_target_is_the_mean_lab_of_four_by_four_pixels() -> None:
    image = images()
    lab, coloured = lab_target(image)
    assert lab.shape == (4, 3, 4, 4)
    assert coloured.all()
    torch.testing.assert_close(lab[:, :, 1, 2], rgb_to_lab(image)[:, :, 4:8, 8:12].mean(dim=(2, 3)), atol=1e-3, rtol=0)


def test_colours_never_reach_the_encoder() -> None:
    method = made()
    image, other = in_gamut()
    seen = []
    method.encoder.backbone.features[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    outs = [method._predict(x, lab_target(x)[0]) for x in (image, other)]
    assert (image - other).abs().max() > 0.1
    assert seen[0].shape == (4, 1, 16, 16)
    torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(outs[0], outs[1], atol=1e-3, rtol=0)


def test_lightness_is_seen_centred_and_scaled() -> None:
    ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    seen = made().encoder.normalize(ends)
    torch.testing.assert_close(seen[:, 0, 0, 0], torch.tensor([-2.0, 2.0]), atol=1e-3, rtol=0)


def test_the_encoder_alone_is_kept() -> None:
    method = made().eval()
    image = images()
    assert torch.equal(method(image), method.encoder(image))
    assert method(image).shape == (4, 256)


def test_views_of_any_size_are_coloured() -> None:
    for side in (16, 18, 24):
        image = torch.rand(2, 3, side, side)
        lab, _ = lab_target(image)
        assert made()._predict(image, lab).shape == (2, 261, side // 4, side // 4)


# The loss


def test_loss_is_the_mean_cross_entropy_with_the_soft_targets() -> None:
    method = made().eval()
    image = images()
    lab, _ = lab_target(image)
    out = method._predict(image, lab).detach()
    bins = method.head.bins
    distance = (lab[:, None, 1:] - bins.view(1, -1, 2, 1, 1)).square().sum(dim=2)  # (N, Q, h, w)
    near = distance <= distance.kthvalue(5, dim=1, keepdim=True).values
    target = torch.where(near, (-distance / 50).exp(), 0)
    target /= target.sum(dim=1, keepdim=True)
    entropy = -(target * out.log_softmax(dim=1)).sum(dim=1)
    found = step(method, image)
    assert found["loss"].item() == pytest.approx(entropy.mean().item(), rel=1e-4)
    assert found["accuracy"].item() == (out.argmax(1) == distance.argmin(1)).float().mean().item()

    method.head.prior.copy_(torch.linspace(0, 1, len(bins)))
    p = smoothed(method.head.prior / method.head.prior.sum(), bins)
    weight = 1 / (0.5 * p + 0.5 / len(bins))
    weight /= (p * weight).sum()
    expected = (weight[distance.argmin(dim=1)] * entropy).mean().item()
    assert step(method, image)["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(entropy.mean().item(), rel=0.02)


def test_gain_is_what_the_loss_lies_below_that_of_the_best_constant_answer() -> None:
    method = made(lambda_=0.4).eval()
    image = images()
    method.prepare(iter([[image]]))
    head = method.head
    lab, coloured = lab_target(image)
    weight = rebalancing_weights(smoothed(head.prior, head.bins), 0.4)
    best = (head.prior * weight / (head.prior * weight).sum()).clamp_min(1e-30).log()
    constant = best.view(1, -1, 1, 1).expand(4, -1, 4, 4)
    found = head.scores(constant, lab[:, 1:], coloured)
    # A hundredth is left for colours that were not met.
    assert found["gain"].item() == pytest.approx(0, abs=0.02)
    for other in (constant.roll(1, 1), torch.zeros_like(constant)):
        assert head.scores(other, lab[:, 1:], coloured)["gain"].item() < -0.5
    index, share = soft_encoding(lab[:, 1:], head.bins, head.table)
    truth = torch.zeros_like(constant).scatter(1, index, share).clamp_min(1e-9).log()
    known = head.scores(truth, lab[:, 1:], coloured)
    assert known["gain"].item() == pytest.approx((found["loss"] - known["loss"]).item(), abs=0.02)
    assert known["gain"].item() > 1


def test_a_guess_costs_what_chance_says() -> None:
    method = made()
    method.head.decoder.layers[-1].weight.data.zero_()
    method.head.decoder.layers[-1].bias.data.zero_()
    assert method.chance_loss(8) == pytest.approx(math.log(261))
    assert step(method, images())["loss"].item() == pytest.approx(math.log(261), rel=1e-5)
    assert made(target="regression").chance_loss(8) is None


def test_regression_is_the_squared_distance_in_ab() -> None:
    method = made(target="regression").eval()
    image = images()
    lab, _ = lab_target(image)
    out = method._predict(image, lab)
    assert out.shape == (4, 2, 4, 4)
    found = step(method, image)
    squared = (out * 15 - lab[:, 1:]).square().sum(dim=1)
    assert found["loss"].item() == pytest.approx(squared.mean().item() / 15**2, rel=1e-5)
    assert found["ab_error"].item() == pytest.approx(squared.sqrt().mean().item(), rel=1e-5)
    assert "accuracy" not in found
    found["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.encoder.parameters() if p.ndim > 1)


# The prior


def test_prior_is_measured_on_the_colours_of_the_views() -> None:
    method = made()
    assert not method.head.prior.any()
    red, grey = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1).expand(3, 3, 16, 16), greys()
    method.prepare(iter([[torch.cat([red, grey])], [red]]))
    lab = rgb_to_lab(red)[0, 1:, 0, 0]
    distance = (method.head.bins - lab).square().sum(dim=1)
    share = torch.where(distance <= distance.kthvalue(5).values, (-distance / 50).exp(), 0)
    torch.testing.assert_close(method.head.prior, share / share.sum(), atol=1e-5, rtol=1e-3)
    assert "head.prior" in method.state_dict()


def test_rare_colours_weigh_more_after_training_has_looked(train_quickly: Callable, noise_images: Callable) -> None:
    method = train_quickly(Colorization, noise_images(16), epochs=1)
    assert method.head.prior.sum().item() == pytest.approx(1, rel=1e-5)
    common, rare = method.head.prior.argmax(), method.head.prior.argmin()
    assert method.head.bins[common].norm() < method.head.bins[rare].norm()


# Grey images


def test_grey_images_count_for_nothing() -> None:
    method = made().eval()
    coloured, mixed = images(), torch.cat([greys(2), images(), greys(1)])
    alone, found = step(method, coloured), step(method, mixed)
    assert found["grey"].item() == pytest.approx(3 / 7)
    for name in ("loss", "accuracy", "ab_error"):
        assert found[name].item() == pytest.approx(alone[name].item(), rel=1e-4)


@pytest.mark.parametrize("target", ["classification", "regression"])
def test_a_batch_of_grey_images_teaches_nothing(target: str) -> None:
    method = made(target=target)
    found = step(method, greys())
    assert found["loss"].item() == 0
    assert found["grey"].item() == 1
    found["loss"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_a_trace_of_colour_is_none_and_one_coloured_pixel_is_enough() -> None:
    lab = torch.zeros(3, 3, 16, 16)
    lab[:, 0] = 50
    lab[0, 1:], lab[2, 2, 3, 3] = 1.5, -9
    assert lab_target(lab_to_rgb(lab))[1].tolist() == [False, False, True]


def test_mean_of_none_is_zero() -> None:
    value = torch.tensor([[1.0], [2.0], [6.0]], requires_grad=True)
    assert mean_of_coloured(value, torch.tensor([True, False, True])).item() == 3.5
    none = mean_of_coloured(value, torch.zeros(3, dtype=torch.bool))
    none.backward()
    assert none.item() == 0
    assert value.grad is not None
    assert not value.grad.any()


def test_data_without_a_colour_are_refused(train_quickly: Callable) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 16, 16), dtype=np.uint8).repeat(3, axis=1)
    with pytest.raises(UsageError, match=r"none of the 8 images that were looked at has a colour.*another --method"):
        train_quickly(Colorization, Arrays(pixels))


def test_a_run_that_could_not_begin_leaves_nothing_in_its_way(tmp_path: Path) -> None:
    for number in range(8):
        Image.fromarray(np.full((32, 32), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
    out = tmp_path / "run"
    options = {"encoder": "convnet", "epochs": 1, "batch_size": 8, "workers": 0, "progress": False}
    with pytest.raises(UsageError, match="none of the 8 images"):
        pretrain("colorization", data=str(tmp_path), out=str(out), **options)
    assert list(out.iterdir()) == []
    pretrain("rotation", data=str(tmp_path), out=str(out), **options)
    assert (out / "encoder.safetensors").is_file()


# What is refused, and the picture


def test_an_encoder_that_sees_colours_is_refused(small_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"kind 'lightness', this one sees 'rgb': give --encoder the name"):
        Colorization(small_encoder, Colorization.default_views(16))


def test_images_that_are_not_rgb_are_refused() -> None:
    with pytest.raises(UsageError, match="an encoder of lightness takes RGB images, these have 1 channels"):
        Encoder(EncoderConfig("convnet", channels=1, image_size=16, load_size=16, colours="lightness"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_": 0.0}, r"--method.lambda_ is 0.0: it must be above 0"),
        ({"lambda_": 1.5}, r"--method.lambda_ is 1.5: it must be at most 1"),
        ({"temperature": 0.0}, r"--method.temperature is 0.0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**options)


def test_picture_shows_grey_painted_and_true() -> None:
    method = made().eval()
    image, _ = in_gamut(2)
    with torch.no_grad():
        picture = method.task_picture([image])
        ab = method.head.colours(method._predict(image, lab_target(image)[0]))
    assert list(picture.rows) == ["seen", "painted", "view"]
    assert rgb_to_lab(picture.rows["seen"])[:, 1:].abs().max() < 0.1
    torch.testing.assert_close(rgb_to_lab(picture.rows["seen"])[:, 0], rgb_to_lab(image)[:, 0], atol=0.1, rtol=0)
    assert torch.equal(picture.rows["view"], image)
    off = (ab - lab_target(image)[0][:, 1:]).norm(dim=1).mean(dim=(1, 2))
    assert picture.captions["painted"] == [f"off by {distance:.0f}" for distance in off.tolist()]
    assert all(row.min() >= 0 and row.max() <= 1 and row.shape == image.shape for row in picture.rows.values())


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "test_convnext"])
def test_encoders_of_other_kinds(name: str) -> None:
    encoder = Encoder(EncoderConfig(name, image_size=32, load_size=32, colours="lightness"))
    method = Colorization(encoder, Colorization.default_views(32))
    assert step(method, torch.rand(2, 3, 32, 32))["loss"].isfinite()
