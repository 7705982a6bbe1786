"""Charts: accuracies as bars, and what is taken for what."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgba

from ssl_toolkit.eval.pictures.charts import confusion_figure, score_chart
from ssl_toolkit.eval.pictures.themes import LIGHT


def test_score_chart() -> None:
    results = {
        "trained": {"knn": {"top1": 0.75}, "linear": {"top1": 0.5}},
        "random": {"knn": {"top1": 0.25}, "linear": {"top1": 0.125}},
    }
    figure = score_chart(results, chance=0.1)
    knn, linear = figure.axes
    assert [bar.get_width() for bar in knn.patches] == [75, 25]
    assert [bar.get_width() for bar in linear.patches] == [50, 12.5]
    assert [label.get_text() for label in knn.get_yticklabels()] == ["trained", "random weights"]
    assert {"75.0", "25.0", "guessing: 10"} == {text.get_text() for text in knn.texts}
    assert linear.get_title("left") == "linear probe: top-1, %"
    assert len(score_chart(results, protocols=["linear"]).axes) == 1


def test_score_chart_wraps_names_and_marks_what_is_wrong() -> None:
    results = {"temperature=0.1,lr=0.001,epochs=10": {"knn": {"top1": 0.5}}, "b": {"knn": {"top1": 0.25}}}
    (axes,) = score_chart(results, warned={"b": "like chance"}).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["temperature=0.1,\nlr=0.001,epochs=10", "b\n(like chance)"]
    assert [bar.get_facecolor() for bar in axes.patches] == [to_rgba(LIGHT.accent), to_rgba(LIGHT.bad)]


def test_confusion_figure() -> None:
    (axes,) = confusion_figure(np.array([[3, 1], [0, 0]]), ["cat", "$dog$"]).axes
    assert axes.images[0].get_array().tolist() == [[75, 25], [0, 0]]
    assert [text.get_text() for text in axes.texts] == ["75", "25"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "$dog$"]
    many = confusion_figure(np.eye(50, dtype=np.int64), [str(n) for n in range(50)]).axes[0]
    assert (list(many.texts), list(many.get_xticks())) == ([], [])
