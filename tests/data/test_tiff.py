"""TIFFs of many planes: in every arrangement, as deep as they are, and safe."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_toolkit.data.images import BadImageError, depth_of_file, read_image
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import UsageError

tifffile = pytest.importorskip("tifffile")

PLANES = np.random.default_rng(0).integers(0, 65536, (13, 20, 30)).astype(np.uint16)


def written(path: Path, planes: np.ndarray = PLANES, **options: Any) -> Path:
    tifffile.imwrite(path, planes, **{"photometric": "minisblack", **options})
    return path


def reason(path: Path, channels: int = 13, **options: Any) -> str:
    with pytest.raises(BadImageError) as caught:
        read_image(path, channels=channels, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    ("planes", "options"),
    [
        (PLANES, {"planarconfig": "separate"}),
        (np.moveaxis(PLANES, 0, -1), {"planarconfig": "contig"}),
        (PLANES, {}),  # a page each
        (PLANES, {"compression": "zlib", "predictor": True}),
        (PLANES, {"byteorder": ">", "bigtiff": True, "tile": (16, 16), "compression": "zlib"}),
    ],
)
def test_planes_lie_in_many_ways(tmp_path, planes, options):
    path = written(tmp_path / "a.tif", planes, **options)
    got = read_image(path, channels=13)
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, PLANES)
    assert depth_of_file(path, 13) == np.uint16
    assert read_image(path, channels=13, size=10).shape == (13, 10, 15)


@pytest.mark.parametrize(("kind", "depth"), [(np.uint8, np.uint8), (np.float16, np.float32), (np.float32, np.float32)])
def test_planes_are_as_deep_as_the_file(tmp_path, kind, depth):
    values = (PLANES > 30000).astype(kind)
    got = read_image(written(tmp_path / "a.tif", values), channels=13)
    assert got.dtype == depth
    np.testing.assert_array_equal(got, values)


def test_signed_planes_need_a_range(tmp_path):
    path = written(tmp_path / "a.tif", (PLANES.astype(int) - 32768).astype(np.int16))
    assert "values are int16" in reason(path)
    np.testing.assert_array_equal(read_image(path, channels=13, range=(-32768, 32767)), PLANES)


def test_colours_plane_by_plane_and_as_floats(tmp_path):
    path = written(tmp_path / "a.tif", PLANES[:3], photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(path), PLANES[:3])
    share = (PLANES[:3] / 65535).astype(np.float32)
    got = read_image(written(tmp_path / "b.tif", np.moveaxis(share, 0, -1), photometric="rgb"))
    np.testing.assert_array_equal(got, share)


def test_smaller_copies_in_a_file_are_no_planes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane in PLANES:
            file.write(plane, photometric="minisblack")
        file.write(PLANES[0, ::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", channels=13), PLANES)


def test_what_is_no_stack_of_as_many_planes_is_bad(tmp_path):
    path = written(tmp_path / "a.tif")
    assert reason(path, channels=4) == "the TIFF has 5 planes, 4 are wanted"  # it stops counting
    assert reason(path, channels=14) == "the TIFF has 13 planes, 14 are wanted"
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(PLANES[0], photometric="minisblack")
        file.write(PLANES[0, :10], photometric="minisblack")
    assert "2 pages differ in size or type" in reason(tmp_path / "b.tif", channels=2)


def test_caps_hold_before_anything_is_decoded(tmp_path):
    path = written(tmp_path / "a.tif")
    assert "30 x 20 pixels are more than the cap of 599" in reason(path, max_pixels=599)
    assert "390 x 20 pixels are more than the cap of 1,800" in reason(path, max_pixels=600)


def test_a_strip_that_inflates_beyond_its_size_is_refused(tmp_path):
    path = written(tmp_path / "a.tif", PLANES, compression="zlib", rowsperstrip=20)
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        offset, count = tags["StripOffsets"], tags["StripByteCounts"]
        order = file.byteorder
    bomb = zlib.compress(bytes(1 << 20))
    content = bytearray(path.read_bytes())
    place, end = offset.valueoffset, len(content)
    content[place : place + 4] = struct.pack(f"{order}I", end)
    content[count.valueoffset : count.valueoffset + 4] = struct.pack(f"{order}I", len(bomb))
    path.write_bytes(bytes(content) + bomb)
    assert reason(path) == "a strip inflates beyond its size"


def test_flipped_bytes_never_leave_as_another_error(tmp_path):
    content = bytearray(written(tmp_path / "a.tif", compression="zlib").read_bytes())
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(120):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] = rng.integers(256)
        for place in rng.integers(0, 400, 2):  # tags
            damaged[place] = rng.integers(256)
        (tmp_path / "b.tif").write_bytes(damaged)
        try:
            outcomes.add(read_image(tmp_path / "b.tif", channels=13, max_pixels=10**5).shape[0])
        except BadImageError:
            outcomes.add("bad")
    assert "bad" in outcomes
    assert outcomes <= {13, "bad"}


def test_without_tifffile_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = written(tmp_path / "a.tif")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UsageError, match=r"needs tifffile: .* pip install '\.\[deep\]'"):
        open_images(tmp_path, channels=13)
    with pytest.raises(UsageError, match="needs tifffile"):
        read_image(path, channels=13)
