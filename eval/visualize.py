"""Pictures: neighbours, views, training curves, scores and maps of features, as matplotlib figures or PNG bytes.

Every function goes from arrays to a `Figure` of its own; matplotlib's global state is neither read nor changed. Images
are (C, H, W), uint8 or float in [0, 1]. One channel is shown as grey, two as grey by the first, more than three by
the first three as red, green and blue.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from ssl_toolkit.augment import Views
from ssl_toolkit.data.images import resize, to_uint8
from ssl_toolkit.data.loader import center_crop, pad
from ssl_toolkit.data.sources import open_images, open_item
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.files import make_folder, write_atomic

Pixels = NDArray[Any]
Hit = Mapping[str, Any]


class Pictures(Protocol):
    """Images by number: a list, or something that reads them when they are looked at."""

    def __getitem__(self, row: int, /) -> Pixels:
        """Image `row`, (C, H, W)."""


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a figure.

    Attributes:
        background: Behind everything.
        ink: Text and what stands out.
        muted: Secondary text and what others are compared with.
        faint: Grid lines and empty tiles.
        accent: The one thing that a chart is about.
        good: Right answers.
        bad: Wrong answers.
    """

    background: str
    ink: str
    muted: str
    faint: str
    accent: str
    good: str
    bad: str


LIGHT = Theme("#ffffff", "#1b2430", "#5f6b7a", "#e6e9ee", "#0a66a8", "#00805c", "#c2410c")
DARK = Theme("#171b21", "#e8ebf0", "#9aa5b4", "#2c333d", "#56b4e9", "#2dbd90", "#ff8f57")
# Beside `LIGHT` and `DARK`, for pictures with few words on them: transparent, and legible on both.
EITHER = Theme("none", "#757c86", "#757c86", "#b0b6bf", "#2a7fbf", "#00805c", "#c2410c")

# Okabe and Ito 2008: told apart with every common colour vision. Its yellow and black are left out, since one is lost
# on a light background and the other on a dark one.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")
MARKERS = ("o", "^", "s", "D")
NAMED_CLASSES = 12
"""A map gives this many classes a colour and marker of their own; the others share a grey."""

TITLES = {"lr": "learning rate", "images_per_second": "images a second", "knn_top1": "kNN accuracy while training"}
ENCODERS = {"trained": "trained", "random": "random weights", "pixels": "raw pixels"}
BASELINES = ("random", "raw pixels", "pixels")  # how their names begin
PROTOCOLS = {
    "knn": "kNN", "linear": "linear probe", "low_shot": "1 % of labels", "sweep": "best of sweep",
    "sgd": "SGD on crops", "svm": "linear SVM", "finetune": "fine-tuned",
}  # fmt: skip

HEAT = "inferno"
"""Colour map of attention, dark to bright."""

HEADS = 6
"""Heads of an attention layer that are shown one by one."""

LABELLED_CONFUSION = 20
"""Up to this many classes a confusion matrix names them and gives its numbers."""

SMOOTH_FROM = 30
"""Points of a curve from which on its running mean is drawn over it."""

_DPI = 144
_MAP = (5.2, 4.9)  # inches
_PER_LINE = 10  # neighbours before a query's next line begins
_MOST_LINES = 100  # lines of a neighbour grid: some 13,000 px, and what a viewer still opens


# --- pixels ----------------------------------------------------------------------------------------------------------


def displayed(image: Pixels) -> NDArray[np.uint8]:
    """An image (C, H, W), uint8 or float in [0, 1], ready to be shown: (H, W, 3) uint8."""
    shown = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    if shown.dtype.kind == "f":
        shown = shown.clip(0, 1)  # arithmetic on views may leave the range by a rounding error
    return np.ascontiguousarray(to_uint8(shown).transpose(1, 2, 0))


def tile(image: Pixels, side: int) -> NDArray[np.uint8]:
    """The square middle of an image, ready to be shown.

    Args:
        image: (C, H, W), uint8 or float in [0, 1].
        side: Height and width of the result, pixels.

    Returns:
        (side, side, 3) uint8.
    """
    return displayed(center_crop(resize(displayed(image).transpose(2, 0, 1), side), side))


