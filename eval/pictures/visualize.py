"""How everything is drawn: themes, sheets of pictures and charts, as matplotlib figures or PNG bytes.

Every function goes from arrays to a `Figure` of its own; matplotlib's global state is neither read nor changed. Images
are (C, H, W), uint8 or float in [0, 1]. One channel is shown as grey, two as grey by the first, more than three by
the first three as red, green and blue.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from ssl_toolkit.augment import Views
from ssl_toolkit.data.images import resize, to_uint8
from ssl_toolkit.data.reading import center_crop, pad
from ssl_toolkit.errors import UsageError
from ssl_toolkit.files import make_folder, write_atomic

Pixels: TypeAlias = NDArray[Any]
"""An image (C, H, W), uint8 or float in [0, 1]."""


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

TITLES = {"lr": "learning rate", "images_per_second": "images a second", "knn_top1": "kNN accuracy while training"}
ENCODERS = {"trained": "trained", "random": "random weights", "pixels": "raw pixels"}
BASELINES = ("random", "raw pixels", "pixels")  # how their names begin
PROTOCOLS = {
    "knn": "kNN", "linear": "linear probe", "low_shot": "1 % of labels", "sweep": "best of sweep",
    "sgd": "SGD on crops", "svm": "linear SVM", "finetune": "fine-tuned",
}  # fmt: skip

HEAT = "inferno"
"""Colour map of heat maps that begin at 0, dark to bright."""

SIGNED = "RdBu_r"
"""Colour map of heat maps on both sides of 0: blue below, red above."""

OVER = 0.65
"""Opacity of a heat map that lies over its image."""

HEADS = 6
"""Heads of an attention layer that are shown one by one."""

LABELLED_CONFUSION = 20
"""Up to this many classes a confusion matrix names them and gives its numbers."""

SMOOTH_FROM = 30
"""Points of a curve from which on its running mean is drawn over it."""

DPI = 144


# --- pixels -----------------------------------------------------------------------------------------------------------


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


# --- sheets of pictures ----------------------------------------------------------------------------------------------


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


def sheet(
    rows: Sequence[Sequence[Pixels | Heat | None]],
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
    across = max(len(row) for row in rows)
    # In tiles, like all that follows.
    left = max((_points(name, size=9) for name in row_names), default=0) / 72 / side + 0.1 * bool(row_names)
    line = 0.16 / side
    top, gap = 0.28 / 1.15 / side if column_names else 0.0, 0.14
    width = left + across + gap * (apart == "column")
    notes = textwrap.wrap(note, max(20, round((width - left) * side * 72 / 4.6)))
    captioned = [1.1 * line if any(row) else 0.0 for row in (captions or [()] * len(rows))]
    tall = max((_height(picture) for row in rows for picture in row if picture is not None), default=1.0)
    bottom = top + tall * len(rows) + gap * (apart == "row") + sum(captioned)
    height = bottom + (2 * line if scale else 0) + line * len(notes) + 0.5 * line * bool(notes or scale)
    figure = Figure(figsize=(side * width, side * height), dpi=100, facecolor=theme.background)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for column, name in enumerate(column_names):
        x = left + column + 0.5 + gap * (column > 0 and apart == "column")
        colour = theme.muted if column or apart != "column" else theme.ink
        axes.text(x, top - 0.08, fitted(name, 68 * side, size=9), color=colour, fontsize=9, ha="center", **_PLAIN)
    y = top
    for place, row in enumerate(rows):
        if row_names:
            colour = theme.muted if place or apart != "row" else theme.ink
            axes.text(0.04, y + tall / 2, shown(row_names[place]), color=colour, fontsize=9, va="center", **_PLAIN)
        for column, picture in enumerate(row):
            x = left + column + gap * (column > 0 and apart == "column")
            _draw(axes, picture, x + 0.5, y + tall / 2, theme)
            if captioned[place]:
                text = fitted(captions[place][column], 68 * side, size=7.5)
                axes.text(x + 0.5, y + tall - 0.03 + line / 2, text, color=theme.muted, fontsize=7.5, ha="center",
                          va="center_baseline", **_PLAIN)  # fmt: skip
        y += tall + captioned[place] + gap * (place == 0 and apart == "row")
    if scale is not None:
        start = left + (1 + gap if apart == "column" else 0.03)
        _bar(axes, scale, start, bottom + line, side, theme)
    for number, text in enumerate(notes):
        down = bottom + (2 * line if scale else 0) + line * (number + 0.6)
        axes.text(left + 0.03, down, text, color=theme.muted, fontsize=8, va="center_baseline", **_PLAIN)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


_PLAIN: dict[str, Any] = {"parse_math": False}


def _height(picture: Pixels | Heat) -> float:
    """Share of a tile that a picture takes from top to bottom, with its margin."""
    height, width = picture.shape if isinstance(picture, Heat) else picture.shape[-2:]
    return min(1.0, 0.06 + 0.94 * height / width)


def _draw(axes: Axes, picture: Pixels | Heat | None, x: float, y: float, theme: Theme) -> None:
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
    words: dict[str, Any] = {"color": theme.muted, "fontsize": 8, "va": "center_baseline", **_PLAIN}
    start = left + _points(scale.low, size=8) / 72 / side + 0.06
    axes.text(left, middle, scale.low, **words)
    box = (start, start + 0.8, middle + 0.05, middle - 0.05)
    colours = {"cmap": SIGNED, "alpha": OVER} if scale.signed else {"cmap": HEAT}
    axes.imshow(np.linspace(0, 1, 256)[None], extent=box, aspect="auto", **colours)
    axes.text(start + 0.86, middle, scale.high, **words)


def _points(text: str, **font: Any) -> float:
    """How wide a text is drawn, points; in a font of matplotlib's (``size``, ``weight``)."""
    # Dollar signs would be read as mathematics.
    path = TextPath((0, 0), shown(text).replace("$", "S"), prop=FontProperties(**font))
    return float(path.get_extents().x1) if text.strip() else 0.0


def fitted(text: str, points: float, **font: Any) -> str:
    """As much of `text` as fits into a width, points; drawn in a font of matplotlib's (``size``, ``weight``)."""
    length, width = min(len(text), 60), 2 * points
    while length and width > points:
        width = _points(shown(text, length), **font)
        length = min(length, int(length * points / width)) if width > points else length
    return shown(text, length)


def _whole(shape: tuple[int, ...], x: float, y: float) -> tuple[float, float, float, float]:
    """Where an image of a shape, (height, width), goes to be seen whole in the tile with its middle at (x, y)."""
    tall, wide = (0.47 * side / max(shape) for side in shape)  # half of it
    return (x - wide, x + wide, y + tall, y - tall)


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
    return sheet([images, *[list(view) for view in views]], theme, row_names=names, apart="row")


# --- attention -------------------------------------------------------------------------------------------------------


def attention_figure(images: Sequence[Pixels], maps: NDArray[np.floating[Any]], theme: Theme = LIGHT) -> Figure:
    """Each image at the left, to its right where each head looks; see `attention.attention_maps`.

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
    rows: list[list[Pixels | Heat | None]] = [
        [image, *(Heat(each[row], image.shape[1:], 0, float(each[row].max())) for each in columns.values())]
        for row, image in enumerate(images)
    ]
    scale = Scale("0", "the map's largest value")
    return sheet(rows, theme, column_names=["image", *columns], apart="column", scale=scale)


# --- charts -----------------------------------------------------------------------------------------------------------


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
        counts: (K, K), see `ssl_toolkit.eval.scores.metrics.accuracies`.
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
    figure = Figure(figsize=inches, dpi=DPI, facecolor=theme.background)
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
