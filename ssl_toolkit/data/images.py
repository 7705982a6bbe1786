"""One safe way from an image, on disk or in memory, to pixels (C, H, W).

What comes out does not depend on how the file was written:

- **Regular files only.** A pipe that is named ``.jpg`` would hang a worker, a device would never end.
- **Size.** The pixel cap is checked on the header, before anything is decoded. JPEGs are decoded at the smallest of
  the scales 1, 1/2, 1/4, 1/8 that still has twice the size asked for, then resized with antialiasing.
- **Depth.** 16 bits stay 16 bits, grey and colour, floats stay floats (see `ssl_toolkit.data.depth`): scaled by a
  stated range or by their type's, never by the values of one image. 32-bit integers are read as 16 bits while they fit.
- **Channels.** 3 and 1 of any file, its first frame or page. Other counts of TIFFs, all planes of all their pages, and
  of DICOM files, all frames.
- **Orientation.** EXIF orientation is applied; a broken EXIF block counts as none.
- **Transparency.** Composited over white, for alpha channels, palettes and colour keys alike.
- **Colour.** Palette, CMYK, 1-bit and grey become RGB for three channels, luminance (ITU-R 601) for one.
- **Faults.** Truncated and corrupt files raise `BadImageError`, nothing else; warnings stay inside.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ssl_toolkit.data import dicom, tiff
from ssl_toolkit.data.depth import FULL, Pixels, Range, at_depth, depth_of, to_pixels
from ssl_toolkit.data.pillow_depth import deep_values, stored_type
from ssl_toolkit.data.resizing import MAX_PIXELS, check_pixels, convert_channels, resize, scaled, to_chw
from ssl_toolkit.errors import ToolkitError, UsageError

# Formats that are decoded by Pillow itself: EPS, for one, would start Ghostscript on a stranger's file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".dcm"),
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
_ORIENTATION, _BITS = 0x0112, 0x0102  # tags of EXIF and TIFF
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


class Content(NamedTuple):
    """An image file that is not on disk by itself.

    Attributes:
        name: What it is called: a place in an archive or table.
        data: Its bytes.
    """

    name: str
    data: bytes


Source: TypeAlias = "str | os.PathLike[str] | Content"
"""Where an image file is: a path, or its bytes."""


def read_image(
    path: Source,
    *,
    size: int | None = None,
    channels: int = 3,
    range: Range | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Read an image file; see the module's docstring for what is done to it.

    Args:
        path: A file in one of `FORMATS`, or a DICOM file, whatever its suffix; or the bytes of one.
        size: Length of the short side in pixels, smaller or larger than the file's; the aspect ratio is kept and
            nothing is cropped. None keeps the file's own size.
        channels: 3 for RGB, 1 for luminance; other counts of TIFFs and DICOM files that have as many.
        range: The values that become 0 and 1, of files deeper than 8 bits. None: those of the type; of DICOM files,
            what their window shows.
        max_pixels: Refuse larger images, before decoding.

    Returns:
        (channels, H, W) uint8, uint16 or float32, contiguous, min(H, W) == size.

    Raises:
        BadImageError: The file is no regular file, no image, damaged, too large or of a kind that has no agreed range.
        UsageError: A package that reads such files is not installed.
    """
    with _opened(path, max_pixels) as file:
        return _read(file, size, channels, range, max_pixels)


