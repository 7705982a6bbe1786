"""One safe way from an image, on disk or in memory, to uint8 pixels (C, H, W).

What comes out does not depend on how the file was written:

- **Regular files only.** A pipe that is named ``.jpg`` would hang a worker, a device would never end.
- **Size.** The pixel cap is checked on the header, before anything is decoded. JPEGs are decoded at the smallest of
  the scales 1, 1/2, 1/4, 1/8 that still has twice the size asked for, then resized with antialiasing.
- **Depth.** 16-bit grey v becomes round(v / 257), whatever its range: no stretching by the values of one image. 32-bit
  integers are read the same way while they fit 16 bits. Float images are refused: no range is agreed for them.
- **Orientation.** EXIF orientation is applied; a broken EXIF block counts as none.
- **Transparency.** Composited over white, for alpha channels, palettes and colour keys alike.
- **Colour.** Palette, CMYK, 1-bit and grey become RGB for three channels, luminance (ITU-R 601) for one.
- **Animations.** The first frame.
- **Faults.** Truncated and corrupt files raise `BadImageError`, nothing else; warnings stay inside.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from functools import lru_cache
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ssl_toolkit.errors import ToolkitError, UsageError

Pixels: TypeAlias = NDArray[np.uint8]  # mostly (C, H, W)

MAX_PIXELS = 2**27  # 134 million: above every camera, 0.4 GB as RGB

# Formats that are decoded by Pillow itself: EPS, for one, would start Ghostscript on a stranger's file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
    )
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # the EXIF tag
_END_OF_JPEG = b"\xff\xd9"


class BadImageError(ToolkitError):
    """One image cannot be read.

    Attributes:
        path: The file, or the place in an array: ``"scans.npy#17"``.
        reason: Why, in a few words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error survives pickling on its way out of a worker
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(
    path: str | os.PathLike[str], *, size: int | None = None, channels: int = 3, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Read an image file; see the module's docstring for what is done to it.

    Args:
        path: A file in one of `FORMATS`, whatever its suffix.
        size: Length of the short side in pixels, smaller or larger than the file's; the aspect ratio is kept and
            nothing is cropped. None keeps the file's own size.
        channels: 3 for RGB, 1 for luminance.
        max_pixels: Refuse larger images, before decoding.

    Returns:
        (channels, H, W) uint8, contiguous, min(H, W) == size.

    Raises:
        BadImageError: The file is no regular file, no image, damaged, too large or of a kind that has no agreed range.
        UsageError: `channels` is neither 1 nor 3.
    """
    check_channels(channels)
    name = os.fsdecode(path)
    try:
        _check_regular(name)
        with open(name, "rb") as file:
            return _decoded(file, size, channels, max_pixels)
    # Decoders meet hostile bytes with nearly every exception there is: SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise BadImageError(name, _reason(error, max_pixels)) from error


def decode_image(content: bytes, *, size: int | None = None, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Pixels:
    """`read_image` for the bytes of an image file: same arguments, same result, same errors."""
    check_channels(channels)
    try:
        return _decoded(io.BytesIO(content), size, channels, max_pixels)
    except Exception as error:
        raise BadImageError("image in memory", _reason(error, max_pixels)) from error


def check_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> None:
    """Find out whether `read_image` can read a file, and decode it only if a look at its structure leaves doubts.

    A JPEG that begins and ends as one, and a PNG all of whose checksums hold, count as readable. What a decoder alone
    would stumble over, inside of such a JPEG, is not found.

    Raises:
        BadImageError: As `read_image`.
    """
    try:
        _check_regular(os.fsdecode(path))
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                _check_pixels(image.size, max_pixels)
                image.verify()  # of a PNG, up to its end
            file.seek(-len(_END_OF_JPEG), os.SEEK_END)
            whole = image.format == "PNG" or file.read() == _END_OF_JPEG
    except Exception:
        whole = False
    if not whole:
        read_image(path, max_pixels=max_pixels)


def to_array(image: Image.Image, *, size: int | None = None, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Pixels:
    """`read_image` for an image that Pillow has open or in memory: same arguments, same result, same errors."""
    check_channels(channels)
    name = os.fsdecode(getattr(image, "filename", "")) or "image in memory"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_pixels(image.size, max_pixels)
            return _pixels(image, size, channels, max_pixels)
    except Exception as error:
        raise BadImageError(name, _reason(error, max_pixels)) from error


def check_channels(channels: int) -> None:
    """Refuse a channel count that an image file cannot give."""
    if channels not in (1, 3):
        raise UsageError(f"image files give 1 or 3 channels, not {channels}: keep other counts in a .npy array")


def to_uint8(pixels: NDArray[np.generic]) -> Pixels:
    """Array values to bytes by the type's fixed range, never by the values of one image.

    Args:
        pixels: Any shape: uint8 (kept), uint16 (v / 257, rounded) or float in [0, 1] (times 255, rounded).

    Raises:
        ValueError: Another type, or floats outside [0, 1] (NaN included).
    """
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels, dtype=np.uint8)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype.kind != "f":
        raise ValueError(f"values are {pixels.dtype}: known are uint8, uint16 and floats in [0, 1]")
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails
        raise ValueError(f"float values from {low:.4g} to {high:.4g}: scale them to [0, 1]")
    return (values * 255.0 + 0.5).astype(np.uint8)


def resize(pixels: Pixels, size: int | None) -> Pixels:
    """Resize (C, H, W) bytes of any channel count, antialiased, as `read_image` does.

    Args:
        pixels: (C, H, W) uint8.
        size: Length of the short side; None keeps the size.

    Returns:
        (C, h, w) uint8, contiguous.
    """
    if size is None or min(pixels.shape[1:]) == size:
        return np.ascontiguousarray(pixels)
    if pixels.shape[0] == 3:
        return _to_chw(_scaled(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))), size, MAX_PIXELS))
    bands = [Image.fromarray(np.ascontiguousarray(band)) for band in pixels]
    return np.concatenate([_to_chw(_scaled(band, size, MAX_PIXELS)) for band in bands])


def convert_channels(pixels: Pixels, channels: int) -> Pixels:
    """(C, H, W) to (channels, H, W): grey is replicated, RGB becomes luminance, equal counts pass.

    Raises:
        ValueError: Any other pair of counts.
    """
    if pixels.shape[0] == channels:
        return pixels
    if (pixels.shape[0], channels) == (1, 3):
        return np.repeat(pixels, 3, axis=0)
    if (pixels.shape[0], channels) == (3, 1):
        return _to_chw(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).convert("L"))
    raise ValueError(f"{pixels.shape[0]} channels cannot become {channels}")


def _decoded(file: BinaryIO, size: int | None, channels: int, max_pixels: int) -> Pixels:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file, formats=_formats()) as image:
            _check_pixels(image.size, max_pixels)
            # At twice the size the antialiased resize that follows cannot tell the scaled decode from the full one.
            image.draft("L" if channels == 1 else image.mode, image.size if size is None else (2 * size, 2 * size))
            return _pixels(image, size, channels, max_pixels)


def _check_regular(path: str) -> None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a regular file")
    if status.st_size == 0:
        raise ValueError("the file is empty")


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(f"{size[0]} x {size[1]} pixels are more than the cap of {max_pixels:,}")


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reason(error: Exception, max_pixels: int) -> str:
    """A few words for a log line."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in a known format ({', '.join(_formats())})"
    if isinstance(error, Image.DecompressionBombError):  # beyond Pillow's own limit even the header is refused
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        return f"more pixels than the cap of {limit:,}"
    return in_brief(error)


def in_brief(error: Exception) -> str:
    """The first line of what an error says, at most 160 characters."""
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0][:160] if text else type(error).__name__


