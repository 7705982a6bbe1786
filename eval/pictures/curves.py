"""Curves of a training: the columns of its ``metrics.csv`` over the optimiser steps, as SVG for a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ssl_toolkit.eval.pictures.words import shown

TITLES = {"lr": "learning rate", "images_per_second": "images a second", "knn_top1": "kNN accuracy while training"}

SMOOTH_FROM = 30
"""Points of a curve from which on its running mean is drawn over it."""

POINTED_AT = 80
"""Points of a curve, at most, whose values a pointer finds."""

_DRAWN = 300  # points of a thin line: beyond, the least and the largest of as many pieces
_WIDTH, _HEIGHT = 360, 210  # with what stands around the curve
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 42, 36


def curve_columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Columns of a ``metrics.csv`` that make a curve: at least two numbers. Loss first, then scores, speed last."""
    columns = [name for name in (rows[0] if rows else ()) if name not in ("step", "epoch")]
    order = {"loss": 0, "lr": 2, "images_per_second": 3}
    return sorted((c for c in columns if len(_curve(rows, c)[0]) > 1), key=lambda column: order.get(column, 1))


def curve_svg(rows: Sequence[Mapping[str, str]], column: str, hint: str = "") -> Markup:
    """A metric over the optimiser steps; a noisy one also as a running mean. Values show where a pointer is.

    Needs no script: the page's style gives the classes ``thin``, ``line``, ``grid`` and the rest their colours, and
    hides the values (``tip``) of all points but the one below the pointer.

    Args:
        rows: Rows of ``metrics.csv`` (see `ssl_toolkit.logs.read_metrics`); empty cells are skipped.
        column: One that `curve_columns` finds.
        hint: What to look for, in a few words.

    Raises:
        ValueError: It has fewer than two values.
    """
    step, value = _curve(rows, column)
    if len(value) < 2:
        raise ValueError(f"{column} has fewer than two values")
    smooth = len(value) >= SMOOTH_FROM and column != "lr"
    mean = _running_mean(value, len(value) * 2 // SMOOTH_FROM) if smooth else value
    frame = _Frame.around(step, value, from_zero=column == "images_per_second")
    title = escape(TITLES.get(column, shown(column.replace("_", " "), 40)))
    ends = escape(f"{_number(mean[0])} to {_number(mean[-1])}{hint and '; ' + hint}")
    thin = f'<polyline class="thin" points="{frame.line(*_thinned(step, value))}"/>' if smooth else ""
    return Markup(  # of numbers, and an escaped title
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="curve: {title}, {ends}">'
        f'<text class="title" x="0" y="14">{title}</text><text class="ends" x="0" y="30">{ends}</text>'
        f'{frame.axes()}{thin}<polyline class="line" points="{frame.line(*_thinned(step, mean))}"/>'
        f"{_tips(frame, step, value, mean, smooth)}</svg>"
    )


@dataclasses.dataclass(frozen=True)
class _Frame:
    """From steps and values to places in the drawing, in its own units, y down.

    Attributes:
        x: First and last step.
        y: What lies at the foot and at the top.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, step: NDArray[np.float64], value: NDArray[np.float64], from_zero: bool) -> _Frame:
        low, high = (0.0 if from_zero else float(value.min())), float(value.max())
        room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        return cls((float(step[0]), float(step[-1])), (low if from_zero else low - room, high + room))

    def across(self, step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)

    def down(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - self.y[0]) / (self.y[1] - self.y[0])

    def line(self, step: NDArray[np.float64], value: NDArray[np.float64]) -> str:
        return " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in zip(step, value, strict=True))

    def axes(self) -> str:
        foot, made = _HEIGHT - _BOTTOM, []
        for tick in _ticks(*self.y):
            y, text = self.down(tick), _number(tick)
            made.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            made.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
        for tick in _ticks(*self.x, integer=True):
            x = self.across(tick)
            made.append(f'<text class="tick" x="{x:.1f}" y="{foot + 15}" text-anchor="middle">{_number(tick)}</text>')
        made.append(f'<text class="tick" x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">')
        return "".join(made) + "optimiser step</text>"


def _tips(
    frame: _Frame, step: NDArray[np.float64], value: NDArray[np.float64], mean: NDArray[np.float64], smooth: bool
) -> str:
    """For some of the points a strip that catches the pointer, and what shows then: a mark and the values."""
    chosen = np.unique(np.linspace(0, len(step) - 1, min(len(step), POINTED_AT)).round().astype(int))
    x = np.array([frame.across(each) for each in step[chosen]])
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    made = []
    for place, row in enumerate(chosen):
        left, width = edges[place], edges[place + 1] - edges[place]
        beside = f", around it {_number(mean[row])}" if smooth else ""
        made.append(
            f'<g class="point"><rect x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{_HEIGHT - _TOP}"/>'
            f'<g class="tip"><path class="here" d="M{x[place]:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
            f'<circle cx="{x[place]:.1f}" cy="{frame.down(float(mean[row])):.1f}" r="3.5"/>'
            f'<text class="value" x="0" y="30">step {_number(step[row])}: {_number(value[row])}{beside}</text></g></g>'
        )
    return "".join(made)


def _ticks(low: float, high: float, integer: bool = False) -> list[float]:
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10], integer=integer).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _number(value: float) -> str:
    """Four digits, of whole numbers all."""
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"


def _thinned(step: NDArray[np.float64], value: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A line of few points that looks like one of many: of each piece the least and the largest."""
    if len(step) <= 2 * _DRAWN:
        return step, value
    pieces = np.array_split(np.arange(len(step)), _DRAWN)
    kept = np.unique([end for rows in pieces for end in (rows[value[rows].argmin()], rows[value[rows].argmax()])])
    return step[kept], value[kept]


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
