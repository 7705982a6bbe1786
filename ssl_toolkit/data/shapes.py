"""The built-in image set ``shapes``: silhouettes of ten things, rendered on the fly. For demos and tests only.

An image is a function of (seed, split, index) and the size it is rendered at; nothing is stored, any count and any size
will do. The ten classes (`CLASSES`) differ in their silhouettes, which stand upright but for a small tilt, so that
rotation can be learned. Everything else is nuisance, drawn anew for each image: the colour of every part and whether
it is lighter or darker than what is behind it, place, scale, proportions, mirroring, the background's gradient, texture
and clutter. So raw pixels say little about the class, and colours and textures nothing.

A score on ``shapes`` says that a pipeline works, and nothing about how good a method is on photographs.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.image_set import ImageSet, Wanted
from ssl_toolkit.data.images import check_channels
from ssl_toolkit.data.resizing import convert_channels
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.randomness import derive_seed

CLASSES = ("boat", "bottle", "car", "house", "lamp", "mug", "mushroom", "person", "tree", "umbrella")
COUNTS = {"train": 10_000, "test": 2_000}
NATIVE_SIZE = 64
MIN_SIZE = 16

Point = tuple[float, float]
Colour = tuple[int, int, int]

_CIRCLE = [(math.cos(2 * math.pi * i / 28), math.sin(2 * math.pi * i / 28)) for i in range(28)]


def label(index: int) -> int:
    """The class of an image: classes take turns, so that any stretch of indices is balanced."""
    return index % len(CLASSES)


def render(split: str, index: int, size: int, seed: int = 0) -> Pixels:
    """Render one image.

    Args:
        split: Part of the key: images of different splits have nothing in common.
        index: Which image; gives the class, too (see `label`).
        size: Height and width in pixels, at least `MIN_SIZE`.
        seed: Another seed gives another image set.

    Returns:
        (3, size, size) uint8, contiguous.

    Raises:
        UsageError: `size` is too small to show anything.
    """
    canvas, _, factor = _drawn(split, index, size, seed)
    return np.array(np.asarray(canvas.reduce(factor)).transpose(2, 0, 1), order="C")


def render_mask(split: str, index: int, size: int, seed: int = 0) -> NDArray[np.int64]:
    """Where the thing of an image is, as `render` draws it; its windows and spots belong to it.

    Args:
        split: As of `render`.
        index: Likewise.
        size: Likewise.
        seed: Likewise.

    Returns:
        (size, size): 0 behind it, 1 + its class where it covers at least half of the pixel.

    Raises:
        UsageError: `size` is too small to show anything.
    """
    _, silhouette, factor = _drawn(split, index, size, seed)
    covered = np.asarray(silhouette).reshape(size, factor, size, factor).mean(axis=(1, 3)) >= 0.5
    return np.where(covered, label(index) + 1, 0)


def _drawn(split: str, index: int, size: int, seed: int) -> tuple[Image.Image, Image.Image, int]:
    """The image and the thing's silhouette (0 or 1), larger than asked for by a factor, which comes third."""
    if size < MIN_SIZE:
        raise UsageError(f"shapes need {MIN_SIZE} pixels or more, not {size}")
    rng = Random(derive_seed(seed, "shapes", split, index))
    factor = 4 if size <= 64 else 2  # drawn larger, then averaged: Pillow's drawing has hard edges
    canvas = background(rng, size * factor)
    silhouette = Image.new("L", canvas.size)
    DRAW[label(index)](Pen(rng, canvas, silhouette=silhouette), rng)
    return canvas, silhouette, factor