def picture_png(picture: NDArray[np.uint8]) -> bytes:
    """A PNG of pixels (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def figure_png(figure: Figure) -> bytes:
    """A PNG of a figure; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class may be named in a script that no installed font has: boxes are drawn, and nothing else is wrong.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def write_figure(figure: Figure, out: str | os.PathLike[str], option: str) -> None:
    """Write a figure as a PNG; its folder is made.

    Raises:
        UsageError: It cannot be written; `option` is what named it.
    """
    make_folder(Path(out).parent, option)
    try:
        write_atomic(out, lambda temporary: temporary.write_bytes(figure_png(figure)))
    except OSError as error:
        raise UsageError(f"{option} {os.fspath(out)} cannot be written: {error.strerror}") from error


def shown(text: object, length: int | None = None) -> str:
    """Text that can be drawn and encoded, of at most `length` characters: the middle of more becomes an ellipsis.

    File names may hold line breaks, control characters and bytes that are no UTF-8; each becomes a replacement mark.
    """
    clean = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", "�", str(text))
    if length is None or len(clean) <= length:
        return clean
    return f"{clean[: length - 1 - length // 2]}…{clean[len(clean) - length // 2 :]}"


# --- neighbours ------------------------------------------------------------------------------------------------------


def neighbour_grid(
    queries: Sequence[str],
    hits: Sequence[Sequence[Hit]],
    out: str | os.PathLike[str],
    *,
    channels: int = 3,
    root: str | os.PathLike[str] | None = None,
    query_labels: Sequence[str | int | None] | None = None,
) -> None:
    """Write a PNG of queries and their neighbours, read again from where they lie.

    Neighbours with the query's own label are marked apart from the others, where that label is known. Of images with
    more than three channels the first three are shown. What cannot be read any more is an empty tile.

    Args:
        queries: Files, or items of a set like ``shapes:test#17``.
        hits: For each query its neighbours, best first, with ``path``, ``score`` and ``label``.
        out: The PNG file; its folder is made.
        channels: Channels of the images.
        root: Folder of torchvision's data sets.
        query_labels: Labels of the queries as hits name them, None where unknown. If not given, those of items of a
            labelled set, and of queries that are among their own hits.

    Raises:
        UsageError: `out` cannot be written.
    """
    if query_labels is None:
        query_labels = [known_label(query, found, root) for query, found in zip(queries, hits, strict=True)]
    seen: dict[str, NDArray[np.uint8] | None] = {}

    def read(path: str) -> NDArray[np.uint8] | None:
        if path not in seen:
            seen[path] = _read_tile(path, channels, root)
        return seen[path]

    figure = neighbours_figure(
        [read(query) for query in queries],
        [[read(hit["path"]) for hit in found] for found in hits],
        hits,
        names=[os.path.basename(query) for query in queries],
        query_labels=query_labels,
    )
    write_figure(figure, out, "--grid")


