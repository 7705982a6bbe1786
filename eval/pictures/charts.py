"""Charts: accuracies as bars, and what is taken for what.

Every figure is its own; matplotlib's global state is neither read nor changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ssl_toolkit.eval.pictures.themes import LIGHT, Theme
from ssl_toolkit.eval.pictures.words import BASELINES, ENCODERS, score_title, shown, wrapped

LABELLED_CONFUSION = 20
"""Up to this many classes a confusion matrix names them and gives its numbers."""

DPI = 144


def score_chart(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    chance: float | None = None,
    protocols: Sequence[str] | None = None,
    theme: Theme = LIGHT,
    warned: Mapping[str, str] | None = None,
) -> Figure:
    """Top-1 accuracy of each encoder as bars, one panel a protocol; a thin line is the interval, where there is one.

    Args:
        results: ``{encoder: {protocol: {"top1": accuracy in [0, 1]}}}``, as ``results.json`` holds it, or with names of
            runs instead of ``trained``.
        chance: Accuracy of guessing, in [0, 1], drawn as a line.
        protocols: Those to draw; None draws all.
        theme: Colours.
        warned: Encoders in the colour of what is wrong, with what is to stand beside their names.
    """
    if protocols is None:
        protocols = list(dict.fromkeys(protocol for scores in results.values() for protocol in scores))
    warned = warned or {}
    labels = {name: wrapped(shown(ENCODERS.get(name, name)), 24) for name in results}
    labels |= {name: f"{labels[name]}\n({what})" for name, what in warned.items()}
    lines = max(label.count("\n") + 1 for label in labels.values())
    figure, panels = _panels(
        len(protocols), (3.6 * len(protocols), 0.8 + max(0.33, 0.16 * lines) * len(results)), theme
    )
    for axes, protocol in zip(panels, protocols, strict=True):
        names = [name for name in results if protocol in results[name]]
        top1 = [100 * float(results[name][protocol]["top1"]) for name in names]
        colours = [
            theme.muted if name.startswith(BASELINES) else theme.bad if name in warned else theme.accent
            for name in names
        ]
        axes.barh(range(len(names)), top1, color=colours, height=0.62)
        for place, (name, value) in enumerate(zip(names, top1, strict=True)):
            low, high = (100 * end for end in results[name][protocol].get("interval", (value / 100, value / 100)))
            axes.plot((low, high), (place, place), color=theme.ink, lw=1, solid_capstyle="butt")
            axes.text(high + 1.5, place, f"{value:.1f}", color=theme.ink, fontsize=8.5, va="center_baseline")
        if chance is not None:
            axes.axvline(100 * chance, color=theme.ink, lw=1, ls=(0, (2, 2)))
            axes.text(100 * chance + 1.5, -0.5, f"guessing: {100 * chance:.3g}", color=theme.muted, fontsize=7.5)
        axes.set_yticks(range(len(names)), [labels[name] for name in names], parse_math=False)
        axes.set(xlim=(0, 112), xticks=(0, 25, 50, 75, 100), ylim=(len(names) - 0.45, -0.8))
        axes.tick_params(axis="y", labelsize=8.5, labelcolor=theme.ink)
        axes.spines["bottom"].set_bounds(0, 100)
        name = f"{score_title(protocol)}: top-1, %"
        axes.set_title(name, color=theme.ink, fontsize=9, fontweight="bold", loc="left", parse_math=False)
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
    figure, (axes,) = _panels(1, (side + 0.4, side), theme)
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


def _panels(count: int, inches: tuple[float, float], theme: Theme) -> tuple[Figure, list[Axes]]:
    """An empty figure of a size, and its panels from left to right."""
    figure = Figure(figsize=inches, dpi=DPI, facecolor=theme.background)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    panels = list(figure.subplots(1, count, squeeze=False).flat)
    for axes in panels:
        axes.set_facecolor(theme.background)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(theme.muted)
        axes.tick_params(color=theme.muted, labelcolor=theme.muted, labelsize=8, left=False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_axisbelow(True)
    return figure, panels
