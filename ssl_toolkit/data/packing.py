"""Image sets written as shards, tar files as WebDataset has them, so that a kill at any moment costs one shard at most.

A shard is there once the list of its images is: that is written after it, and says where to go on.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.file_set import EncodedSet
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import BadImageError, Content, Source, check_image
from ssl_toolkit.data.reading import Reading, reader
from ssl_toolkit.data.shards import list_of, places_in, write_list
from ssl_toolkit.data.streaming import Held, Stream, StreamOrder
from ssl_toolkit.errors import missing_extra
from ssl_toolkit.files import sha256_of, sync, write_atomic
from ssl_toolkit.progress import progress_bar
from ssl_toolkit.randomness import numpy_generator

CHUNK = 16  # images that a worker makes at once
QUALITY = 95  # of JPEGs
SUMS = "SHA256SUMS"

# Position, and suffix and bytes of the image file, or why there is none.
Made: TypeAlias = "tuple[int, str, bytes | str]"


@dataclass(eq=False)
class ImageFiles(Reading[list[Made]]):
    """Makes image files of images.

    Attributes:
        images: The images.
        size: Short side, pixels; None keeps files as they are, byte for byte, and writes all else without loss.
    """

    images: ImageSet
    size: int | None

    def __getitem__(self, rows: list[int]) -> list[Made]:
        return [self._made(row) for row in rows]

    def _made(self, row: int) -> Made:
        try:
            source = self._source(row) if self.size is None else None
            if source is not None:
                check_image(source, channels=self.images.channels, range=self.images.range)
                return int(row), *_stored(source)
            return int(row), *image_file(self.images.load(row, self.size), lossless=self.size is None)
        except BadImageError as error:
            return int(row), "", error.reason

    def _source(self, row: int) -> Source | None:
        """The file that an image is, if it is one."""
        if isinstance(row, Held):
            return row.source
        return self.images.source(row) if isinstance(self.images, EncodedSet) else None


def image_file(pixels: Pixels, lossless: bool) -> tuple[str, bytes]:
    """Pixels (C, H, W) as a file: JPEG or PNG of 8 bits and 1 or 3 channels, else TIFF; its suffix and bytes.

    Raises:
        UsageError: tifffile is needed and not installed.
    """
    file = io.BytesIO()
    colour = pixels.shape[0] in (1, 3)
    values = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0) if colour else pixels
    if colour and pixels.dtype == np.uint8:
        kind = "PNG" if lossless else "JPEG"
        Image.fromarray(np.ascontiguousarray(values)).save(file, kind, quality=QUALITY)
        return ".png" if lossless else ".jpg", file.getvalue()
    try:
        import tifffile
    except ImportError as error:
        raise missing_extra("writing images of other depths and channels", "deep", "tifffile") from error
    photometric = "rgb" if pixels.shape[0] == 3 else "minisblack"
    tifffile.imwrite(file, np.ascontiguousarray(values), photometric=photometric, compression="zlib")
    return ".tif", file.getvalue()


def _stored(source: Source) -> tuple[str, bytes]:
    """Suffix, by what it is, and bytes of an image file."""
    data = source.data if isinstance(source, Content) else Path(source).read_bytes()
    if data[128:132] == b"DICM":
        return ".dcm", data
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = str(image.format)
    except Exception:  # what Pillow does not know, and is readable: colours as floats
        kind = "TIFF"
    known = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2", "MPO": "jpg"}
    return f".{known.get(kind, kind.lower())}", data


class ShardWriter:
    """Writes image files into one shard after another; see this module's docstring.

    Args:
        out: The folder.
        limit: Bytes of images in a shard.

    Attributes:
        position: Images that are in finished shards, or were passed over: where a run that was killed goes on.
        images: Those of them that are in shards.
        sums: SHA-256 of each finished shard.
    """

    def __init__(self, out: Path, limit: int) -> None:
        self.out, self.limit = out, limit
        self.position = self.images = 0
        self.sums: list[str] = []
        self._tar: tarfile.TarFile | None = None
        self._bytes = 0
        for path in out.glob(".shards-*"):
            path.unlink()  # of what was killed
        while (found := self._finished()) is not None:
            self.position, self.images, digest = found
            self.sums.append(digest)

    def add(self, name: str, suffix: str, data: bytes, label: int) -> None:
        """Write an image, as the next one, and its label if it is not negative."""
        if self._tar is not None and self._bytes + len(data) > self.limit:
            self.close()
        if self._tar is None:
            self._tar, self._bytes = tarfile.open(self._begun, "w"), 0  # noqa: SIM115 - closed when it is full
        for ending, content in ((suffix, data), (".cls", b"" if label < 0 else str(label).encode())):
            if content:
                member = tarfile.TarInfo(name + ending)
                member.size = len(content)
                self._tar.addfile(member, io.BytesIO(content))
        self._bytes += len(data)
        self.position += 1
        self.images += 1

    def close(self) -> None:
        """Finish the shard that is being written, if there is one, and write the sums of all."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
            self._finish()
        lines = [f"{each}  {self._name(number)}\n" for number, each in enumerate(self.sums)]
        write_atomic(self.out / SUMS, lambda temporary: temporary.write_text("".join(lines)))

    def _finish(self) -> None:
        path = self._path
        sync(self._begun)
        os.replace(self._begun, path)
        with path.open("rb") as file:
            places = places_in(file)  # read back: it is what a reader will find
        digest = sha256_of(path)
        write_list(path, places, position=self.position, images=self.images, sha256=digest)
        self.sums.append(digest)

    def _finished(self) -> tuple[int, int, str] | None:
        """Position, images and hash as of the list of the next shard, if that is whole."""
        try:
            with np.load(list_of(self._path), allow_pickle=False) as table:
                if int(table["shard_size"]) == self._path.stat().st_size:
                    return int(table["position"]), int(table["images"]), str(table["sha256"])
        except Exception:  # not there, or not of ours
            pass
        return None

    @property
    def _path(self) -> Path:
        return self.out / self._name(len(self.sums))

    @property
    def _begun(self) -> Path:
        return self._path.with_name(f".{self._path.name}")

    @staticmethod
    def _name(number: int) -> str:
        return f"shards-{number:06d}.tar"