def neighbours_figure(
    query_tiles: Sequence[NDArray[np.uint8] | None],
    hit_tiles: Sequence[Sequence[NDArray[np.uint8] | None]],
    hits: Sequence[Sequence[Hit]],
    names: Sequence[str],
    query_labels: Sequence[str | int | None],
    theme: Theme = LIGHT,
) -> Figure:
    """Each query framed at the left, its neighbours to the right with label and score.

    Args:
        query_tiles: Q pictures (side, side, 3) uint8; None where there is none to show.
        hit_tiles: Q lists of pictures.
        hits: Q lists of ``{"score", "label"}``, best first.
        names: What a query without a label is called.
        query_labels: Q labels, None where unknown: no neighbour is right or wrong then.
        theme: Colours.
    """
    lines = [max(1, -(-len(found) // _PER_LINE)) for found in hits]
    kept = max(1, sum(total <= _MOST_LINES for total in np.cumsum(lines)))
    columns = min(_PER_LINE, max((len(found) for found in hits[:kept]), default=1))
    sheet = _Sheet(columns, sum(lines[:kept]), theme)
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


def _fitted(text: str, points: float, **font: Any) -> str:
    """As much of `text` as fits into a width, points; drawn in a font of matplotlib's (``size``, ``weight``)."""
    properties, length, width = FontProperties(**font), min(len(text), 60), 2 * points
    while length and width > points:
        # Dollar signs would be read as mathematics.
        path = TextPath((0, 0), shown(text, length).replace("$", "S"), prop=properties)
        width = float(path.get_extents().x1)
        length = min(length, int(length * points / width)) if width > points else length
    return shown(text, length)


class _Sheet:
    """The tiles of a neighbour grid, in one pair of axes whose unit is a tile's side (an inch), y down."""

    STEP = 1.1  # from tile to tile
    LINE = 1.34  # from line to line
    HITS = 1.34  # where the first column of hits begins
    HEAD, FOOT, MARGIN = 0.26, 0.3, 0.12
    SIZE, SCORE = 7.5, 20  # points: size of letters, width of a score

    def __init__(self, columns: int, lines: int, theme: Theme) -> None:
        width = self.HITS + self.STEP * (columns - 1) + 1 + 2 * self.MARGIN
        height = self.HEAD + self.LINE * lines + self.FOOT + self.MARGIN
        self.theme, self.bottom = theme, self.LINE * lines
        self.figure = Figure(figsize=(width, height), dpi=120, facecolor=theme.background)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(
            xlim=(-self.MARGIN, width - self.MARGIN), ylim=(self.bottom + self.FOOT, -self.HEAD - self.MARGIN)
        )
        self._text(0, -0.12, "query", theme.muted)
        self._text(self.HITS, -0.12, "nearest neighbours, best first", theme.muted)

    def query(self, line: int, picture: NDArray[np.uint8] | None, name: object) -> None:
        y = self.LINE * line
        self._tile(0, y, picture, self.theme.ink, 2.2)
        name = _fitted(shown(name), 72, size=self.SIZE, weight="bold")
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
        self._text(x, y + 1.155, _fitted(mark + shown(hit["label"]), 72 - self.SCORE, size=self.SIZE), colour)
        self._text(x + 1, y + 1.155, score, self.theme.muted, ha="right")

    def footer(self, legend: str, left_out: int) -> None:
        more = f"{left_out} more {'query is' if left_out == 1 else 'queries are'} not shown" if left_out else ""
        self._text(0, self.bottom + 0.14, "   ".join(filter(None, (legend, more))), self.theme.muted)

    def _tile(self, x: float, y: float, picture: NDArray[np.uint8] | None, colour: str, width: float) -> None:
        box = (x, x + 1, y + 1, y)
        if picture is None:
            self.axes.fill((x, x + 1, x + 1, x), (y, y, y + 1, y + 1), color=self.theme.faint, lw=0)
            self._text(x + 0.5, y + 0.5, "cannot\nbe read", self.theme.muted, ha="center", va="center")
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


def _read_tile(
    path: str, channels: int, root: str | os.PathLike[str] | None, side: int = 128
) -> NDArray[np.uint8] | None:
    try:
        return tile(open_item(path, channels, root=root, size=side), side)
    except (ToolkitError, OSError):
        return None


# --- views -----------------------------------------------------------------------------------------------------------


def views_of(images: Sequence[NDArray[np.uint8]], views: Views, seed: int) -> list[NDArray[np.float32]]:
    """What `views` makes of images of any sizes: V arrays (N, C, h, w) in [0, 1], the same for the same seed.

    Args:
        images: N images (C, H, W).
        views: A method's views.
        seed: Decides the draws; the caller's own are not disturbed.
    """
    pixels, box = pad(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = views(torch.from_numpy(pixels), None if box is None else torch.from_numpy(box))
    return [view.numpy() for view in made]


def views_figure(images: Sequence[Pixels], views: Sequence[Sequence[Pixels] | Pixels], theme: Theme = LIGHT) -> Figure:
    """Images in the top row, the views made of each below it.

    Args:
        images: N images (C, H, W), uint8 or float in [0, 1], of any sizes; shown whole.
        views: V lists of N views (C, h, w) of the same images, as a method's `Views` gives them.
        theme: Colours.

    Raises:
        ValueError: There is not a view of every image.
    """
    if any(len(view) != len(images) for view in views):
        raise ValueError(f"{len(images)} images, but views of {[len(view) for view in views]}")
    names = ["image", *(["view"] if len(views) == 1 else [f"view {i + 1}" for i in range(len(views))])]
    label, gap = 0.66, 0.14  # in tiles, like all that follows
    size = (1.15 * (label + len(images)), 1.15 * (len(names) + gap))
    figure = Figure(figsize=size, dpi=100, facecolor=theme.background)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for row, (name, pictures) in enumerate(zip(names, [images, *views], strict=True)):
        y = row + gap * (row > 0)  # a gap between the images and what is made of them
        axes.text(-label + 0.04, y + 0.5, name, color=theme.muted if row else theme.ink, fontsize=9, va="center")
        for column, picture in enumerate(pictures):
            pixels = displayed(picture)
            box = _whole(pixels.shape[:2], column + 0.5, y + 0.5)
            axes.imshow(pixels, extent=box, aspect="auto", interpolation="antialiased")
    axes.set(xlim=(-label, len(images)), ylim=(len(names) + gap, 0))
    return figure


def _whole(shape: tuple[int, ...], x: float, y: float) -> tuple[float, float, float, float]:
    """Where an image of a shape, (height, width), goes to be seen whole in the tile with its middle at (x, y)."""
    tall, wide = (0.47 * side / max(shape) for side in shape)  # half of it
    return (x - wide, x + wide, y + tall, y - tall)


# --- attention -------------------------------------------------------------------------------------------------------


def attention_figure(images: Sequence[Pixels], maps: NDArray[np.floating[Any]], theme: Theme = LIGHT) -> Figure:
    """Each image at the left, to its right where each head looks; see `ssl_toolkit.eval.attention.attention_maps`.

    The mean over all heads comes first, then the first six of them. A colour is a share of its own map's largest value.

    Args:
        images: N images (C, H, W), uint8 or float in [0, 1]; shown whole.
        maps: (N, heads, rows, columns), at least 0: attention to each patch.
        theme: Colours.

    Raises:
        ValueError: There are no maps of every image.
    """
    if len(images) != len(maps):
        raise ValueError(f"{len(images)} images, but maps of {len(maps)}")
    heads = maps.shape[1]
    mean = {f"mean of {heads}": maps.mean(axis=1)} if heads > 1 else {}
    columns = mean | {f"head {head + 1}": maps[:, head] for head in range(min(heads, HEADS))}
    top, foot, gap = 0.28, 0.32, 0.14  # in tiles, like all that follows
    width, bottom = 1 + gap + len(columns), top + len(images)
    figure = Figure(figsize=(1.15 * width, 1.15 * (bottom + foot)), dpi=100, facecolor=theme.background)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for column, (name, pictures) in enumerate([("image", [displayed(image) for image in images]), *columns.items()]):
        x = column + 0.5 + gap * (column > 0)  # a gap between the images and what is made of them
        axes.text(x, top - 0.08, name, color=theme.muted if column else theme.ink, fontsize=9, ha="center")
        style: dict[str, Any] = {"interpolation": "nearest", "cmap": HEAT, "vmin": 0} if column else {}
        for row, picture in enumerate(pictures):
            box = _whole(images[row].shape[1:], x, top + row + 0.5)
            axes.imshow(picture, extent=box, aspect="auto", **style)
    left, middle = 1 + gap + 0.03, bottom + 0.15
    scale = (left + 0.14, left + 0.94, middle + 0.05, middle - 0.05)
    axes.imshow(np.linspace(0, 1, 256)[None], extent=scale, aspect="auto", cmap=HEAT)
    for x, text in ((left, "0"), (left + 1, "the map's largest value")):
        axes.text(x, middle, text, color=theme.muted, fontsize=8, va="center_baseline")
    axes.set(xlim=(0, width), ylim=(bottom + foot, 0))
    return figure


# --- charts ----------------------------------------------------------------------------------------------------------


def curve_columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Columns of a ``metrics.csv`` that make a curve: at least two numbers. Loss first, then scores, speed last."""
    columns = [name for name in (rows[0] if rows else ()) if name not in ("step", "epoch")]
    order = {"loss": 0, "lr": 2, "images_per_second": 3}
    return sorted((c for c in columns if len(_curve(rows, c)[0]) > 1), key=lambda column: order.get(column, 1))


def curves_figure(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str] | None = None, theme: Theme = LIGHT
) -> Figure:
    """One panel a metric over the optimiser steps; noisy curves also as a running mean.

    Args:
        rows: Rows of ``metrics.csv`` (see `ssl_toolkit.logs.read_metrics`); empty cells are skipped.
        columns: The metrics to draw; None draws all that `curve_columns` finds.
        theme: Colours.

    Raises:
        ValueError: There is no curve to draw.
    """
    columns = curve_columns(rows) if columns is None else columns
    if not columns:
        raise ValueError("no metric has two values")
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    figure, panels = _panels(across, down, (3.6 * across, 2.3 * down), theme)
    for axes, column in zip(panels, columns, strict=False):
        step, value = _curve(rows, column)
        if len(value) >= SMOOTH_FROM and column != "lr":
            window = len(value) * 2 // SMOOTH_FROM
            axes.plot(step, value, color=theme.accent, lw=0.8, alpha=0.35)
            value = _running_mean(value, window)
        axes.plot(step, value, color=theme.accent, lw=1.8, marker="o" if len(value) < 3 else "", ms=3)
        _title(axes, TITLES.get(column, shown(column.replace("_", " "), 40)), theme)
        axes.set_xlabel("optimiser step", color=theme.muted, fontsize=8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
        axes.grid(axis="y", color=theme.faint, lw=0.8)
        if column == "images_per_second":
            axes.set_ylim(bottom=0)
    for axes in panels[len(columns) :]:
        axes.set_axis_off()
    return figure


def score_title(key: str) -> str:
    """What a protocol is called, behind the name of the labelled set where there are several (``pets: kNN``)."""
    name, colon, protocol = key.rpartition(": ")
    return f"{shown(name, 16)}{colon}{PROTOCOLS.get(protocol, shown(protocol, 24))}"


def score_chart(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    chance: float | None = None,
    protocols: Sequence[str] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Top-1 accuracy of each encoder as bars, one panel a protocol; a thin line is the interval, where there is one.

    Args:
        results: ``{encoder: {protocol: {"top1": accuracy in [0, 1]}}}``, as ``results.json`` holds it, or with names of
            runs instead of ``trained``.
        chance: Accuracy of guessing, in [0, 1], drawn as a line.
        protocols: Those to draw; None draws all.
        theme: Colours.
    """
    if protocols is None:
        protocols = list(dict.fromkeys(protocol for scores in results.values() for protocol in scores))
    figure, panels = _panels(len(protocols), 1, (3.6 * len(protocols), 0.8 + 0.33 * len(results)), theme)
    for axes, protocol in zip(panels, protocols, strict=True):
        names = [name for name in results if protocol in results[name]]
        top1 = [100 * float(results[name][protocol]["top1"]) for name in names]
        colours = [theme.muted if name.startswith(BASELINES) else theme.accent for name in names]
        axes.barh(range(len(names)), top1, color=colours, height=0.62)
        for place, (name, value) in enumerate(zip(names, top1, strict=True)):
            low, high = (100 * end for end in results[name][protocol].get("interval", (value / 100, value / 100)))
            axes.plot((low, high), (place, place), color=theme.ink, lw=1, solid_capstyle="butt")
            axes.text(high + 1.5, place, f"{value:.1f}", color=theme.ink, fontsize=8.5, va="center_baseline")
        if chance is not None:
            axes.axvline(100 * chance, color=theme.ink, lw=1, ls=(0, (2, 2)))
            axes.text(100 * chance + 1.5, -0.5, f"guessing: {100 * chance:.3g}", color=theme.muted, fontsize=7.5)
        axes.set_yticks(range(len(names)), [shown(ENCODERS.get(name, name), 24) for name in names], parse_math=False)
        axes.set(xlim=(0, 112), xticks=(0, 25, 50, 75, 100), ylim=(len(names) - 0.45, -0.8))
        axes.tick_params(axis="y", labelsize=8.5, labelcolor=theme.ink)
        axes.spines["bottom"].set_bounds(0, 100)
        _title(axes, f"{score_title(protocol)}: top-1, %", theme)
    return figure


def confusion_figure(counts: NDArray[np.int64], classes: Sequence[str], theme: Theme = LIGHT) -> Figure:
    """What is taken for what: a row a true class, a column an answer, shares of the row as colour.

    Args:
        counts: (K, K), see `ssl_toolkit.eval.metrics.accuracies`.
        classes: K names.
        theme: Colours.
    """
    k = len(counts)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labelled = k <= LABELLED_CONFUSION
    side = 1.3 + 0.42 * k if labelled else 5.2
    figure, (axes,) = _panels(1, 1, (side + 0.4, side), theme)
    colours = LinearSegmentedColormap.from_list("share", [theme.background, theme.accent])
    axes.imshow(share, cmap=colours, vmin=0, vmax=100)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False)
    if not labelled:
        axes.set(xticks=(), yticks=())
        return figure
    names = [shown(name, 16) for name in classes]
    axes.set_yticks(range(k), names, parse_math=False, color=theme.ink)
    axes.set_xticks(range(k), names, parse_math=False, color=theme.ink, rotation=45, ha="right", rotation_mode="anchor")
    for row, column in np.argwhere(share >= 0.5):
        text = theme.background if share[row, column] > 55 else theme.ink
        axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center_baseline", fontsize=7.5, color=text)
    return figure


def _panels(across: int, down: int, inches: tuple[float, float], theme: Theme) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=inches, dpi=_DPI, facecolor=theme.background)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in panels:
        axes.set_facecolor(theme.background)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(theme.muted)
        axes.tick_params(color=theme.muted, labelcolor=theme.muted, labelsize=8, left=False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_axisbelow(True)
    return figure, panels


def _title(axes: Axes, text: str, theme: Theme) -> None:
    axes.set_title(text, color=theme.ink, fontsize=9, fontweight="bold", loc="left", parse_math=False)


def _curve(rows: Sequence[Mapping[str, str]], column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of the finite numbers in a column."""
    points = []
    for row in rows:
        try:
            points.append((float(row["step"]), float(row[column])))
        except (KeyError, TypeError, ValueError):
            continue
    table: NDArray[np.float64] = np.array(points, dtype=np.float64).reshape(-1, 2)
    table = table[np.isfinite(table).all(axis=1)]
    return table[:, 0], table[:, 1]


def _running_mean(x: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Means of `window` values around each, of fewer at the ends."""
    ones = np.ones(window)
    mean: NDArray[np.float64] = np.convolve(x, ones, mode="same") / np.convolve(np.ones(len(x)), ones, mode="same")
    return mean


# --- maps ------------------------------------------------------------------------------------------------------------


def principal_components(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """The two directions in which features differ most.

    Features are brought to length one first, as cosine search compares them. Signs are fixed: the largest value along
    each direction is positive.

    Args:
        features: (N, D), N at least 1.

    Returns:
        Coordinates (N, 2), and the share of the variance along each of the two, in [0, 1].
    """
    x = features.astype(np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x -= x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    points = np.zeros((len(x), 2))
    points[:, : min(2, len(s))] = u[:, :2] * s[:2]
    largest = points[np.abs(points).argmax(axis=0), (0, 1)]
    share = np.zeros(2)
    share[: min(2, len(s))] = s[:2] ** 2 / max(float((s**2).sum()), 1e-12)
    return points * np.where(largest < 0, -1, 1), (float(share[0]), float(share[1]))


def pca_map(
    features: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    classes: Sequence[str] | None,
    images: Pictures | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Features along their first two principal components, coloured by class; see `principal_components`.

    Classes differ in colour and, beyond six, in marker. The first twelve have their own, the others share a grey.

    Args:
        features: (N, D).
        labels: (N,) int64, -1 where there is none; None for all of them.
        classes: Names of the labels.
        images: N images (C, H, W): as many as find room are drawn in their places, the first ones first; only these
            are looked at.
        theme: Colours.
    """
    points, share = principal_components(features)
    labels = np.full(len(points), -1, dtype=np.int64) if labels is None else labels
    figure = Figure(figsize=_MAP, dpi=_DPI, facecolor=theme.background, layout="constrained")
    axes = figure.add_subplot(facecolor=theme.background)
    axes.spines[:].set_color(theme.faint)
    axes.set(xticks=(), yticks=())
    style = _class_styles(labels, classes, theme)
    alpha = 0.8 if images is None else 0.25
    for colour, marker, _, rows in style:
        axes.scatter(points[rows, 0], points[rows, 1], s=14, color=colour, marker=marker, lw=0, alpha=alpha)
    axes.margins(0.05)
    axes.set_xlabel(f"first component, {100 * share[0]:.0f} % of the variance", color=theme.muted, fontsize=8)
    axes.set_ylabel(f"second component, {100 * share[1]:.0f} %", color=theme.muted, fontsize=8)
    if images is not None:
        colours = np.full(len(points), theme.muted, dtype=object)
        for colour, _, _, rows in style:
            colours[rows] = colour
        _thumbnails(axes, points, images, [str(colour) for colour in colours], theme)
    if classes is not None and any(rows.any() for *_, rows in style):
        _legend(figure, style, theme)
    return figure


_Style = tuple[str, str, str, NDArray[np.bool_]]  # colour, marker, name, rows


def _class_styles(labels: NDArray[np.int64], classes: Sequence[str] | None, theme: Theme) -> list[_Style]:
    present = [int(label) for label in np.unique(labels) if label >= 0]
    own, rest = present[:NAMED_CLASSES], present[NAMED_CLASSES:]
    styles: list[_Style] = []
    others = labels < 0
    if others.any():
        styles.append((theme.muted if present else theme.accent, "o", "no label", others))
    if rest:
        styles.append((theme.muted, "o", f"{len(rest)} other classes", np.isin(labels, rest)))
    for place, label in enumerate(own):
        name = str(label) if classes is None else classes[label]
        marker = MARKERS[place // len(PALETTE) % len(MARKERS)]
        styles.append((PALETTE[place % len(PALETTE)], marker, name, labels == label))
    return styles


def _legend(figure: Figure, styles: Sequence[_Style], theme: Theme) -> None:
    columns = 5 if max(len(name) for _, _, name, _ in styles) <= 10 else 3
    handles = [Line2D([], [], color=colour, marker=marker, lw=0, ms=5) for colour, marker, _, _ in styles]
    legend = figure.legend(
        handles, ["x"] * len(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=8,
        labelcolor=theme.ink, handletextpad=0.1, columnspacing=1.4, borderpad=0,
    )  # fmt: skip
    # Set afterwards: in labels, matplotlib takes `$` for mathematics and drops names with a leading underscore.
    for text, (_, _, name, _) in zip(legend.get_texts(), styles, strict=True):
        text.set_parse_math(False)
        text.set_text(shown(name, 20))


def _thumbnails(
    axes: Axes,
    points: NDArray[np.float64],
    images: Pictures,
    colours: Sequence[str],
    theme: Theme,
    across: int = 18,
) -> None:
    """Draw images at their points where they overlap no earlier one; a frame in its colour around each."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width = (right - left) / across
    height = (top - bottom) / across * 1.15 * _MAP[0] / _MAP[1]  # the legend takes some of the figure's height
    axes.set(xlim=(left - width / 2, right + width / 2), ylim=(bottom - height / 2, top + height / 2))
    placed: list[tuple[float, float]] = []
    for row, ((x, y), colour) in enumerate(zip(points, colours, strict=True)):
        if any(abs(x - a) < 1.06 * width and abs(y - b) < 1.06 * height for a, b in placed):
            continue
        placed.append((x, y))
        box = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
        axes.imshow(tile(images[row], 48), extent=box, aspect="auto", interpolation="antialiased", zorder=3)
        axes.plot(
            (box[0], box[1], box[1], box[0], box[0]), (box[2], box[2], box[3], box[3], box[2]), color=colour, lw=1.4,
            zorder=4, solid_joinstyle="miter", scalex=False, scaley=False,
        )  # fmt: skip
