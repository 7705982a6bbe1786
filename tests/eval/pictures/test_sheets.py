"""Sheets: every picture in its place, and words that stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_toolkit.eval.pictures.sheets import Heat, Scale, sheet
from tests.conftest import BLUE, RED, pixels, plain


def test_sheet_has_pictures_in_rows_and_columns() -> None:
    figure = sheet([[plain(RED), plain(BLUE)], [None, plain(RED)]], row_names=["a", "b"], column_names=["x", "y"])
    picture = pixels(figure)
    red, blue = ((picture == colour).all(axis=2) for colour in (RED, BLUE))
    assert 1.9 < red.sum() / blue.sum() < 2.1
    assert red.nonzero()[1].min() < blue.nonzero()[1].min()
    lower = red[blue.nonzero()[0].max() + 2 :]
    assert lower.any()
    assert lower.nonzero()[1].min() >= blue.nonzero()[1].min() - 2  # nothing lies below the first picture
    assert [text.get_text() for text in figure.axes[0].texts] == ["x", "y", "a", "b"]


def test_heat_is_drawn_between_its_ends() -> None:
    (axes,) = sheet(
        [[Heat(np.array([[0.0, 2.0]]), (10, 20), 0, 4), Heat(np.array([[-1.0]]), (8, 8), -2, 2, True, plain(RED))]],
        scale=Scale("low", "high", signed=True),
    ).axes
    plain_heat, beneath, signed, bar = axes.images
    assert (plain_heat.get_clim(), signed.get_clim()) == ((0, 4), (-2, 2))
    left, right, bottom, top = plain_heat.get_extent()
    assert (right - left) == pytest.approx(2 * (bottom - top))  # in the shape of its image
    assert beneath.get_array().shape == (8, 8)
    assert signed.get_cmap().name == bar.get_cmap().name != plain_heat.get_cmap().name
    assert signed.get_alpha() == bar.get_alpha() < 1
    assert plain_heat.get_alpha() == 1
    assert [text.get_text() for text in axes.texts] == ["low", "high"]


def test_words_of_a_sheet_stay_inside_it_and_apart() -> None:
    names = ["W" * 12, "i", "$a_b$"]
    figure = sheet(
        [[plain(RED)] * 3] * 2, row_names=["image", "a long name"], column_names=names, captions=[names, names[::-1]],
        note="a sentence that is too long for one line of three tiles, " * 3, scale=Scale("from here", "to there"),
    )  # fmt: skip
    pixels(figure)  # lays the text out
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for place, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        for other in boxes[place + 1 :]:
            assert not box.overlaps(other)
