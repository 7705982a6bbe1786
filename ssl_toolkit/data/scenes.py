"""The built-in image set ``scenes``: one or two of the things of ``shapes``, with a caption. For demos and tests only.

A quarter of the images show one thing as ``shapes`` has it ("a house"), a quarter one in a colour ("a red house"), half
show two ("a red house above a blue car"). All else is nuisance, as in ``shapes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.image_set import ImageSet, Wanted, unlabelled
from ssl_toolkit.data.images import check_channels
from ssl_toolkit.data.resizing import convert_channels
from ssl_toolkit.data.shapes import CLASSES, DRAW, MIN_SIZE, NATIVE_SIZE, Pen, background, split_and_count
from ssl_toolkit.errors import UsageError
from ssl_toolkit.randomness import derive_seed

HUES = {"red": 0.0, "yellow": 0.15, "green": 0.35, "blue": 0.62, "purple": 0.8}
# Where the first thing and the second are, left and top as shares of the side; None: anywhere.
RELATIONS: dict[str, tuple[tuple[float | None, float | None], tuple[float | None, float | None]]] = {
    "above": ((None, 0.0), (None, 0.45)),
    "below": ((None, 0.45), (None, 0.0)),
    "left of": ((0.0, None), (0.45, None)),
    "right of": ((0.45, None), (0.0, None)),
}
SHARE = 0.55  # of the side that each of two things has to itself


@dataclass(frozen=True)
class Scene:
    """What an image shows.

    Attributes:
        kinds: One or two of `CLASSES`, different ones.
        hues: A key of `HUES` for each of them, None where it has none in particular.
        relation: A key of `RELATIONS`, of the first to the second; None of one thing.
    """

    kinds: tuple[str, ...]
    hues: tuple[str | None, ...]
    relation: str | None

    @property
    def caption(self) -> str:
        """What it shows, in words."""
        things = [" ".join(filter(None, words)) for words in zip(self.hues, self.kinds, strict=True)]
        named = [f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in things]
        return f" {self.relation} ".join(named)


def scene(rng: Random) -> Scene:
    """What the next image shows."""
    form = rng.random()
    first, second = rng.sample(CLASSES, 2)
    hues, relation = rng.choices(tuple(HUES), k=2), rng.choice(tuple(RELATIONS))
    if form < 0.5:
        return Scene((first,), (None if form < 0.25 else hues[0],), None)
    return Scene((first, second), tuple(hues), relation)


def render(split: str, index: int, size: int, seed: int = 0) -> tuple[Pixels, str]:
    """Render one image.

    Args:
        split: Part of the key: images of different splits have nothing in common.
        index: Which image.
        size: Height and width in pixels, at least 16.
        seed: Another seed gives another image set.

    Returns:
        (3, size, size) uint8, contiguous; and its caption.

    Raises:
        UsageError: `size` is too small to show anything.
    """
    if size < MIN_SIZE:
        raise UsageError(f"scenes need {MIN_SIZE} pixels or more, not {size}")
    rng = _rng(split, index, seed)
    shown, factor = scene(rng), 4 if size <= 64 else 2
    canvas = background(rng, size * factor)
    for place, (kind, hue) in enumerate(zip(shown.kinds, shown.hues, strict=True)):
        area = None if shown.relation is None else _area(rng, canvas, RELATIONS[shown.relation][place])
        DRAW[CLASSES.index(kind)](Pen(rng, canvas, area, None if hue is None else HUES[hue]), rng)
    pixels = np.array(np.asarray(canvas.reduce(factor)).transpose(2, 0, 1), order="C")
    return pixels, shown.caption


def _rng(split: str, index: int, seed: int = 0) -> Random:
    return Random(derive_seed(seed, "scenes", split, index))


def _area(rng: Random, canvas: Image.Image, corner: tuple[float | None, float | None]) -> tuple[float, float, float]:
    left, top = ((1 - SHARE) * rng.random() if share is None else share for share in corner)
    return left * canvas.width, top * canvas.width, SHARE * canvas.width


class ScenesSet(ImageSet):
    """The rendered images as an image set with captions and no labels."""

    def __init__(self, word: str, split: str, count: int, channels: int | None) -> None:
        self.word, self._name, self._split = word, word, split
        self.labels, self.classes = unlabelled(count), None
        self.channels = 3 if channels is None else channels
        check_channels(self.channels)

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return convert_channels(render(self._split, index, size or NATIVE_SIZE)[0], self.channels)

    def caption(self, index: int) -> str:
        """As `ImageSet.caption`."""
        return scene(_rng(self._split, index)).caption

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"


def open_scenes(word: str, wanted: Wanted) -> ScenesSet:
    """A split and, if you like, a count: ``"scenes:train:2000"``.

    Raises:
        UsageError: No such split, or a count below 1.
    """
    return ScenesSet(word, *split_and_count(word), wanted.channels)
