"""Depth: values of any source as pixels whose type says what 0 and 1 are."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_toolkit.data.depth import at_depth, equally_deep, measured_range, parse_range, to_pixels
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.errors import ToolkitError, UsageError


@pytest.mark.parametrize("given", ["", "1", "1,2,3", "a,b", "2,1", "1,1", "0,nan", "0,inf", (1, 0), (1, 2, 3), 7])
def test_a_range_is_two_rising_numbers(given):
    with pytest.raises(UsageError, match=r"^--range is .*as in --range 0,4095; or auto"):
        parse_range(given)


def test_ranges_as_users_write_them():
    for given in ("-1000,400", " -1e3 , 400", "[-1000, 400]", (-1000, 400), [-1000.0, 400]):
        assert parse_range(given) == (-1000.0, 400.0)


def test_without_a_range_values_keep_the_meaning_of_their_type():
    for kind in (np.uint8, np.uint16, ">u2"):
        values = np.array([0, 7, 255], dtype=kind)
        pixels = to_pixels(values)
        assert pixels.tolist() == [0, 7, 255]
        assert pixels.dtype == (np.uint8 if kind is np.uint8 else np.uint16)
    for kind in (np.float16, np.float32, np.float64):
        pixels = to_pixels(np.array([0, 0.5, 1], dtype=kind))
        assert pixels.dtype == np.float32
        assert pixels.tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf, 255.0])
def test_floats_outside_the_unit_range_need_one(value):
    with pytest.raises(ValueError, match=r"scale them to \[0, 1\], or give --range LOW,HIGH or --range auto"):
        to_pixels(np.array([0.5, value]))


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.int16, np.uint32, bool, np.complex64])
def test_other_types_need_a_range(kind):
    with pytest.raises(ValueError, match=r"known are uint8, uint16.* or give --range"):
        to_pixels(np.zeros(3, dtype=kind))


def test_a_range_of_twelve_bits_keeps_every_value_apart():
    pixels = to_pixels(np.arange(4096, dtype=np.uint16), (0, 4095))
    assert pixels.dtype == np.uint16
    assert (pixels[0], pixels[-1]) == (0, 65535)
    assert (np.diff(pixels.astype(int)) >= 15).all()
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_pixels(every, (0, 65535)), every)


def test_what_lies_outside_a_range_is_clamped():
    for kind in (np.int16, np.int32, np.int64):
        assert to_pixels(np.array([-2000, -1000, -300, 400, 3000], kind), (-1000, 400)).tolist() == [
            0, 0, 32768, 65535, 65535,
        ]  # fmt: skip
    floats = to_pixels(np.array([-np.inf, 2, 3, 4, np.inf]), (2, 4))
    assert floats.dtype == np.float32
    assert floats.tolist() == [0, 0, 0.5, 1, 1]
    with pytest.raises(ValueError, match="NaN"):
        to_pixels(np.array([2, np.nan]), (2, 4))
    assert to_pixels(np.array([0, 255], np.uint8), (100, 200)).tolist() == [0, 255]


def test_one_depth_as_another():
    byte, word = np.array([0, 1, 255], np.uint8), np.array([0, 257, 65535], np.uint16)
    share = np.float32([0, 1 / 255, 1])
    for given in (byte, word, share):
        for wanted in (byte, word, share):
            got = at_depth(given, wanted.dtype)
            assert got.dtype == wanted.dtype
            np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert at_depth(np.array([128, 129], np.uint16), np.uint8).tolist() == [0, 1]


def test_images_of_several_depths_take_the_greatest():
    byte, word, share = (np.ones((1, 2, 2), kind) for kind in (np.uint8, np.uint16, np.float32))
    assert equally_deep([byte, byte])[0] is byte
    assert [image.max() for image in equally_deep([byte, word])] == [257, 1]
    assert {image.dtype for image in equally_deep([word, byte, share])} == {np.dtype(np.float32)}


def test_a_range_is_measured_over_the_set_and_leaves_out_the_outer_thousandths():
    rng = np.random.default_rng(0)
    images = [rng.integers(100, 4000, (2, 64, 64)).astype(np.uint16) for _ in range(40)]
    images[3][0, 0, 0] = 65535  # a hot pixel
    low, high = measured_range(images.__getitem__, len(images), "scans")
    assert low == pytest.approx(104, abs=3)
    assert high == pytest.approx(3996, abs=3)
    assert (low, high) == (int(low), int(high))
    assert measured_range(images.__getitem__, len(images), "scans") == (low, high)


def test_what_has_no_range_to_measure():
    assert measured_range(lambda row: np.zeros((1, 2, 2), np.uint8), 3, "bytes") is None
    with pytest.raises(UsageError, match="--range auto: nearly all values of 'flat' are 7"):
        measured_range(lambda row: np.full((1, 2, 2), 7, np.int16), 3, "flat")

    def broken(row):
        raise BadImageError("a", "broken")

    with pytest.raises(ToolkitError, match="none of the images of 'bad'"):
        measured_range(broken, 3, "bad")
    low, high = measured_range(lambda row: np.float32([np.nan, 0, 1]) if row else broken(row), 2, "some")
    assert 0 <= low < high <= 1
