"""Sheets: pictures and heat maps in rows and columns."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.eval.pictures.pixels import displayed
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme
from ssl_toolkit.eval.pictures.words import fitted, shown, width_of

HEAT = "inferno"
"""Colour map of heat maps that begin at 0, dark to bright."""

SIGNED = "RdBu_r"
"""Colour map of heat maps on both sides of 0: blue below, red above."""

OVER = 0.65
"""Opacity of a heat map that lies over its image."""

_GAP = 0.14  # behind what lies apart, in tiles


@dataclasses.dataclass(frozen=True, eq=False)
class Heat:
    """Numbers of positions of an image, drawn as colours from `low` to `high`.

    Attributes:
        values: (h, w): a number a position, or a patch.
        shape: Height and width of the image that they are of: what the tile looks like.
        low: What the first colour stands for.
        high: What the last one stands for.
        signed: Whether they are on both sides of 0, the middle of blue and red; else dark to bright.
        over: The image (C, H, W), to be seen in grey beneath; None where the colours stand alone.
    """

    values: NDArray[np.floating[Any]]
    shape: tuple[int, ...]
    low: float
    high: float
    signed: bool = False
    over: Pixels | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the colours of a sheet's heat maps stand for: the words at both ends of its bar."""

    low: str
    high: str
    signed: bool = False


Tile: TypeAlias = Pixels | Heat | None
"""What a tile of a sheet shows; None leaves it empty."""


