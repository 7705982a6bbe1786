"""Image files as they are not meant to be: 45 kinds, some of which a decoder may still read."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Maker = Callable[[Path], object]


def photo(width: int = 40, height: int = 30) -> Image.Image:
    """Smooth colours, as JPEG likes them."""
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    (image or photo()).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that says it is of a size, and has hardly any pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 10)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def flipped(content: bytes, place: float) -> bytes:
    """One byte changed, at a share of the length."""
    at = int(place * (len(content) - 1))
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def exif_of(orientation: int) -> Image.Exif:
    """An EXIF block that turns an image."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def made() -> dict[str, bytes | Maker]:
    """Each kind by its file name: its bytes, or what makes it at a path."""
    jpeg, png, gif, webp, tiff, bmp = map(encoded, ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"))
    deep = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    return {
        "empty.jpg": b"", "one_byte.png": b"\x89", "text.jpg": b"this is no image\n" * 50, "zeros.png": bytes(4096),
        "html.jpg": b"<html><script>alert(1)</script></html>", "script.png": b"#!/bin/sh\ntouch /tmp/ssl-toolkit-ran\n",
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "pickle.png": b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "zip.jpg": b"PK\x03\x04" + bytes(100),
        "half.jpg": jpeg[: len(jpeg) // 2], "half.png": png[: len(png) // 2], "half.gif": gif[: len(gif) // 2],
        "half.webp": webp[: len(webp) // 2], "half.tiff": tiff[: len(tiff) // 2], "half.bmp": bmp[: len(bmp) // 2],
        "header_only.jpg": jpeg[:20], "header_only.png": png[:33], "no_end.jpg": jpeg[:-2],
        "flipped.jpg": flipped(jpeg, 0.6), "flipped.png": flipped(png, 0.6), "flipped.webp": flipped(webp, 0.6),
        "flipped.gif": flipped(gif, 0.6), "flipped.tiff": flipped(tiff, 0.1),
        "bomb.png": png_header(60_000, 60_000), "large_claim.png": png_header(12_000, 11_300),
        "no_width.png": png_header(0, 30), "no_pixels.png": png_header(40, 30), "odd_depth.png": png_header(40, 30, 3),
        "wrong_suffix.png": jpeg, "garbage_behind.jpg": jpeg + os.urandom(500), "garbage_before.jpg": b"\0\0" + jpeg,
        "line.png": encoded("PNG", Image.new("RGB", (1, 5_000))), "pixel.png": encoded("PNG", Image.new("RGB", (1, 1))),
        "cmyk.jpg": encoded("JPEG", Image.new("CMYK", (8, 8))), "deep.png": encoded("PNG", deep),
        "float.tiff": encoded("TIFF", Image.fromarray(np.full((8, 8), 7, np.float32))),
        "broken_exif.jpg": encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff"),
        "odd_turn.jpg": encoded("JPEG", exif=exif_of(77)),
        "animated.gif": encoded("GIF", save_all=True, append_images=[Image.new("RGB", (40, 30), "blue")]),
        "pipe.jpg": os.mkfifo, "folder_link.jpg": lambda path: path.symlink_to(path.parent),
        "dead_link.jpg": lambda path: path.symlink_to("nowhere.jpg"),
        "own_link.jpg": lambda path: path.symlink_to(path.name),
        "device.jpg": lambda path: path.symlink_to("/dev/zero"),
    }  # fmt: skip


def write_hostile(folder: Path) -> list[Path]:
    """A file of each kind; where they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made().items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)
    return [folder / name for name in made()]
