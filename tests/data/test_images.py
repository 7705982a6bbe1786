from __future__ import annotations

import os
import pickle
import re
import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ssl_toolkit.data import images
from ssl_toolkit.data.images import (
    BadImageError,
    check_image,
    decode_image,
    read_image,
    to_array,
)
from ssl_toolkit.errors import UsageError


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours, as JPEG likes them."""
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def reason(path: str | Path, **options: object) -> str:
    with pytest.raises(BadImageError) as caught:
        read_image(path, **options)
    assert caught.value.path == os.fspath(path)
    if "size" not in options:
        with pytest.raises(BadImageError, match=re.escape(caught.value.reason)):
            check_image(path, **options)
    return caught.value.reason


# --- the plain case --------------------------------------------------------------------------------------------------


def test_png_comes_back_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    got = read_image(save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert got.flags.writeable
    np.testing.assert_array_equal(got, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [
        (80, 40, 20, (20, 40)),
        (40, 80, 20, (40, 20)),
        (30, 20, 60, (60, 90)),
        (33, 100, 10, (30, 10)),
        (9, 9, 9, (9, 9)),
    ],
)
def test_short_side_gets_the_size(tmp_path, width, height, size, expected):
    path = save(photo(width, height), tmp_path / "a.png")
    assert read_image(path, size=size).shape == (3, *expected)


def test_resize_averages_instead_of_picking(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    path = save(Image.fromarray(board.astype(np.uint8)), tmp_path / "a.png")
    got = read_image(path, size=8)
    assert np.abs(got.astype(int) - 127.5).max() <= 2  # picking pixels would give 0 or 255


def test_luminance_and_replicated_grey(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    path = save(Image.fromarray(colours), tmp_path / "colour.png")
    assert read_image(path, channels=1).tolist() == [[[76, 150, 29]]]  # 0.299, 0.587, 0.114 of 255
    path = save(Image.fromarray(np.array([[3, 200]], dtype=np.uint8)), tmp_path / "grey.png")
    assert read_image(path).tolist() == [[[3, 200]]] * 3


def test_other_channels_are_for_tiff_and_dicom(tmp_path):
    path = save(photo(8, 8), tmp_path / "a.png")
    with pytest.raises(BadImageError, match="4 channels are wanted, which only TIFF and DICOM files give"):
        read_image(path, channels=4)
    with pytest.raises(UsageError, match=r"1 or 3 channels, not 2.*\.npy"):
        to_array(photo(8, 8), channels=2)


# --- scaled decode ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "decoded"), [(300, (800, 600)), (150, (400, 300)), (70, (200, 150)), (30, (100, 75))])
def test_jpeg_is_decoded_small_but_never_too_small(tmp_path, monkeypatch, size, decoded):
    path = save(photo(800, 600), tmp_path / "a.jpg", quality=95)
    seen = []
    original = images._values
    monkeypatch.setattr(images, "_values", lambda image, *rest: seen.append(image.size) or original(image, *rest))
    got = read_image(path, size=size)
    assert seen == [decoded]
    assert min(decoded) >= 2 * size
    assert got.shape == (3, size, round(800 * size / 600))
    full = np.asarray(Image.open(path).resize(got.shape[:0:-1], Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(got.astype(int) - full).mean() < 1.0


def test_grey_from_a_colour_jpeg(tmp_path):
    path = save(photo(64, 48), tmp_path / "a.jpg", quality=95)
    expected = np.asarray(Image.open(path).convert("L"))
    for size in (None, 48):
        got = read_image(path, channels=1, size=size)
        assert got.shape == (1, 48, 64)
        assert np.abs(got[0].astype(int) - expected).max() <= 2


# --- orientation -----------------------------------------------------------------------------------------------------

UPRIGHT = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
# How the pixels are stored, from the definition of the tag: where row 0 and column 0 of the file lie in the picture.
STORED = {
    1: UPRIGHT,  # top, left
    2: UPRIGHT[:, ::-1],  # top, right
    3: UPRIGHT[::-1, ::-1],  # bottom, right
    4: UPRIGHT[::-1],  # bottom, left
    5: UPRIGHT.T,  # left, top
    6: UPRIGHT[:, ::-1].T,  # right, top
    7: UPRIGHT[::-1, ::-1].T,  # right, bottom
    8: UPRIGHT[::-1].T,  # left, bottom
}


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied_once(tmp_path, suffix, orientation):
    stored = np.ascontiguousarray(np.kron(STORED[orientation], np.ones((4, 4), dtype=np.uint8)))
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(Image.fromarray(stored), tmp_path / f"a.{suffix}", exif=exif(orientation), **options)
    np.testing.assert_array_equal(read_image(path, channels=1)[0, ::4, ::4], UPRIGHT)


def test_exif_orientation_of_a_jpeg_that_is_resized(tmp_path):
    path = save(photo(800, 600), tmp_path / "a.jpg", exif=exif(6))
    assert read_image(path, size=60).shape == (3, 80, 60)


@pytest.mark.parametrize("block", [b"nonsense", b"MM\0*\0\0\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_counts_as_none(tmp_path, block):
    path = save(photo(16, 8), tmp_path / "a.jpg", exif=b"Exif\0\0" + block)
    assert read_image(path).shape == (3, 8, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_deep_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    shallow = save(Image.fromarray(grey), tmp_path / "a.png", exif=exif)
    deep = save(Image.fromarray(grey.astype(np.uint16) * 257), tmp_path / "b.png", exif=exif)
    np.testing.assert_array_equal(read_image(deep, channels=1), read_image(shallow, channels=1).astype(int) * 257)


def test_broken_exif_in_a_text_chunk_counts_as_none(tmp_path):
    chunks = PngInfo()
    chunks.add_text("Raw profile type exif", "\nexif\n8\nno hexadecimal digits")
    assert read_image(save(photo(16, 8), tmp_path / "a.png", pnginfo=chunks)).shape == (3, 8, 16)


def test_unknown_orientation_counts_as_none(tmp_path):
    path = save(Image.fromarray(UPRIGHT), tmp_path / "a.png", exif=exif(77))
    np.testing.assert_array_equal(read_image(path, channels=1)[0], UPRIGHT)


# --- transparency ----------------------------------------------------------------------------------------------------


def test_alpha_is_composited_over_white(tmp_path):
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 128], [255, 0, 0, 0]]], dtype=np.uint8)
    path = save(Image.fromarray(rgba), tmp_path / "rgba.png")
    assert read_image(path)[:, 0].T.tolist() == [[255, 0, 0], [255, 127, 127], [255, 255, 255]]
    la = np.array([[[0, 255], [0, 51], [0, 0]]], dtype=np.uint8)
    path = save(Image.fromarray(la), tmp_path / "la.png")
    assert read_image(path, channels=1).tolist() == [[[0, 204, 255]]]
    assert read_image(path).tolist() == [[[0, 204, 255]]] * 3


def test_transparent_palette_entries_become_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    for name, options in [("a.gif", {"transparency": 0}), ("b.png", {"transparency": bytes([0, 255])})]:
        assert read_image(save(image, tmp_path / name, **options))[:, 0].T.tolist() == [[255] * 3, [40, 50, 60]]
    assert read_image(save(image, tmp_path / "c.png"))[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]


def test_transparent_colour_key_becomes_white(tmp_path):
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    path = save(image, tmp_path / "a.png", transparency=(1, 2, 3))
    assert read_image(path)[:, 0].T.tolist() == [[255] * 3, [4, 5, 6]]


def test_palette_with_alpha_channel():
    image = Image.new("PA", (1, 1))
    image.putpalette([10, 20, 30])
    image.putalpha(0)
    assert to_array(image).ravel().tolist() == [255, 255, 255]


# --- depth and colour spaces -----------------------------------------------------------------------------------------


def test_sixteen_bit_grey_keeps_every_bit(tmp_path):
    values = np.array([[0, 128, 129, 257, 385, 386, 32896, 65535]], dtype=np.uint16)
    for suffix in ("png", "tiff"):
        path = save(Image.fromarray(values), tmp_path / f"a.{suffix}")
        grey = read_image(path, channels=1)
        assert grey.dtype == np.uint16
        assert grey.tolist() == [values.tolist()]
    assert read_image(path).tolist() == [values.tolist()] * 3
    big_endian = Image.frombytes("I;16B", (8, 1), values.astype(">u2").tobytes())
    assert to_array(big_endian, channels=1).tolist() == [values.tolist()]


def test_dark_sixteen_bit_images_stay_dark(tmp_path):
    path = save(Image.fromarray(np.full((4, 4), 514, dtype=np.uint16)), tmp_path / "a.png")
    assert np.unique(read_image(path, size=2)).tolist() == [514]


def test_a_stated_range_becomes_the_whole(tmp_path):
    path = save(Image.fromarray(np.array([[90, 100, 150, 200, 300]], dtype=np.uint16)), tmp_path / "a.png")
    assert read_image(path, channels=1, range=(100, 200)).tolist() == [[[0, 0, 32768, 65535, 65535]]]
    path = save(photo(16, 16), tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(path, range=(100, 200)), read_image(path))  # 8 bits are 0 to 255


def test_32_bit_integers_are_read_while_they_fit_16(tmp_path):
    path = save(Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32)), tmp_path / "a.tiff")
    assert read_image(path, channels=1).tolist() == [[[0, 257, 65535]]]
    for value in (-1, 65536):
        path = save(Image.fromarray(np.array([[0, value]], dtype=np.int32)), tmp_path / "b.tiff")
        assert "give --range LOW,HIGH" in reason(path)
        assert read_image(path, channels=1, range=(-1, 65536)).dtype == np.uint16


def test_float_files_keep_their_depth(tmp_path):
    path = save(Image.fromarray(np.array([[0, 0.1, 1]], dtype=np.float32)), tmp_path / "a.tiff")
    assert read_image(path, channels=1).tolist() == [[[0, np.float32(0.1), 1]]]
    path = save(Image.fromarray(np.array([[-1000, 400]], dtype=np.float32)), tmp_path / "a.tiff")
    assert "from -1000 to 400: scale them to [0, 1], or give --range LOW,HIGH" in reason(path)
    assert read_image(path, channels=1, range=(-1000, 1800)).tolist() == [[[0, 0.5]]]


def test_one_bit_and_cmyk(tmp_path):
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert read_image(save(bits, tmp_path / "a.png"), channels=1).tolist() == [[[0, 255]]]
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    path = save(Image.frombytes("CMYK", (3, 1), inks.tobytes()), tmp_path / "a.tiff")
    assert read_image(path)[:, 0].T.tolist() == [[255, 255, 255], [0, 255, 255], [0, 0, 0]]
    path = save(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(read_image(path).mean((1, 2)), [0, 255, 255], atol=3)


def test_other_colour_spaces():
    green = to_array(Image.new("LAB", (1, 1), (128, 10, 200))).ravel()
    assert green[1] > 130
    assert max(green[0], green[2]) < 30
    assert to_array(Image.new("HSV", (1, 1), (85, 255, 255))).ravel().tolist() == [0, 255, 0]
    with pytest.raises(BadImageError, match=r"image in memory: .*La"):
        to_array(Image.new("La", (2, 2)))


def test_first_frame_of_an_animation(tmp_path):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        options = {"lossless": True} if name.endswith("webp") else {}
        path = save(red, tmp_path / name, save_all=True, append_images=[blue], **options)
        assert read_image(path)[:, 0, 0].tolist() == [255, 0, 0], name


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_hang():
    def stop(*_: object) -> None:
        raise RuntimeError("it hangs")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.usefixtures("no_hang")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "a pipe, not a regular file"
    assert reason(tmp_path) == "a folder, not a regular file"
    assert reason("/dev/zero") == "a device, not a regular file"
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "link.jpg") == "a pipe, not a regular file"


def test_missing_empty_and_alien_files(tmp_path):
    assert reason(tmp_path / "none.jpg") == "No such file or directory"
    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "empty.jpg") == "the file is empty"
    (tmp_path / "text.jpg").write_text("this is no image\n" * 50)
    assert reason(tmp_path / "text.jpg").startswith("not an image in a known format (JPEG, PNG")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert reason(tmp_path / "a.eps").startswith("not an image in a known format")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp", "a.tiff", "a.ppm"])
@pytest.mark.parametrize("size", [None, 16])
def test_truncated_files_are_bad(tmp_path, name, size):
    path = save(photo(200, 150), tmp_path / name)
    assert read_image(path, size=size).shape[0] == 3
    data = path.read_bytes()
    for share in (0.9, 0.5, 0.1):
        path.write_bytes(data[: int(share * len(data))])
        assert 0 < len(reason(path, size=size)) <= 200


def test_whole_files_are_checked_without_decoding(tmp_path, monkeypatch):
    files = [save(photo(40, 30), tmp_path / name) for name in ("a.jpg", "a.png", "a.webp", "a.tiff")]
    files.append(tmp_path / "padded.jpg")
    files[-1].write_bytes(files[0].read_bytes() + bytes(9))
    decoded = []

    def decode(path, **options):
        decoded.append(path)
        return read_image(path, **options)

    monkeypatch.setattr(images, "read_image", decode)
    for file in files:
        check_image(file)
    assert decoded == files[2:]  # the others can only be known so


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_whole_file_above_the_cap_is_bad(tmp_path, name):
    file = save(photo(40, 30), tmp_path / name)
    check_image(file, max_pixels=1200)
    assert reason(file, max_pixels=1199) == "40 x 30 pixels are more than the cap of 1,199"


def test_damage_inside_of_a_png_is_found_without_decoding(tmp_path):
    content = bytearray(save(photo(40, 30), tmp_path / "a.png").read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    assert reason(tmp_path / "a.png")


def test_flipped_bytes_never_leave_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    good = bad = 0
    for name in ("a.jpg", "a.png", "a.gif", "a.webp", "a.tiff"):
        data = save(photo(40, 30), tmp_path / name).read_bytes()
        for _ in range(60):
            broken = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                broken[place] = rng.integers(0, 256)
            (tmp_path / name).write_bytes(broken)
            try:
                read_image(tmp_path / name, size=16, max_pixels=10**6)
                good += 1
            except BadImageError:
                bad += 1
    assert good > 20
    assert bad > 20


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 10)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_pixel_cap_is_checked_before_decoding(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(100, 101))  # no pixels to decode
    assert reason(path, max_pixels=10_000) == "100 x 101 pixels are more than the cap of 10,000"
    assert "cap" not in reason(path, max_pixels=10_100)
    path.write_bytes(png_header(60_000, 60_000))  # beyond what Pillow opens at all
    assert reason(path) == f"more pixels than the cap of {images.MAX_PIXELS:,}"
    path.write_bytes(png_header(12_000, 11_300))  # between our cap and Pillow's
    assert reason(path) == f"12000 x 11300 pixels are more than the cap of {images.MAX_PIXELS:,}"


def test_pillows_own_warning_does_not_leak(tmp_path, monkeypatch):
    path = save(photo(100, 100), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8_000)
    assert read_image(path).shape == (3, 100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    assert reason(path) == "more pixels than the cap of 8,000"


def test_a_line_does_not_grow_without_bounds(tmp_path):
    path = save(Image.new("RGB", (1, 5_000)), tmp_path / "a.png")
    assert reason(path, size=100, max_pixels=10**6) == "100 x 500000 pixels are more than the cap of 1,000,000"


def test_bad_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BadImageError("a.jpg", "truncated")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "truncated", "a.jpg: truncated")


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    try:
        Image.new("RGB", (2, 2)).save(os.fsdecode(name))
    except OSError:
        pytest.skip("the file system wants UTF-8")
    assert read_image(os.fsdecode(name)).shape == (3, 2, 2)


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_to_array_agrees_with_read_image(tmp_path):
    path = save(photo(80, 60), tmp_path / "a.png")
    with Image.open(path) as image:
        np.testing.assert_array_equal(to_array(image, size=30, channels=1), read_image(path, size=30, channels=1))


def test_decode_image_agrees_with_read_image_on_good_and_bad_bytes(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(photo(100, 80), tmp_path / "a.jpg", exif=exif)
    content = path.read_bytes()
    for options in ({}, {"size": 30}, {"size": 30, "channels": 1}):
        np.testing.assert_array_equal(decode_image(content, **options), read_image(path, **options))
    for bad, reason in ((content[:200], "(?i)truncated"), (b"", "not an image"), (b"%!PS-Adobe-3.0", "not an image")):
        with pytest.raises(BadImageError, match=reason):
            decode_image(bad)
    with pytest.raises(BadImageError, match="100 x 80 pixels are more than the cap of 7,999"):
        decode_image(content, max_pixels=7999)
