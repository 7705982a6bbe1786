"""What every kind of source gives: a sequence of images with labels, indexed, picklable and cheap to fork."""

from __future__ import annotations

import base64
import contextlib
import html
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ssl_toolkit.data.depth import Pixels, Range
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.resizing import resize
from ssl_toolkit.data.shown import Look
from ssl_toolkit.errors import UsageError

Labels = Literal["auto", "folder", "none"]

# Of what a notebook shows.
SHOWN, SIDE, NAMED = 8, 96, 10  # images, their side in pixels, classes


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source beside the word for it; see `open_images`.

    Attributes:
        root: Folder that data sets are downloaded to, an absolute path.
        labels: Where labels come from.
        channels: What `ImageSet.load` is to give; None: what the source has.
        range: Values that become 0 and 1 of images deeper than 8 bits; ``auto`` measures them.
        count: Images of an epoch, of a stream; None: as many as it says that it has.
    """

    root: str
    labels: Labels = "auto"
    channels: int | None = None
    range: Range | Literal["auto"] | None = None
    count: int | None = None


def unlabelled(count: int) -> NDArray[np.int64]:
    """The labels of images that have none."""
    return np.full(count, -1, dtype=np.int64)


class ImageSet(ABC):
    """A sequence of images with labels.

    Attributes:
        word: What the user wrote: ``"cifar10:train"``.
        classes: Names of the classes; None where there are no labels.
        labels: (N,) int64, -1 where an image has no label.
        channels: What `load` gives.
        frames: 1 for images; of clips, how many frames share the channels, one after another.
        dtype: The type of what `load` gives, for all images uint8, uint16 or float32, see `ssl_toolkit.data.depth`.
        range: Values of the source that become 0 and 1; None: those of its type.
        indexed: Whether an image can be read by its position; if not, it is a `Stream`.
        forks: Whether it can be read in forked processes; others take seconds to start.
    """

    word: str
    classes: list[str] | None
    labels: NDArray[np.int64]
    channels: int
    frames: int = 1
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    range: Range | None = None
    indexed: bool = True
    forks: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, index: int, size: int | None) -> Pixels:
        """Pixels of one image.

        Args:
            index: From 0 to len(self) - 1.
            size: Length of the short side, aspect kept; None gives the image's own size.

        Returns:
            (channels, H, W) of the set's type, contiguous.

        Raises:
            BadImageError: This image cannot be read.
        """

    def check(self, index: int) -> None:
        """Find out whether an image can be read, without decoding it where there is a cheaper way.

        Raises:
            BadImageError: It cannot.
        """
        self.load(index, None)

    def expect(self, indices: Sequence[int]) -> None:  # noqa: B027
        """Hear which images are loaded next: where each answer takes time, all are fetched at once; else nothing."""

    @abstractmethod
    def path(self, index: int) -> str:
        """Where an image lies: a file's path, or a place in a set, ``"shapes:test#17"``; `open_item` reads both."""

    def caption(self, index: int) -> str | None:
        """The text that says what is in an image, empty where this one has none; None: the set has no such texts."""
        return None

    def sound(self, index: int) -> NDArray[np.float16] | None:
        """Log-mel spectrogram (mels, steps) of what was heard at an image; None: the set has no sound.

        Raises:
            BadImageError: It cannot be read.
        """
        return None

    def few(self) -> ImageSet:
        """What to take where only some images are looked at: all of them, by position."""
        return self

    def require_positions(self) -> None:
        """Refuse a stream, where images are needed in an order of one's own.

        Raises:
            UsageError: Naming it.
        """
        if not self.indexed:
            raise UsageError(f"'{self.word}' is a stream, and here its images are needed in another order or as parts")

    def renumber(self, numbers: NDArray[np.int64], classes: list[str]) -> None:
        """Give each class another number.

        Args:
            numbers: (classes before,) the new number of each.
            classes: Names of the classes by their new numbers.
        """
        self.labels = np.where(self.labels < 0, -1, numbers[self.labels])
        self.classes = classes

    def __repr__(self) -> str:
        facts = self._facts() | ({} if self.classes is None else {"classes": str(len(self.classes))})
        return f"{type(self).__name__}({self.word!r}: {', '.join(f'{name} {value}' for name, value in facts.items())})"

    def _facts(self) -> dict[str, str]:
        count = f"{len(self):,}"
        kind = {"images": count} if self.frames == 1 else {"clips": count, "frames": str(self.frames)}
        depth = {} if self.dtype == np.uint8 else {"depth": str(self.dtype)}
        return kind | {"channels": str(self.channels // self.frames)} | depth

    def _repr_html_(self) -> str:
        """For notebooks: a table, and some images from all over the set; of clips, their first frames."""
        looked_at = self.few()
        rows = np.unique(np.linspace(0, len(looked_at) - 1, min(SHOWN, len(looked_at))).astype(int))
        shown = [image[: self.channels // self.frames] for image in read_some(looked_at, rows, SHOWN)]
        facts = {"data": self.word, **self._facts()}
        if shown:
            areas = [(height * width, f"{width} x {height} px") for _, height, width in (each.shape for each in shown)]
            facts["size of those shown"] = " to ".join(dict.fromkeys(size for _, size in (min(areas), max(areas))))
        if self.classes:
            more = [f"and {len(self.classes) - NAMED} more"] if len(self.classes) > NAMED else []
            facts["classes"] = ", ".join([*self.classes[:NAMED], *more])
        table = "".join(f"<tr><th>{name}</th><td>{_escaped(text)}</td></tr>" for name, text in facts.items())
        picture = base64.b64encode(_sheet(shown)).decode() if shown else ""
        return f"<table>{table}</table>" + f'<img src="data:image/png;base64,{picture}">' * bool(shown)


def _escaped(text: str) -> str:
    """Text as HTML; what is no Unicode, of file names in other encodings, as question marks."""
    return html.escape(text.encode("utf-8", "replace").decode())


def _sheet(images: Sequence[Pixels]) -> bytes:
    """The centres of images (C, H, W) side by side, as a PNG; see `Look`."""
    look = Look.of(images)
    canvas = Image.new("RGB", (SIDE * len(images), SIDE))
    for place, pixels in enumerate(images):
        square = ImageOps.fit(Image.fromarray(np.ascontiguousarray(look(pixels).transpose(1, 2, 0))), (SIDE, SIDE))
        canvas.paste(square, (SIDE * place, 0))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def read_some(images: ImageSet, order: Iterable[int], count: int, size: int | None = None) -> list[Pixels]:
    """Up to `count` images (C, H, W), the first in `order` that can be read, with `size` for their short side."""
    read: list[Pixels] = []
    for index in order:
        if len(read) == count:
            break
        with contextlib.suppress(BadImageError):
            read.append(images.load(int(index), size))
    return read


class Subset(ImageSet):
    """A part of an image set, in the order given.

    Args:
        images: The whole.
        rows: Positions in it, (n,) int64.

    Raises:
        UsageError: The whole is a stream.

    Examples:
        >>> from ssl_toolkit.data import open_images
        >>> Subset(open_images("shapes:test:20"), np.array([3, 17])).path(1)
        'shapes:test:20#17'
    """

    def __init__(self, images: ImageSet, rows: NDArray[np.int64]) -> None:
        images.require_positions()
        self.word, self.classes = images.word, images.classes
        self.channels, self.frames, self.dtype, self.range = images.channels, images.frames, images.dtype, images.range
        self.images, self.rows, self.labels, self.forks = images, rows, images.labels[rows], images.forks

    def path(self, index: int) -> str:
        """Where the image came from."""
        return self.images.path(int(self.rows[index]))

    def load(self, index: int, size: int | None) -> Pixels:
        """Pixels (C, H, W) of the part's image `index`."""
        return self.images.load(int(self.rows[index]), size)

    def check(self, index: int) -> None:
        """As `ImageSet.check`."""
        self.images.check(int(self.rows[index]))

    def expect(self, indices: Sequence[int]) -> None:
        """As `ImageSet.expect`."""
        self.images.expect(self.rows[indices].tolist())

    def caption(self, index: int) -> str | None:
        """As `ImageSet.caption`."""
        return self.images.caption(int(self.rows[index]))

    def sound(self, index: int) -> NDArray[np.float16] | None:
        """As `ImageSet.sound`."""
        return self.images.sound(int(self.rows[index]))


class Boxed(Subset):
    """Parts of some images, each cut out before it is resized.

    Args:
        images: The whole.
        rows: Positions in it, (n,) int64.
        boxes: Left, top, right and bottom of each part, pixels of the image's own size.
    """

    def __init__(
        self, images: ImageSet, rows: NDArray[np.int64], boxes: Sequence[tuple[float, float, float, float]]
    ) -> None:
        super().__init__(images, rows)
        self.boxes = boxes

    def load(self, index: int, size: int | None) -> Pixels:
        """Pixels (C, h, w) of the part `index`, with `size` for its short side."""
        whole = super().load(index, None)
        left, top, right, bottom = (round(each) for each in self.boxes[index])
        part = whole[:, max(0, top) : max(top + 1, bottom), max(0, left) : max(left + 1, right)]
        if not part.size:
            raise BadImageError(self.path(index), f"the box {self.boxes[index]} lies outside")
        return resize(part, size)
