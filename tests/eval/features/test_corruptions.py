"""Corruptions: what each does to images whose answer is known, and that it grows with the severity."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_toolkit.eval.features.corruptions import CORRUPTIONS, SEVERITIES, corrupt, moved

GREY = torch.full((2, 3, 64, 64), 0.5)
RANDOM = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
SMOOTH = torch.nn.functional.interpolate(RANDOM[..., :4, :4], 64, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images_and_more_is_worse(name: str, channels: int) -> None:
    image = SMOOTH[:, :channels]
    spoilt = [corrupt(image, name, severity) for severity in SEVERITIES]
    away = [float((each - image).square().mean()) for each in spoilt]
    assert all(each.shape == image.shape and each.min() >= 0 and each.max() <= 1 for each in spoilt)
    assert away[0] > 1e-8
    assert away[4] > 1.3 * away[0]
    assert away[4] == max(away)
    np.testing.assert_array_equal(spoilt[2], corrupt(image, name, 3))
    assert corrupt(RANDOM[:, :channels], name, 5).shape == (2, channels, 32, 48)


def test_what_is_drawn_depends_on_seed_name_and_severity() -> None:
    drawn = corrupt(GREY, "gaussian_noise", 1), corrupt(GREY, "gaussian_noise", 1, seed=1)
    assert not torch.equal(*drawn)
    noise = [(corrupt(GREY, "gaussian_noise", severity) - 0.5).flatten() for severity in (1, 2)]
    assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 0.05


def test_noise_has_the_strength_it_says() -> None:
    large = torch.full((4, 3, 128, 128), 0.5)
    assert float(corrupt(large, "gaussian_noise", 2).std()) == pytest.approx(0.12, rel=0.02)
    shot = corrupt(large, "shot_noise", 1)  # Poisson of 30 photons, of 60
    assert float(shot.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(shot.std()) == pytest.approx(30**0.5 / 60, rel=0.02)
    impulse = corrupt(large, "impulse_noise", 5)
    assert [float((impulse == value).float().mean()) for value in (0, 1)] == pytest.approx([0.135, 0.135], abs=0.005)


def test_brightness_and_contrast_by_hand() -> None:
    image = torch.tensor([[0.2, 0.4, 0.1]]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    expected = torch.tensor([0.2, 0.4, 0.1]) * (0.4 + 0.3) / 0.4  # V of HSV, and the others in proportion
    torch.testing.assert_close(corrupt(image, "brightness", 3)[0, :, 0, 0], expected)
    assert float(corrupt(torch.zeros(1, 1, 2, 2), "brightness", 5).mean()) == 0.5
    half = torch.cat([torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 4, 2)], dim=3)
    torch.testing.assert_close(corrupt(half, "contrast", 1), half * 0.4 + 0.3)


def test_blurs_leave_what_is_plain_and_spread_a_point_over_its_size() -> None:
    for name in ("defocus_blur", "motion_blur", "zoom_blur", "elastic", "pixelate"):
        torch.testing.assert_close(corrupt(GREY, name, 5), GREY, rtol=0, atol=1e-5)
    point = torch.zeros(1, 1, 224, 224)
    point[..., 112, 112] = 1
    disk = corrupt(point, "defocus_blur", 3)[0, 0]
    y, x = np.nonzero(disk.numpy() > 1e-6)
    assert float(disk.sum()) == pytest.approx(1, rel=1e-4)
    assert max(np.hypot(y - 112, x - 112)) <= 6.5
    assert 1 / float(disk.max()) == pytest.approx(np.pi * 6**2, rel=0.05)
    line = corrupt(point, "motion_blur", 3)[0, 0]
    assert float(line.sum()) == pytest.approx(1, rel=0.05)
    assert 15 <= np.ptp(np.nonzero(line.numpy().sum(0) > 1e-3)) + 1 <= 21 or float((line > 1e-3).sum()) < 60


def test_pixelate_takes_means_of_blocks() -> None:
    image = RANDOM[..., :32, :32]
    blocks = image.view(2, 3, 8, 4, 8, 4).mean(dim=(3, 5))  # a quarter at severity 5
    torch.testing.assert_close(corrupt(image, "pixelate", 5), blocks.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_jpeg_is_what_a_file_keeps() -> None:
    pixels = (255 * SMOOTH).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=10)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1) / 255
    assert np.abs(corrupt(pixels / 255, "jpeg", 4)[0].numpy() - expected).max() <= 3 / 255


def test_fog_covers_and_keeps_the_brightest() -> None:
    fogged = corrupt(SMOOTH, "fog", 3)
    assert float(fogged.std(dim=1).mean()) < 0.5 * float(SMOOTH.std(dim=1).mean())  # colours fade
    assert float(fogged.amax()) <= float(SMOOTH.amax()) + 1e-6


def test_moved_turns_enlarges_and_moves_aside() -> None:
    square = RANDOM[..., :32, :32]
    torch.testing.assert_close(moved(square, degrees=90), torch.rot90(square, 1, (2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(moved(RANDOM, degrees=180), RANDOM.flip(2, 3), rtol=0, atol=1e-4)
    aside = moved(RANDOM, aside=0.25)
    torch.testing.assert_close(aside[..., 12:], RANDOM[..., :-12], rtol=0, atol=1e-4)
    ramp = torch.linspace(-1, 1, 33).expand(1, 1, 33, 33)
    torch.testing.assert_close(moved(ramp, zoom=2.0), ramp / 2, rtol=0, atol=1e-5)
    assert moved(RANDOM) is RANDOM
