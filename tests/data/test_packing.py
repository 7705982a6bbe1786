from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from ssl_toolkit.data.arrays import ArraySet
from ssl_toolkit.data.image_set import Wanted, unlabelled
from ssl_toolkit.data.images import decode_image
from ssl_toolkit.data.packing import ImageFiles, image_file
from ssl_toolkit.data.sources import open_images
from tests.data import packed

JPEGS = packed.jpegs(4)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_files_without_loss(channels, dtype):
    rng = np.random.default_rng(0)
    pixels = rng.random((channels, 20, 30)).astype(np.float32)
    if dtype is not np.float32:
        pixels = rng.integers(0, np.iinfo(dtype).max, (channels, 20, 30)).astype(dtype)
    if dtype is not np.uint8 or channels == 5:
        pytest.importorskip("tifffile")
    suffix, data = image_file(pixels, lossless=True)
    assert suffix == (".png" if dtype is np.uint8 and channels < 5 else ".tif")
    np.testing.assert_array_equal(decode_image(data, channels=channels), pixels)


def test_files_are_kept_byte_for_byte_unless_a_size_is_asked_for(tmp_path):
    images = open_images(packed.folder(tmp_path, JPEGS))
    assert ImageFiles(images, None)[[0, 2]] == [(0, ".jpg", JPEGS[0]), (2, ".jpg", JPEGS[2])]
    ((row, suffix, data),) = ImageFiles(images, 12)[[1]]
    assert (row, suffix, decode_image(data).shape) == (1, ".jpg", (3, 12, 12))
    assert abs(decode_image(data).astype(int) - decode_image(JPEGS[1], size=12)).mean() < 4
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    ((_, suffix, _),) = ImageFiles(ArraySet("a", pixels, unlabelled(2), None, Wanted("")), None)[[1]]
    assert suffix == ".png"


def test_what_cannot_be_read_comes_with_its_reason(tmp_path):
    folder = packed.folder(tmp_path, [JPEGS[0], JPEGS[1][:99], b"no image", b""])
    made = ImageFiles(open_images(folder), None)[[0, 1, 2, 3]]
    assert [isinstance(data, bytes) for _, _, data in made] == [True, False, False, False]
    assert "Truncated" in made[1][2]


def test_members_have_no_dates_or_owners(tmp_path):
    from ssl_toolkit.data.packing import ShardWriter

    writer = ShardWriter(tmp_path, 10**6)
    writer.add("000", ".jpg", JPEGS[0], 3)
    writer.close()
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "shards-000000.tar").read_bytes())) as tar:
        assert [(each.name, each.mtime, each.uname) for each in tar] == [("000.jpg", 0, ""), ("000.cls", 0, "")]
