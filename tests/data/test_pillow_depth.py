"""16-bit colour through Pillow: every bit, of both orders of bytes, and transparency."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit.data.images import BadImageError, depth_of_file, read_image

tifffile = pytest.importorskip("tifffile")

DEEP = np.random.default_rng(0).integers(0, 65536, (3, 20, 30)).astype(np.uint16)


def write_png(path: Path, pixels: np.ndarray, interlaced: bool = False) -> Path:
    """A 16-bit PNG of 3 or 4 channels (C, H, W), its lines filtered by what stands left ("Sub")."""
    lines = np.moveaxis(pixels, 0, -1).astype(">u2").reshape(pixels.shape[1], -1).view(np.uint8)
    step = 2 * len(pixels)
    before = np.pad(lines, ((0, 0), (step, 0)))[:, :-step]
    content = b"".join(b"\1" + line.tobytes() for line in lines - before)
    head = struct.pack(">IIBBBBB", pixels.shape[2], pixels.shape[1], 16, {3: 2, 4: 6}[len(pixels)], 0, 0, interlaced)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(content)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return path


def test_colours_of_a_png_keep_every_bit(tmp_path):
    path = write_png(tmp_path / "a.png", DEEP)
    assert depth_of_file(path) == np.uint16
    np.testing.assert_array_equal(read_image(path), DEEP)
    assert read_image(path, size=10, channels=1).shape == (1, 10, 15)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colours_of_a_tiff_keep_every_bit(tmp_path, order, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(DEEP, 0, -1), photometric="rgb", byteorder=order, compression=compression)
    assert depth_of_file(path) == np.uint16
    np.testing.assert_array_equal(read_image(path), DEEP)


def test_what_is_transparent_is_white(tmp_path):
    alpha = np.full((1, 20, 30), 65535, np.uint16)
    alpha[:, :10] = 0
    got = read_image(write_png(tmp_path / "a.png", np.concatenate([DEEP, alpha])))
    assert got.dtype == np.uint16
    assert (got[:, :10] == 65535).all()
    np.testing.assert_array_equal(got[:, 10:], DEEP[:, 10:])


def test_a_deep_file_that_is_cut_short_is_bad(tmp_path):
    path = write_png(tmp_path / "a.png", DEEP)
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(BadImageError, match=r"a\.png"):
        read_image(path)
    with pytest.raises(BadImageError, match="30 x 20 pixels are more than the cap of 599"):
        read_image(write_png(tmp_path / "b.png", DEEP), max_pixels=599)
