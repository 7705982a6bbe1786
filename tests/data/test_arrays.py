from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.sources import open_images
from tests.data.small_files import PIXELS, refusal


def stored(tmp_path: Path, pixels: np.ndarray, **more: np.ndarray) -> str:
    if more:
        np.savez(tmp_path / "a.npz", images=pixels, **more)
        return str(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", pixels)
    return str(tmp_path / "a.npy")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_npy_with_any_number_of_channels_in_both_layouts(tmp_path, channels):
    wanted = PIXELS[:, :channels]
    for pixels in (wanted, wanted.transpose(0, 2, 3, 1)):
        images = open_images(stored(tmp_path, pixels))
        assert (len(images), images.channels, images.classes) == (5, channels, None)
        got = images.load(3, None)
        np.testing.assert_array_equal(got, wanted[3])
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert images.load(3, 10).shape == (channels, 10, 15)
        np.testing.assert_array_equal(open_item(images.path(3), channels), wanted[3])


def test_npy_grey_stack(tmp_path):
    images = open_images(stored(tmp_path, PIXELS[:, 0]))
    assert images.channels == 1
    np.testing.assert_array_equal(images.load(2, None)[0], PIXELS[2, 0])
    rgb = open_images(stored(tmp_path, PIXELS[:, 0]), channels=3)
    np.testing.assert_array_equal(rgb.load(2, None), np.repeat(PIXELS[2, :1], 3, axis=0))
    assert open_images(stored(tmp_path, PIXELS[:, :3]), channels=1).load(0, 8).shape == (1, 8, 12)
    assert "13 channels, 3 are wanted" in refusal(stored(tmp_path, PIXELS), channels=3)


def test_npy_is_mapped_and_not_sent_to_workers(tmp_path):
    images = open_images(stored(tmp_path, np.zeros((1000, 30, 30), dtype=np.uint8)))
    sent = pickle.dumps(images)
    assert len(sent) < 12_000  # the labels; 900,000 bytes of pixels stay in the file
    assert pickle.loads(sent).load(999, None).shape == (1, 30, 30)
    first = images.load(0, None)
    first[:] = 9  # what a caller does to its copy stays there
    assert images.load(0, None).max() == 0


def test_sixteen_bit_and_float_arrays_keep_their_depth(tmp_path):
    deep = np.zeros((2, 4, 4), dtype=np.uint16)
    deep[1] = 386
    images = open_images(stored(tmp_path, deep))
    assert np.unique(images.load(1, 8)).tolist() == [386]
    assert (images.dtype, images.load(0, 2).dtype) == (np.uint16, np.uint16)
    share = np.zeros((3, 4, 4), dtype=np.float32)
    share[1] = 0.5
    share[2] = 1.5
    images = open_images(stored(tmp_path, share))
    assert np.unique(images.load(1, 8)).tolist() == [0.5]
    assert images.load(1, 8).dtype == np.float32
    with pytest.raises(BadImageError, match=r"a\.npy#2: float values from 1.5 to 1.5: scale them to \[0, 1\]"):
        images.load(2, None)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((2, 4, 4), 255.0), r"scale them to [0, 1]"),
        (np.zeros((2, 4, 4), dtype=np.int64), "values are int64"),
        (np.zeros((2, 4), dtype=np.uint8), "shape (2, 4) is none of"),
        (np.zeros((0, 4, 4), dtype=np.uint8), "shape (0, 4, 4) is none of"),
        (np.zeros((2, 8, 4, 8), dtype=np.uint8), "reads as (N, H, W, C) and as (N, C, H, W)"),
        (np.array([{"a": 1}], dtype=object), "cannot be read as an array"),
        (np.uint8(3), "shape () is none of"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, pixels, message):
    np.save(tmp_path / "a.npy", pixels, allow_pickle=True)
    assert message in refusal(str(tmp_path / "a.npy"))


def test_damaged_array_files(tmp_path):
    for name in ("a.npy", "a.npz"):
        for content in (b"", b"nonsense", b"PK\x03\x04nonsense", b"\x93NUMPY\x01\x00\xff\xff"):
            (tmp_path / name).write_bytes(content)
            assert "cannot be read as an array" in refusal(str(tmp_path / name))


def test_pickles_are_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trap"),))

    np.savez(tmp_path / "a.npz", images=np.array([Trap()], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.npy"):
        assert "cannot be read as an array" in refusal(str(tmp_path / name))
    assert not (tmp_path / "trap").exists()


def test_npz_with_labels(tmp_path):
    images = open_images(stored(tmp_path, PIXELS[:, :3], labels=np.array([[2], [0], [-1], [2], [1]], dtype=np.int8)))
    assert images.labels.tolist() == [2, 0, -1, 2, 1]
    assert images.classes == ["0", "1", "2"]
    words = open_images(stored(tmp_path, PIXELS[:, :3], y=np.array(["dog", "cat", "dog", "ant", "cat"])))
    assert words.labels.tolist() == [2, 1, 2, 0, 1]
    assert words.classes == ["ant", "cat", "dog"]
    np.savez(tmp_path / "x.npz", data=PIXELS)
    assert open_images(str(tmp_path / "x.npz")).classes is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4, dtype=int), "5 images, but labels of shape (4,)"),
        (np.full(5, -2), "class numbers from 0"),
        (np.full(5, 0.5), "not float64"),
    ],
)
def test_npz_labels_that_do_not_fit(tmp_path, labels, message):
    assert message in refusal(stored(tmp_path, PIXELS, labels=labels))


def test_npz_without_images(tmp_path):
    np.savez(tmp_path / "a.npz", weights=PIXELS)
    assert "no array named images or x or data (it has: weights)" in refusal(str(tmp_path / "a.npz"))