def decode_image(
    content: bytes,
    *,
    size: int | None = None,
    channels: int = 3,
    range: Range | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """`read_image` for the bytes of an image file: same arguments, same result, same errors."""
    found = Content("image in memory", content)
    return read_image(found, size=size, channels=channels, range=range, max_pixels=max_pixels)


def read_values(path: Source, channels: int = 3) -> NDArray[Any]:
    """The values of an image file as they are stored, (C, H, W), of DICOM files as they are rescaled.

    Raises:
        BadImageError: As `read_image`.
    """
    with _opened(path) as file:
        return _scan(file, None, channels, MAX_PIXELS).values


def depth_of_file(path: Source, channels: int = 3) -> np.dtype[Any] | None:
    """The type that `read_image` gives of a file, by its header; None where it cannot be read.

    Raises:
        UsageError: A package that reads such files is not installed.
    """
    try:
        with _opened(path) as file:
            kind = _kind(file, channels)
            if kind == "dicom":
                return np.dtype(np.uint16)
            if kind == "tiff":
                return depth_of(tiff.tiff_type(file))
            with Image.open(file, formats=_formats()) as image:
                return stored_type(image)
    except BadImageError:
        return None


def check_image(path: Source, *, channels: int = 3, range: Range | None = None, max_pixels: int = MAX_PIXELS) -> None:
    """Find out whether `read_image` can read a file, and decode it only if a look at its structure leaves doubts.

    A JPEG that begins and ends as one, and a PNG all of whose checksums hold, count as readable. What a decoder alone
    would stumble over, inside of such a JPEG, is not found.

    Raises:
        BadImageError: As `read_image`.
    """
    try:
        with _opened(path, max_pixels) as file:
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                check_pixels(image.size, max_pixels)
                image.verify()  # of a PNG, up to its end
            file.seek(-len(_END_OF_JPEG), os.SEEK_END)
            whole = image.format == "PNG" or file.read() == _END_OF_JPEG
    except Exception:
        whole = False
    if not whole or channels not in (1, 3):
        read_image(path, channels=channels, range=range, max_pixels=max_pixels)


def to_array(
    image: Image.Image,
    *,
    size: int | None = None,
    channels: int = 3,
    range: Range | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """`read_image` for an image that Pillow has open or in memory: same arguments, same result, same errors."""
    check_channels(channels)
    with _faults(os.fsdecode(getattr(image, "filename", "")) or "image in memory", max_pixels):
        check_pixels(image.size, max_pixels)
        values = _values(image, None, size, channels, max_pixels)
        return _finished(dicom.Scan(values, None, False), size, channels, range, max_pixels)


def check_channels(channels: int) -> None:
    """Refuse a channel count that a picture cannot give."""
    if channels not in (1, 3):
        raise UsageError(
            f"image files other than TIFF and DICOM give 1 or 3 channels, not {channels}: keep other counts in these, "
            "or in a .npy array"
        )


@contextlib.contextmanager
def _opened(path: Source, max_pixels: int = MAX_PIXELS) -> Iterator[BinaryIO]:
    """A regular file, or bytes as one; whatever happens to it is a `BadImageError`."""
    if isinstance(path, Content):
        with _faults(path.name, max_pixels):
            yield io.BytesIO(path.data)
        return
    name = os.fsdecode(path)
    with _faults(name, max_pixels):
        _check_regular(name)
        with open(name, "rb") as file:
            yield file


@contextlib.contextmanager
def _faults(name: str, max_pixels: int) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UsageError, BadImageError):
        raise
    # Decoders meet hostile bytes with nearly every exception there is: SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise BadImageError(name, _reason(error, max_pixels)) from error


def _read(file: BinaryIO, size: int | None, channels: int, range: Range | None, max_pixels: int) -> Pixels:
    return _finished(_scan(file, size, channels, max_pixels), size, channels, range, max_pixels)


def _kind(file: BinaryIO, channels: int) -> str:
    """Who reads a file: ``dicom``, ``tiff`` for what Pillow does not, or ``pillow``."""
    head = file.read(dicom.MAGIC_AT + len(dicom.MAGIC))
    file.seek(0)
    if head[dicom.MAGIC_AT :] == dicom.MAGIC:
        return "dicom"
    is_tiff = head[:4] in tiff.MAGIC
    if channels not in (1, 3):
        if not is_tiff:
            raise ValueError(f"{channels} channels are wanted, which only TIFF and DICOM files give")
        return "tiff"
    if is_tiff:
        try:
            image: Any = Image.open(file, formats=("TIFF",))  # not closed, which would close the file
            lost = stored_type(image) == np.uint8 and max(image.tag_v2.get(_BITS, (1,))) > 8  # colours plane by plane
        except UnidentifiedImageError:  # colours as floats
            lost = True
        file.seek(0)
        if lost:
            return "tiff"
    return "pillow"


def _scan(file: BinaryIO, size: int | None, channels: int, max_pixels: int) -> dicom.Scan:
    """What is stored, with the range that the file itself states; of 8 bits, (channels, H, W) at `size` already."""
    kind = _kind(file, channels)
    if kind == "dicom":
        return dicom.read_dicom(file, channels, max_pixels)
    if kind == "tiff":
        return dicom.Scan(tiff.tiff_planes(file, channels, max_pixels), None, False)
    with Image.open(file, formats=_formats()) as image:
        check_pixels(image.size, max_pixels)
        # At twice the size the antialiased resize that follows cannot tell the scaled decode from the full one.
        image.draft("L" if channels == 1 else image.mode, image.size if size is None else (2 * size, 2 * size))
        return dicom.Scan(_values(image, file, size, channels, max_pixels), None, False)


def _finished(scan: dicom.Scan, size: int | None, channels: int, range: Range | None, max_pixels: int) -> Pixels:
    pixels = to_pixels(scan.values, range or scan.window)
    if scan.window is not None:
        pixels = at_depth(pixels, np.uint16)  # rescaled integers may be floats
    if scan.inverted:
        pixels = FULL[pixels.dtype] - pixels
    return convert_channels(resize(pixels, size, max_pixels), channels)


def _check_regular(path: str) -> None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a regular file")
    if status.st_size == 0:
        raise ValueError("the file is empty")


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


def _values(
    image: Image.Image, file: BinaryIO | None, size: int | None, channels: int, max_pixels: int
) -> NDArray[Any]:
    """What an image of Pillow's holds, upright: deep values as they are stored, 8 bits as `_scan` says."""
    if stored_type(image) != np.uint8:
        values = deep_values(image, file)
        if values.dtype.kind == "i" and not (values.min() < 0 or values.max() > 65535):
            values = values.astype(np.uint16)
        turn = _turn(image)
        return values if turn is None else np.stack([_turned(band, turn) for band in values])
    image.load()
    turn = _turn(image)  # after loading: some formats carry EXIF behind the pixels, TIFF is turned by then
    image = _flatten(image)
    if channels == 1 or image.mode == "L":  # grey is resized once and replicated afterwards
        image = image.convert("L")
    if size is not None:
        image = scaled(image, size, max_pixels)
    if turn is not None:
        image = image.transpose(turn)
    return convert_channels(to_chw(image), channels)


def _turned(band: NDArray[Any], turn: Image.Transpose) -> NDArray[Any]:
    return np.asarray(Image.fromarray(band).transpose(turn))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF blocks are damaged more often than pixels are, in as many ways; they cost nothing
        return None


def _flatten(image: Image.Image) -> Image.Image:
    """To mode RGB or L: 8 bits, no palette, no transparency."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, (0, 0), image)
        return canvas
    return image if image.mode in ("RGB", "L") else image.convert("RGB")
