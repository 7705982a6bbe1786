"""Curves: every number of a metric, noisy ones smoothed."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_toolkit.eval.pictures.curves import curve_columns, curves_figure

ROWS = [
    {"step": str(10 * i), "epoch": "0", "lr": "0.1", "loss": f"{9 - i}", "images_per_second": "", "accuracy": ".5"}
    for i in range(1, 4)
]
ROWS[1]["loss"] = "nan"
ROWS[2]["images_per_second"] = "100"


def test_curve_columns_are_numbers_with_the_loss_first() -> None:
    assert curve_columns(ROWS) == ["loss", "accuracy", "lr"]
    assert curve_columns([]) == []


def test_curves_show_every_finite_number() -> None:
    figure = curves_figure(ROWS)
    assert [axes.get_title("left") for axes in figure.axes if axes.axison] == ["loss", "accuracy", "learning rate"]
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [10, 30]
    assert line.get_ydata().tolist() == [8, 6]


def test_noisy_curves_get_a_running_mean() -> None:
    rows = [{"step": str(i), "loss": str(i % 2), "lr": str(i % 2)} for i in range(60)]
    loss, lr = curves_figure(rows).axes[:2]
    assert len(lr.lines) == 1
    thin, thick = (line.get_ydata() for line in loss.lines)
    assert thin.tolist() == [i % 2 for i in range(60)]
    assert thick == pytest.approx(np.full(60, 0.5), abs=0.17)
    assert len(thick) == 60


def test_curves_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="two values"):
        curves_figure(ROWS[:1])