def sheet(
    rows: Sequence[Sequence[Tile]],
    theme: Theme = LIGHT,
    *,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    apart: Literal["row", "column"] | None = None,
    scale: Scale | None = None,
    note: str = "",
    side: float = 1.15,
) -> Figure:
    """Pictures in rows and columns, each shown whole in its tile: a square, or as flat as the tallest of them.

    Args:
        rows: Lists of images (C, H, W), uint8 or float in [0, 1], of `Heat`, or None for an empty tile.
        theme: Colours.
        row_names: What stands at the left of each row.
        column_names: What stands above each column.
        captions: What stands below each tile of a row; a row without captions is an empty list.
        apart: Whether the first row, or the first column, is what all others are made of: a gap lies behind it.
        scale: What heat maps are of; draws a bar of colours at the foot.
        note: A sentence at the foot.
        side: Of a tile, inches.
    """
    line = 0.16 / side  # in tiles, like all that follows
    left = max((width_of(name, size=9) for name in row_names), default=0) / 72 / side + 0.1 * bool(row_names)
    top = 0.28 / 1.15 / side if column_names else 0.0
    tall = max((_height(picture) for row in rows for picture in row if picture is not None), default=1.0)
    captioned = [1.1 * line if any(row) else 0.0 for row in (captions or [()] * len(rows))]
    grid = _Grid(left, top, tall, captioned, apart)
    width = grid.x(0) + max(len(row) for row in rows) + _GAP * (apart == "column")
    notes = textwrap.wrap(note, max(20, round((width - left) * side * 72 / 4.6)))
    bottom = grid.y(len(rows))
    height = bottom + (2 * line if scale else 0) + line * len(notes) + 0.5 * line * bool(notes or scale)
    figure = Figure(figsize=(side * width, side * height), dpi=100, facecolor=theme.background)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    _names(axes, grid, column_names, row_names, side, theme)
    for place, row in enumerate(rows):
        for column, picture in enumerate(row):
            x, y = grid.x(column) + 0.5, grid.y(place)
            _draw(axes, picture, x, y + tall / 2, theme)
            if captioned[place]:
                text = fitted(captions[place][column], 68 * side, size=7.5)
                _say(axes, x, y + tall - 0.03 + line / 2, text, theme.muted, 7.5, ha="center")
    if scale is not None:
        _bar(axes, scale, left + (1 + _GAP if apart == "column" else 0.03), bottom + line, side, theme)
    for number, text in enumerate(notes):
        down = bottom + (2 * line if scale else 0) + line * (number + 0.6)
        _say(axes, left + 0.03, down, text, theme.muted, 8)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Where the tiles of a sheet lie, in tiles.

    Attributes:
        left: Width of the rows' names.
        top: Height of the columns' names.
        tall: Height of a tile.
        captioned: Height of the captions below each row.
        apart: See `sheet`.
    """

    left: float
    top: float
    tall: float
    captioned: Sequence[float]
    apart: Literal["row", "column"] | None

    def x(self, column: int) -> float:
        """The left edge of a column."""
        return self.left + column + _GAP * (column > 0 and self.apart == "column")

    def y(self, row: int) -> float:
        """The upper edge of a row."""
        return self.top + self.tall * row + sum(self.captioned[:row]) + _GAP * (row > 0 and self.apart == "row")


def _names(axes: Axes, grid: _Grid, columns: Sequence[str], rows: Sequence[str], side: float, theme: Theme) -> None:
    """What stands above the columns and at the left of the rows; that of the part that lies apart stands out."""
    for column, name in enumerate(columns):
        colour = theme.muted if column or grid.apart != "column" else theme.ink
        text = fitted(name, 68 * side, size=9)
        _say(axes, grid.x(column) + 0.5, grid.top - 0.08, text, colour, 9, ha="center", va="baseline")
    for row, name in enumerate(rows):
        colour = theme.muted if row or grid.apart != "row" else theme.ink
        _say(axes, 0.04, grid.y(row) + grid.tall / 2, shown(name), colour, 9, va="center")


def _say(
    axes: Axes, x: float, y: float, text: str, colour: str, size: float, ha: str = "left", va: str = "center_baseline"
) -> None:
    axes.text(x, y, text, color=colour, fontsize=size, ha=ha, va=va, parse_math=False)


def _height(picture: Pixels | Heat) -> float:
    """Share of a tile that a picture takes from top to bottom, with its margin."""
    height, width = picture.shape if isinstance(picture, Heat) else picture.shape[-2:]
    return min(1.0, 0.06 + 0.94 * height / width)


def _draw(axes: Axes, picture: Tile, x: float, y: float, theme: Theme) -> None:
    """A picture in the tile with its middle at (x, y)."""
    if picture is None:
        return
    if not isinstance(picture, Heat):
        pixels = displayed(picture)
        axes.imshow(pixels, extent=_whole(pixels.shape[:2], x, y), aspect="auto", interpolation="antialiased")
        return
    box = _whole(picture.shape, x, y)
    if picture.over is not None:
        grey = 0.3 + 0.7 * displayed(picture.over).mean(axis=2) / 255  # pale, so that colours stand out
        axes.imshow(grey, extent=box, aspect="auto", interpolation="antialiased", cmap="gray", vmin=0, vmax=1)
    axes.imshow(
        picture.values, extent=box, aspect="auto", interpolation="nearest", cmap=SIGNED if picture.signed else HEAT,
        vmin=picture.low, vmax=picture.high, alpha=1 if picture.over is None else OVER,
    )  # fmt: skip


def _bar(axes: Axes, scale: Scale, left: float, middle: float, side: float, theme: Theme) -> None:
    """A bar of the heat maps' colours with words at both ends, from `left` on; tiles have a side in inches."""
    start = left + width_of(scale.low, size=8) / 72 / side + 0.06
    _say(axes, left, middle, scale.low, theme.muted, 8)
    box = (start, start + 0.8, middle + 0.05, middle - 0.05)
    colours = {"cmap": SIGNED, "alpha": OVER} if scale.signed else {"cmap": HEAT}
    axes.imshow(np.linspace(0, 1, 256)[None], extent=box, aspect="auto", **colours)
    _say(axes, start + 0.86, middle, scale.high, theme.muted, 8)


def _whole(shape: tuple[int, ...], x: float, y: float) -> tuple[float, float, float, float]:
    """Where an image of a shape, (height, width), goes to be seen whole in the tile with its middle at (x, y)."""
    tall, wide = (0.47 * side / max(shape) for side in shape)  # half of it
    return (x - wide, x + wide, y + tall, y - tall)
