"""Curves of a training: the columns of its ``metrics.csv`` over the optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from ssl_toolkit.eval.pictures.charts import panels_of, title
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme
from ssl_toolkit.eval.pictures.words import shown

TITLES = {"lr": "learning rate", "images_per_second": "images a second", "knn_top1": "kNN accuracy while training"}

SMOOTH_FROM = 30
"""Points of a curve from which on its running mean is drawn over it."""


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
    figure, panels = panels_of(across, down, (3.6 * across, 2.3 * down), theme)
    for axes, column in zip(panels, columns, strict=False):
        step, value = _curve(rows, column)
        if len(value) >= SMOOTH_FROM and column != "lr":
            window = len(value) * 2 // SMOOTH_FROM
            axes.plot(step, value, color=theme.accent, lw=0.8, alpha=0.35)
            value = _running_mean(value, window)
        axes.plot(step, value, color=theme.accent, lw=1.8, marker="o" if len(value) < 3 else "", ms=3)
        title(axes, TITLES.get(column, shown(column.replace("_", " "), 40)), theme)
        axes.set_xlabel("optimiser step", color=theme.muted, fontsize=8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
        axes.grid(axis="y", color=theme.faint, lw=0.8)
        if column == "images_per_second":
            axes.set_ylim(bottom=0)
    for axes in panels[len(columns) :]:
        axes.set_axis_off()
    return figure


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
