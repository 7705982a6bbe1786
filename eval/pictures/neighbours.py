"""Neighbour grids: queries and what was found for each, right and wrong classes told apart."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Range
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.pictures.pixels import tile
from ssl_toolkit.eval.pictures.png import write_figure
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme
from ssl_toolkit.eval.pictures.words import fitted, shown, wrapped
from ssl_toolkit.eval.search.hits import TEXT

Hit: TypeAlias = Mapping[str, Any]
"""A neighbour: its ``path``, ``score`` and ``label``."""

SIDE = 128
"""Side of a picture, pixels."""

HEADS = ("query", "nearest neighbours, best first")
"""What stands above a neighbour grid."""

_PER_LINE = 10  # neighbours before a query's next line begins
_MOST_LINES = 100  # lines of a neighbour grid: some 13,000 px, and what a viewer still opens


def neighbour_grid(
    queries: Sequence[str],
    hits: Sequence[Sequence[Hit]],
    out: str | os.PathLike[str],
    *,
    channels: int = 3,
    root: str | os.PathLike[str] | None = None,
    range: Range | None = None,
    picture_channels: tuple[int, ...] = (),
    query_labels: Sequence[str | int | None] | None = None,
    heads: tuple[str, str] = HEADS,
) -> None:
    """Write a PNG of queries and their neighbours, read again from where they lie.

    Neighbours with the query's own label are marked apart from the others, where that label is known. What cannot be
    read any more is an empty tile.

    Args:
        queries: Files, items of a set like ``shapes:test#17``, or texts behind `TEXT`.
        hits: For each query its neighbours, best first, with ``path``, ``score`` and ``label``.
        out: The PNG file; its folder is made.
        channels: Channels of the images.
        root: Folder of torchvision's data sets.
        range: Of the images, see `open_images`.
        picture_channels: Which are shown, see `Look`.
        query_labels: Labels of the queries as hits name them, None where unknown. If not given, those of items of a
            labelled set, and of queries that are among their own hits.
        heads: What stands above the queries and above their neighbours.

    Raises:
        UsageError: `out` cannot be written.
    """
    if query_labels is None:
        query_labels = [known_label(query, found, root) for query, found in zip(queries, hits, strict=True)]
    seen: dict[str, NDArray[np.uint8] | None] = {}

    def read(path: str) -> NDArray[np.uint8] | None:
        if path.startswith(TEXT):
            return None
        if path not in seen:
            try:
                image = open_item(path, channels, root=root, size=SIDE, range=range)
            except (ToolkitError, OSError):
                seen[path] = None
            else:
                seen[path] = tile(image, SIDE, picture_channels)
        return seen[path]

    figure = neighbours_figure(
        [read(query) for query in queries],
        [[read(hit["path"]) for hit in found] for found in hits],
        hits,
        names=[query if query.startswith(TEXT) else os.path.basename(query) for query in queries],
        query_labels=query_labels,
        heads=heads,
    )
    write_figure(figure, out, "--grid")


def neighbours_figure(
    query_tiles: Sequence[NDArray[np.uint8] | None],
    hit_tiles: Sequence[Sequence[NDArray[np.uint8] | None]],
    hits: Sequence[Sequence[Hit]],
    names: Sequence[str],
    query_labels: Sequence[str | int | None],
    theme: Theme = LIGHT,
    heads: tuple[str, str] = HEADS,
) -> Figure:
    """Each query framed at the left, its neighbours to the right with label and score.

    Args:
        query_tiles: Q pictures (side, side, 3) uint8; None where there is none to show.
        hit_tiles: Q lists of pictures.
        hits: Q lists of ``{"score", "label"}``, best first.
        names: What a query without a label is called; of a text, behind `TEXT`, it stands in the place of the picture.
        query_labels: Q labels, None where unknown: no neighbour is right or wrong then.
        theme: Colours.
        heads: See `neighbour_grid`.
    """
    lines = [max(1, -(-len(found) // _PER_LINE)) for found in hits]
    kept = max(1, sum(total <= _MOST_LINES for total in np.cumsum(lines)))
    columns = min(_PER_LINE, max((len(found) for found in hits[:kept]), default=1))
    sheet = _Sheet(columns, sum(lines[:kept]), theme, heads)
    top = 0
    for place in range(kept):
        label = query_labels[place]
        sheet.query(top, query_tiles[place], names[place] if label is None else label)
        for rank, (picture, hit) in enumerate(zip(hit_tiles[place], hits[place], strict=True)):
            line, column = divmod(rank, _PER_LINE)
            right = None if label is None or hit["label"] is None else hit["label"] == label
            if line < _MOST_LINES:
                sheet.hit(top + line, column, picture, hit, right)
        top += lines[place]
    left_out = len(hits) - kept
    marks = any(label is not None for label in query_labels[:kept])
    sheet.footer("✓ the query's class   ✗ another class" if marks else "", left_out)
    return sheet.figure


class _Sheet:
    """The tiles of a neighbour grid, in one pair of axes whose unit is a tile's side (an inch), y down."""

    STEP = 1.1  # from tile to tile
    LINE = 1.34  # from line to line
    HITS = 1.34  # where the first column of hits begins
    HEAD, FOOT, MARGIN = 0.26, 0.3, 0.12
    SIZE, SCORE = 7.5, 20  # points: size of letters, width of a score

    def __init__(self, columns: int, lines: int, theme: Theme, heads: tuple[str, str]) -> None:
        width = self.HITS + max(self.STEP * (columns - 1) + 1, 0.065 * len(heads[1])) + 2 * self.MARGIN
        height = self.HEAD + self.LINE * lines + self.FOOT + self.MARGIN
        self.theme, self.bottom = theme, self.LINE * lines
        self.figure = Figure(figsize=(width, height), dpi=120, facecolor=theme.background)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(
            xlim=(-self.MARGIN, width - self.MARGIN), ylim=(self.bottom + self.FOOT, -self.HEAD - self.MARGIN)
        )
        self._text(0, -0.12, heads[0], theme.muted)
        self._text(self.HITS, -0.12, heads[1], theme.muted)

    def query(self, line: int, picture: NDArray[np.uint8] | None, name: object) -> None:
        y = self.LINE * line
        if isinstance(name, str) and name.startswith(TEXT):
            words = wrapped(shown(name.removeprefix(TEXT), 90), 14)
            self._tile(0, y, None, self.theme.ink, 2.2, words)
            return
        self._tile(0, y, picture, self.theme.ink, 2.2)
        name = fitted(shown(name), 72, size=self.SIZE, weight="bold")
        self._text(0, y + 1.155, name, self.theme.ink, weight="bold")

    def hit(self, line: int, column: int, picture: NDArray[np.uint8] | None, hit: Hit, right: bool | None) -> None:
        x, y = self.HITS + self.STEP * column, self.LINE * line
        colour = {True: self.theme.good, False: self.theme.bad, None: self.theme.faint}[right]
        self._tile(x, y, picture, colour, 0.8 if right is None else 2.2)
        score = f"{hit['score']:.2f}"
        if hit["label"] is None:
            self._text(x, y + 1.155, score, self.theme.muted)
            return
        mark = {True: "✓ ", False: "✗ ", None: ""}[right]
        colour = self.theme.ink if right is None else colour
        self._text(x, y + 1.155, fitted(mark + shown(hit["label"]), 72 - self.SCORE, size=self.SIZE), colour)
        self._text(x + 1, y + 1.155, score, self.theme.muted, ha="right")

    def footer(self, legend: str, left_out: int) -> None:
        more = f"{left_out} more {'query is' if left_out == 1 else 'queries are'} not shown" if left_out else ""
        self._text(0, self.bottom + 0.14, "   ".join(filter(None, (legend, more))), self.theme.muted)

    def _tile(
        self, x: float, y: float, picture: NDArray[np.uint8] | None, colour: str, width: float, words: str = ""
    ) -> None:
        """A picture, or what stands in its place: nothing says that it cannot be read."""
        box = (x, x + 1, y + 1, y)
        if picture is None:
            self.axes.fill((x, x + 1, x + 1, x), (y, y, y + 1, y + 1), color=self.theme.faint, lw=0)
            ink = self.theme.ink if words else self.theme.muted
            self._text(x + 0.5, y + 0.5, words or "cannot\nbe read", ink, ha="center", va="center")
        else:
            self.axes.imshow(picture, extent=box, aspect="auto", interpolation="antialiased")
        # The frame lies outside the picture and hides none of it.
        g = 0.006 + width / (2 * 72)
        self.axes.plot(
            (x - g, x + 1 + g, x + 1 + g, x - g, x - g), (y - g, y - g, y + 1 + g, y + 1 + g, y - g),
            color=colour, lw=width, solid_joinstyle="miter",
        )  # fmt: skip

    def _text(self, x: float, y: float, text: str, colour: str, va: str = "baseline", **style: Any) -> None:
        self.axes.text(x, y, text, color=colour, va=va, fontsize=self.SIZE, parse_math=False, **style)


def known_label(query: str, hits: Sequence[Hit], root: str | os.PathLike[str] | None = None) -> str | int | None:
    """The label of a query, as hits name labels, if it is an item of a labelled set or one of its hits; else None."""
    for hit in hits:
        if hit["path"] == query:
            label: str | int | None = hit["label"]
            return label
    place = re.fullmatch(r"(.+)#(\d+)", query, flags=re.DOTALL)
    if place is None or os.path.lexists(query):
        return None
    try:
        images = open_images(place[1], root=root)
    except (ToolkitError, OSError):
        return None
    number = int(images.labels[int(place[2])]) if int(place[2]) < len(images) else -1
    return images.classes[number] if images.classes is not None and number >= 0 else None