def _colour(rng: Random, low: float, high: float) -> Colour:
    """Any hue, not too saturated, of a brightness in [low, high]."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), 0.55 * rng.random(), low + (high - low) * rng.random())
    return int(255 * red), int(255 * green), int(255 * blue)


def _behind(rng: Random) -> Colour:
    return _colour(rng, 0.2, 0.8)


def _front(rng: Random) -> Colour:
    """Dark or light, so that a part stands out from behind without ever being known by its brightness."""
    return _colour(rng, 0.0, 0.25) if rng.random() < 0.5 else _colour(rng, 0.75, 1.0)


def _vivid(rng: Random, hue: float) -> Colour:
    """About this hue, dark or light, as `_front`."""
    value = 0.6 + 0.1 * rng.random() if rng.random() < 0.5 else 0.9 + 0.1 * rng.random()
    red, green, blue = colorsys.hsv_to_rgb((hue + 0.04 * rng.random() - 0.02) % 1, 0.8 + 0.2 * rng.random(), value)
    return int(255 * red), int(255 * green), int(255 * blue)


def background(rng: Random, side: int) -> Image.Image:
    """A gradient between nine colours, weak stripes over half of them, and small things lying about."""
    colours = [_behind(rng) for _ in range(9)]
    grid = Image.frombytes("RGB", (3, 3), bytes(value for colour in colours for value in colour))
    # From the centre of the first pixel to the centre of the last: beyond them it would be flat.
    canvas = grid.resize((side, side), Image.Resampling.BICUBIC, box=(0.5, 0.5, 2.5, 2.5))
    if rng.random() < 0.5:
        canvas = _striped(rng, canvas)
    draw = ImageDraw.Draw(canvas)
    for _ in range(4 + int(5 * rng.random())):
        x, y, radius = side * rng.random(), side * rng.random(), side * (0.03 + 0.09 * rng.random())
        turn, corner_count = 2 * math.pi * rng.random(), (3, 4, 28)[int(3 * rng.random())]
        angles = [turn + 2 * math.pi * i / corner_count for i in range(corner_count)]
        draw.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], fill=_behind(rng))
    return canvas


def _striped(rng: Random, canvas: Image.Image) -> Image.Image:
    """Faint stripes of any direction: strong ones would tell two views of an image from all others by themselves."""
    side = canvas.width
    angle, gap, colour = math.pi * rng.random(), side * (0.08 + 0.12 * rng.random()), _behind(rng)
    width = max(1, round(gap * (0.15 + 0.3 * rng.random())))
    c, s = math.cos(angle), math.sin(angle)
    striped = canvas.copy()
    draw = ImageDraw.Draw(striped)
    reach = int(0.75 * side / gap)  # stripes beyond the corners would not be seen
    for i in range(-reach, reach + 1):
        x, y = side / 2 - s * i * gap, side / 2 + c * i * gap
        draw.line((x - c * side, y - s * side, x + c * side, y + s * side), fill=colour, width=width)
    return Image.blend(canvas, striped, 0.3)


class Pen:
    """Draws parts given in the thing's own frame: x to the right, y down, about [-1, 1] each.

    Args:
        rng: Decides where in its area the thing is, how large and how it is turned.
        canvas: What is drawn on.
        area: Left, top and side of the square that the thing is in, pixels; None: all of the canvas.
        hue: Of all its parts, in turns; None: each has a colour of its own.
        silhouette: What becomes 1 where the thing is; None: it is not wanted.
    """

    def __init__(
        self,
        rng: Random,
        canvas: Image.Image,
        area: tuple[float, float, float] | None = None,
        hue: float | None = None,
        silhouette: Image.Image | None = None,
    ) -> None:
        self._draw = ImageDraw.Draw(canvas)
        self._covers = None if silhouette is None else ImageDraw.Draw(silhouette)
        self._rng, self._hue = rng, hue
        left, top, side = area or (0, 0, canvas.width)
        self._scale = side * (0.25 + 0.16 * rng.random())
        stretch = math.sqrt(0.8 + 0.45 * rng.random())
        mirror = 1 if rng.random() < 0.5 else -1
        self._stretch = (mirror * stretch, 1 / stretch)
        tilt = math.radians(12) * (2 * rng.random() - 1)
        self._cos, self._sin = math.cos(tilt) * self._scale, math.sin(tilt) * self._scale
        room = side / 2 - 0.85 * self._scale  # a little may stick out
        x, y = (side / 2 + room * (2 * rng.random() - 1) for _ in range(2))
        self._centre = (left + x, top + y)

    def _place(self, points: Sequence[Point]) -> list[Point]:
        (x0, y0), (sx, sy), c, s = self._centre, self._stretch, self._cos, self._sin
        return [(x0 + c * sx * x - s * sy * y, y0 + s * sx * x + c * sy * y) for x, y in points]

    def colour(self) -> Colour:
        """Of a part."""
        return _front(self._rng) if self._hue is None else _vivid(self._rng, self._hue)

    def hole(self) -> Colour:
        """Of what is seen through the thing, or painted on it."""
        return _behind(self._rng)

    def polygon(self, *points: Point, fill: Colour) -> None:
        """Corners in order."""
        placed = self._place(points)
        self._draw.polygon(placed, fill=fill)
        if self._covers is not None:
            self._covers.polygon(placed, fill=1)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """An upright rectangle."""
        self.polygon((left, top), (right, top), (right, bottom), (left, bottom), fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """Centre and radii."""
        self.polygon(*[(x + rx * c, y + ry * s) for c, s in _CIRCLE], fill=fill)

    def dome(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """The upper half of an ellipse, standing on y."""
        self.polygon(*[(x + rx * c, y + ry * s) for c, s in _CIRCLE[14:]], (x + rx, y), fill=fill)

    def line(self, *points: Point, width: float, fill: Colour) -> None:
        """From point to point."""
        placed, thick = self._place(points), max(1, round(width * self._scale))
        self._draw.line(placed, fill=fill, width=thick, joint="curve")
        if self._covers is not None:
            self._covers.line(placed, fill=1, width=thick, joint="curve")


def _boat(pen: Pen, rng: Random) -> None:
    hull, sail = pen.colour(), pen.colour()
    low = 0.55 + 0.15 * rng.random()
    pen.line((0, 0.4), (0, -1), width=0.09, fill=hull)
    pen.polygon((0.08, -0.95), (0.08, 0.25), (0.6 + 0.25 * rng.random(), 0.25), fill=sail)
    if rng.random() < 0.7:
        pen.polygon((-0.08, -0.75), (-0.08, 0.25), (-0.5 - 0.2 * rng.random(), 0.25), fill=pen.colour())
    pen.polygon((-1, 0.35), (1, 0.35), (low, 0.9), (-low, 0.9), fill=hull)


def _bottle(pen: Pen, rng: Random) -> None:
    glass = pen.colour()
    wide, neck, shoulder = 0.34 + 0.1 * rng.random(), 0.12 + 0.04 * rng.random(), -0.3 + 0.25 * rng.random()
    pen.polygon(
        (-neck, -0.8), (neck, -0.8), (neck, shoulder - 0.2), (wide, shoulder + 0.1), (wide, 1),
        (-wide, 1), (-wide, shoulder + 0.1), (-neck, shoulder - 0.2), fill=glass,
    )  # fmt: skip
    pen.box(-neck - 0.04, -1, neck + 0.04, -0.8, pen.colour())
    if rng.random() < 0.7:
        pen.box(-wide, 0.25, wide, 0.65, pen.colour())


def _car(pen: Pen, rng: Random) -> None:
    body = pen.colour()
    front, roof = 0.35 + 0.25 * rng.random(), -0.5 - 0.15 * rng.random()
    pen.polygon((-0.85, 0.05), (-0.55, roof), (front - 0.1, roof), (front + 0.25, 0.05), fill=body)
    pen.polygon((-0.66, 0), (-0.46, roof + 0.13), (-0.1, roof + 0.13), (-0.1, 0), fill=pen.hole())
    pen.polygon((0.02, 0), (0.02, roof + 0.13), (front - 0.16, roof + 0.13), (front + 0.08, 0), fill=pen.hole())
    pen.polygon((-1, 0), (0.9, 0), (1.05, 0.2), (1.05, 0.45), (-1.05, 0.45), (-1.05, 0.1), fill=body)
    wheel = pen.colour()
    for x in (-0.58, 0.58):
        pen.ellipse(x, 0.45, 0.26, 0.26, wheel)
        pen.ellipse(x, 0.45, 0.11, 0.11, pen.hole())


def _house(pen: Pen, rng: Random) -> None:
    wall, roof = pen.colour(), pen.colour()
    eave, ridge = -0.1 - 0.15 * rng.random(), -0.85 - 0.15 * rng.random()
    if rng.random() < 0.7:
        pen.box(0.35, -0.85, 0.55, eave, roof)
    pen.box(-0.72, eave - 0.05, 0.72, 0.9, wall)  # a little under the roof: no seam
    pen.polygon((-0.98, eave), (0, ridge), (0.98, eave), fill=roof)
    door = -0.35 + 0.3 * rng.random()
    pen.box(door - 0.17, 0.3, door + 0.17, 0.9, pen.hole())
    pen.box(0.25, 0.15, 0.55, 0.45, pen.hole())


def _lamp(pen: Pen, rng: Random) -> None:
    shade, foot = pen.colour(), pen.colour()
    low, top, wide = -0.15 + 0.1 * rng.random(), 0.25 + 0.15 * rng.random(), 0.65 + 0.15 * rng.random()
    pen.line((0, low), (0, 0.9), width=0.13, fill=foot)
    pen.polygon((-top, -0.95), (top, -0.95), (wide, low), (-wide, low), fill=shade)
    pen.dome(0, 1, 0.5, 0.22, foot)


def _mug(pen: Pen, rng: Random) -> None:
    clay = pen.colour()
    wide, top = 0.52 + 0.1 * rng.random(), -0.7 + 0.2 * rng.random()
    middle, ring = (top + 0.8) / 2, 0.34 + 0.08 * rng.random()
    pen.line(*[(wide + 0.36 * c, middle + ring * s) for c, s in (*_CIRCLE[-8:], *_CIRCLE[:9])], width=0.16, fill=clay)
    pen.box(-wide, top, wide, 0.8, clay)
    pen.ellipse(0, 0.8, wide, 0.12, clay)
    pen.ellipse(0, top, wide, 0.14, pen.hole())
    if rng.random() < 0.5:
        pen.box(-wide, middle - 0.12, wide, middle + 0.12, pen.colour())


def _mushroom(pen: Pen, rng: Random) -> None:
    rim, wide = 0.0 + 0.15 * rng.random(), 0.85 + 0.15 * rng.random()
    stem = 0.2 + 0.08 * rng.random()
    pen.polygon((-stem, rim - 0.1), (stem, rim - 0.1), (stem + 0.12, 0.95), (-stem - 0.12, 0.95), fill=pen.colour())
    pen.dome(0, rim, wide, 0.95 + rim, pen.colour())
    spot = pen.hole()
    for x, y, r in ((-0.42, -0.25, 0.14), (0.05, -0.55, 0.16), (0.42, -0.2, 0.12)):
        pen.ellipse(x, rim + y, r, r, spot)


def _person(pen: Pen, rng: Random) -> None:
    shirt, trousers, skin = pen.colour(), pen.colour(), pen.colour()
    step = 0.2 + 0.2 * rng.random()
    for side in (-1, 1):
        pen.line((0.13 * side, 0.2), (step * side, 1), width=0.2, fill=trousers)
        hand = (0.65 + 0.1 * rng.random(), -0.6 + 0.8 * rng.random())
        pen.line((0.2 * side, -0.38), (hand[0] * side, hand[1]), width=0.16, fill=shirt)
    pen.polygon((-0.3, -0.45), (0.3, -0.45), (0.23, 0.3), (-0.23, 0.3), fill=shirt)
    pen.ellipse(0, -0.74, 0.23, 0.26, skin)


def _tree(pen: Pen, rng: Random) -> None:
    tiers = 2 + int(3 * rng.random())
    pen.box(-0.12, 0.5, 0.12, 1, pen.colour())
    leaf, step = pen.colour(), 1.2 / tiers
    for i in reversed(range(tiers)):
        low, wide = -0.95 + step * (i + 1) + 0.4, (0.45 + 0.4 * (i + 1) / tiers) * (0.8 + 0.15 * rng.random())
        pen.polygon((0, low - step - 0.4), (wide, low), (-wide, low), fill=leaf)


def _umbrella(pen: Pen, rng: Random) -> None:
    cloth, stick = pen.colour(), pen.colour()
    rim, wide = -0.05 + 0.1 * rng.random(), 0.95
    pen.line((0, -1), (0, 0.75), (0.04, 0.87), (0.15, 0.92), (0.26, 0.87), (0.3, 0.72), width=0.1, fill=stick)
    ribs = 3 + int(3 * rng.random())
    edge = []
    for i in range(ribs):
        x, r = wide * (1 - (2 * i + 1) / ribs), wide / ribs
        edge += [(x + r * c, rim - 0.6 * r * s) for c, s in _CIRCLE[1:14]]
    pen.polygon(*[(wide * c, rim + 0.9 * s) for c, s in _CIRCLE[14:]], (wide, rim), *edge, fill=cloth)


DRAW: tuple[Callable[[Pen, Random], None], ...] = (
    _boat, _bottle, _car, _house, _lamp, _mug, _mushroom, _person, _tree, _umbrella,
)  # fmt: skip


class ShapesSet(ImageSet):
    """The rendered images as an image set: nothing on disk, nothing in memory."""

    def __init__(self, word: str, split: str, count: int, channels: int | None) -> None:
        self.word = word
        self._name = word
        self._split = split
        self.labels = np.arange(count, dtype=np.int64) % len(CLASSES)
        self.classes = list(CLASSES)
        self.channels = 3 if channels is None else channels
        check_channels(self.channels)

    def load(self, index: int, size: int | None) -> Pixels:
        """As `ImageSet.load`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return convert_channels(render(self._split, index, size or NATIVE_SIZE), self.channels)

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"


def open_shapes(word: str, wanted: Wanted) -> ShapesSet:
    """A split and, if you like, a count: ``"shapes:train:2000"``.

    Raises:
        UsageError: No such split, or a count below 1.
    """
    return ShapesSet(word, *split_and_count(word), wanted.channels)


def split_and_count(word: str) -> tuple[str, int]:
    """What the word for a rendered set asks for.

    Raises:
        UsageError: No such split, or a count below 1.
    """
    name, *options = word.split(":")
    if not 1 <= len(options) <= 2:
        raise UsageError(f"{name} needs a split and may have a count: {name}:train, {name}:test, {name}:train:2000")
    if options[0] not in COUNTS:
        raise unknown_name(f"split of {name}", options[0], COUNTS)
    if len(options) == 2 and (not options[1].isdecimal() or int(options[1]) < 1):
        raise UsageError(f"{name}:{options[0]}:{options[1]}: the count must be a whole number from 1")
    return options[0], int(options[1]) if len(options) == 2 else COUNTS[options[0]]
