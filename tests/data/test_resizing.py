"""Sizes and channels of pixel arrays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.data.resizing import convert_channels, resize


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_resize_works_for_any_channel_count(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 40, 60), dtype=np.uint8)
    got = resize(pixels, 10)
    assert got.shape == (channels, 10, 15)
    assert got.flags.c_contiguous
    for band, source in zip(got, pixels, strict=True):  # each channel by itself, and as Pillow does it
        alone = Image.fromarray(source).resize((15, 10), Image.Resampling.BICUBIC, reducing_gap=2.0)
        np.testing.assert_array_equal(band, np.asarray(alone))
    np.testing.assert_array_equal(resize(pixels, None), pixels)
    assert resize(pixels, 80).shape == (channels, 80, 120)


def test_convert_channels():
    red = np.array([[[255]], [[0]], [[0]]], dtype=np.uint8)
    assert convert_channels(red, 1).tolist() == [[[76]]]
    assert convert_channels(red[:1], 3).ravel().tolist() == [255, 255, 255]
    assert convert_channels(red, 3) is red
    with pytest.raises(ValueError, match="3 channels cannot become 2"):
        convert_channels(red, 2)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
@pytest.mark.parametrize("size", [10, 80])
def test_deep_images_are_resized_as_bytes_are(kind, size):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60), dtype=np.uint8)
    full = 65535 if kind is np.uint16 else 1
    got = resize(pixels.astype(kind) * kind(257) if full > 1 else pixels / np.float32(255), size)
    assert got.dtype == kind
    assert 0 <= got.min() <= got.max() <= full
    assert np.abs(got / full - resize(pixels, size) / 255).mean() < 0.5 / 255


def test_close_values_stay_apart():
    pixels = np.full((1, 40, 60), 30000, np.uint16)
    pixels[:, :, 30:] += 3
    assert resize(pixels, 20)[0, 0, [0, -1]].tolist() == [30000, 30003]


def test_deep_luminance():
    red = np.array([[[65535]], [[0]], [[0]]], dtype=np.uint16)
    assert convert_channels(red, 1).tolist() == [[[19595]]]  # 0.299 of it
    assert convert_channels(red, 1).dtype == np.uint16
    grey = convert_channels(np.full((3, 2, 2), 0.25, np.float32), 1)
    assert (grey.dtype, grey.shape) == (np.float32, (1, 2, 2))
    np.testing.assert_allclose(grey, 0.25, rtol=1e-6)
