"""How images are shown: which channels, and how dark and bright."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_toolkit.data.shown import Look, parse_picture_channels
from ssl_toolkit.errors import UsageError


@pytest.mark.parametrize("given", ["", "1,2", "0", "0,1,2", "a", "1,2,3,4", (1, 2), -1, "1.5"])
def test_channels_are_one_or_three_from_1(given):
    with pytest.raises(UsageError, match=r"^--picture-channels is .*as in 3,2,1"):
        parse_picture_channels(given)


def test_channels_as_users_write_them():
    for given in ("4, 3,2", (4, 3, 2), [4, 3, 2], "[4,3,2]"):
        assert parse_picture_channels(given) == (4, 3, 2)
    assert parse_picture_channels(5) == (5,)


def bands(count: int, kind: type = np.uint8) -> np.ndarray:
    """An image whose channel c is c + 1 all over."""
    return np.broadcast_to(np.arange(1, count + 1, dtype=kind)[:, None, None], (count, 4, 4))


def test_the_channels_that_are_shown():
    for count, wanted in ((1, [1, 1, 1]), (2, [1, 1, 1]), (3, [1, 2, 3]), (13, [1, 2, 3])):
        assert Look()(bands(count))[:, 0, 0].tolist() == wanted
    assert Look((4, 3, 2))(bands(13))[:, 0, 0].tolist() == [4, 3, 2]
    assert Look((8,))(bands(13))[:, 0, 0].tolist() == [8, 8, 8]
    with pytest.raises(UsageError, match="--picture-channels 5: the images have 4 channels"):
        Look((5,))(bands(4))


def test_bytes_and_views_of_bytes_are_shown_as_they_are():
    image = np.random.default_rng(0).integers(100, 120, (3, 8, 8)).astype(np.uint8)
    look = Look.of([image])
    np.testing.assert_array_equal(look(image), image)
    np.testing.assert_array_equal(look(image / np.float32(255)), image)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_what_is_deep_and_dark_becomes_visible_each_channel_by_itself(kind):
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(low, low + 400, (64, 64)) for low in (300, 2000, 9000)])
    image = values.astype(np.uint16) if kind is np.uint16 else (values / 65535).astype(np.float32)
    shown = Look.of([image])(image)
    assert (shown.dtype, shown.shape) == (np.uint8, (3, 64, 64))
    for channel in shown:
        assert channel.min() == 0
        assert channel.max() == 255
        assert 120 < channel.mean() < 135


def test_images_and_their_views_are_stretched_alike():
    image = np.full((1, 8, 8), 1000, np.uint16)
    image[:, :4] = 3000
    look = Look.of([image])
    assert np.unique(look(image)).tolist() == [0, 255]
    assert np.unique(look(np.full((1, 2, 2), 2000 / 65535, np.float32)))[0] in (127, 128)


def test_a_flat_image_is_shown_as_it_is():
    image = np.full((1, 8, 8), 257 * 70, np.uint16)
    assert np.unique(Look.of([image])(image)).tolist() == [70]
