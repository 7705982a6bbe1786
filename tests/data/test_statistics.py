from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ssl_toolkit.data import statistics
from ssl_toolkit.data.statistics import channel_statistics
from ssl_toolkit.errors import ToolkitError


def test_mean_and_deviation_of_all_pixels(noise_images: Callable) -> None:
    images = noise_images(20)
    pixels = images.pixels / 255
    mean, std = channel_statistics(images, 16)
    assert mean == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert std == pytest.approx(pixels.std(axis=(0, 2, 3)))


def test_frames_of_clips_are_images(noise_images: Callable) -> None:
    clips = noise_images(6, frames=4)
    clips.frames = 4
    pixels = clips.pixels.reshape(24, 3, 16, 16) / 255
    mean, std = channel_statistics(clips, 16)
    assert mean == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert std == pytest.approx(pixels.std(axis=(0, 2, 3)))


def test_only_some_are_read_the_same_ones_each_time(noise_images: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    images, read = noise_images(20), []
    load = images.load
    monkeypatch.setattr(images, "load", lambda index, size: read.append(index) or load(index, size))
    monkeypatch.setattr(statistics, "MEASURED", 5)
    assert channel_statistics(images, 16) == channel_statistics(images, 16)
    assert len(set(read[:5])) == 5
    assert read[:5] == read[5:]


def test_one_colour_and_nothing_to_read(noise_images: Callable) -> None:
    images = noise_images(4)
    images.pixels = np.full_like(images.pixels, 51)
    assert channel_statistics(images, 16) == (pytest.approx((0.2,) * 3), pytest.approx((1 / 255,) * 3))
    with pytest.raises(ToolkitError, match="none of 4 images of 'arrays' can be read"):
        channel_statistics(noise_images(4, broken=(0, 1, 2, 3)), 16)