def write_shards(
    images: ImageSet,
    writer: ShardWriter,
    bad: BadImages,
    *,
    size: int | None,
    shuffle: bool = False,
    workers: int = 0,
    progress: bool = False,
) -> None:
    """Write an image set, from where `writer` stands on.

    Args:
        images: The images.
        writer: Where to.
        bad: Receives the images that cannot be read.
        size: Short side, pixels; see `ImageFiles`.
        shuffle: In an order that is drawn, always the same, and not in that of the images.
        workers: Processes that read and write images.
        progress: Shows a progress bar.

    Raises:
        ToolkitError: See `BadImages`.
    """
    made = reader(ImageFiles(images, size), _rows(images, shuffle, writer.position), workers)
    with progress_bar(len(images), "packing", "image", progress, writer.position) as bar:
        for chunk in made:
            for row, suffix, data in chunk:
                if isinstance(data, str):
                    writer.position += 1
                    bad.record({row: data})
                else:
                    writer.add(f"{row:09d}", suffix, data, int(images.labels[row]))
            bar.update(len(chunk))
    writer.close()


def _rows(images: ImageSet, shuffle: bool, start: int) -> Iterator[Sequence[int]]:
    """What is to be written, from a position on, a chunk at a time."""
    if isinstance(images, Stream):
        for _, batch in StreamOrder(images, CHUNK, False, 0, 0, 1):
            yield [held for held in batch if held >= start]
        return
    order = numpy_generator(0, "pack").permutation(len(images)) if shuffle else np.arange(len(images))
    for first in range(start, len(images), CHUNK):
        yield order[first : first + CHUNK].tolist()