def _pixels(image: Image.Image, size: int | None, channels: int, max_pixels: int) -> Pixels:
    image.load()
    turn = _turn(image)  # after loading: some formats carry EXIF behind the pixels, TIFF is turned by then
    image = _flatten(image)
    if channels == 1 or image.mode == "L":  # grey is resized once and replicated afterwards
        image = image.convert("L")
    if size is not None:
        image = _scaled(image, size, max_pixels)
    if turn is not None:
        image = image.transpose(turn)
    return convert_channels(_to_chw(image), channels)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF blocks are damaged more often than pixels are, in as many ways; they cost nothing
        return None


def _flatten(image: Image.Image) -> Image.Image:
    """To mode RGB or L: 8 bits, no palette, no transparency."""
    if image.mode == "F":
        raise ValueError("float pixels have no agreed range: store the images as a .npy array with values in [0, 1]")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
            raise ValueError("32-bit pixels outside 0..65535 have no agreed range: store the images as a .npy array")
        return Image.fromarray(to_uint8(values.astype(np.uint16)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, (0, 0), image)
        return canvas
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def _scaled(image: Image.Image, size: int, max_pixels: int) -> Image.Image:
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short == size:
        return image
    long = max(size, round(long * size / short))
    _check_pixels((size, long), max_pixels)  # a line of 1 x 100,000 pixels would grow without bounds
    wanted = (size, long) if width <= height else (long, size)
    return image.resize(wanted, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _to_chw(image: Image.Image) -> Pixels:
    array = np.asarray(image)  # (H, W) or (H, W, 3)
    return np.array(array[None] if array.ndim == 2 else array.transpose(2, 0, 1), order="C")
