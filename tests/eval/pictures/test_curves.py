"""Curves: every number of a metric, noisy ones smoothed."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from ssl_toolkit.eval.pictures.curves import curve_columns, curve_svg

ROWS = [
    {"step": str(10 * i), "epoch": "0", "lr": "0.1", "loss": f"{9 - i}", "images_per_second": "", "accuracy": ".5"}
    for i in range(1, 4)
]
ROWS[1]["loss"] = "nan"
ROWS[2]["images_per_second"] = "100"


def test_curve_columns_are_numbers_with_the_loss_first() -> None:
    assert curve_columns(ROWS) == ["loss", "accuracy", "lr"]
    assert curve_columns([]) == []


def parsed(column: str = "loss", rows: list[dict[str, str]] = ROWS) -> ElementTree.Element:
    return ElementTree.fromstring(curve_svg(rows, column))


def words(svg: ElementTree.Element, kind: str) -> list[str]:
    return [each.text or "" for each in svg.iter("text") if each.get("class") == kind]


def test_a_curve_shows_every_finite_number_where_it_lies() -> None:
    svg = parsed()
    assert words(svg, "title") == ["loss"]
    assert words(svg, "value") == ["step 10: 8", "step 30: 6"]
    (line,) = svg.iter("polyline")
    (left, top), (right, bottom) = ([float(x) for x in point.split(",")] for point in line.get("points", "").split())
    assert left < right
    assert top < bottom  # of a picture, y counts downwards
    strips = [(float(rect.get("x", 0)), float(rect.get("width", 0))) for rect in svg.iter("rect")]
    assert strips[0][0] + strips[0][1] == pytest.approx(strips[1][0], abs=0.2)  # no pointer falls between
    assert words(parsed("lr"), "title") == ["learning rate"]


def test_noisy_curves_get_a_running_mean() -> None:
    rows = [{"step": str(i), "loss": str(i % 2), "lr": str(i % 2)} for i in range(60)]
    thin, thick = parsed(rows=rows).iter("polyline")
    assert (thin.get("class"), thick.get("class")) == ("thin", "line")
    heights = [{point.split(",")[1] for point in line.get("points", "").split()} for line in (thin, thick)]
    spread = [max(map(float, each)) - min(map(float, each)) for each in heights]
    assert spread[1] < 0.4 * spread[0]
    assert words(parsed(rows=rows), "value")[30].startswith("step 30: 0, around it 0.")
    assert len(list(parsed("lr", rows).iter("polyline"))) == 1


def test_a_long_curve_keeps_its_peaks_and_stays_small() -> None:
    rows = [{"step": str(i), "lr": "9" if i == 4321 else "1"} for i in range(10_000)]
    svg = parsed("lr", rows)
    (line,) = svg.iter("polyline")
    heights = [float(point.split(",")[1]) for point in line.get("points", "").split()]
    assert sorted(heights)[0] < sorted(heights)[1]
    assert len(heights) <= 600
    assert len(words(svg, "value")) == 80


@pytest.mark.parametrize("values", [("1", "1"), ("0", "0"), ("-3", "-3")])
def test_a_curve_that_never_moves_has_a_place(values: tuple[str, str]) -> None:
    rows = [{"step": str(i), "loss": value} for i, value in enumerate(values)]
    assert "nan" not in curve_svg(rows, "loss")


def test_names_and_hints_cannot_break_out() -> None:
    rows = [{"step": str(i), "<b>&": "1"} for i in range(2)]
    svg = ElementTree.fromstring(curve_svg(rows, "<b>&", "a < b"))
    assert words(svg, "title") == ["<b>&"]
    assert words(svg, "ends") == ["1 to 1; a < b"]


def test_curves_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="two values"):
        curve_svg(ROWS[:1], "loss")
