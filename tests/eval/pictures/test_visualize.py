"""Pictures and charts: the right things in the right colours, for every kind of image, without global state."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.eval.pictures.visualize import (
    DARK,
    Heat,
    Scale,
    confusion_figure,
    curve_columns,
    curves_figure,
    figure_png,
    picture_png,
    score_chart,
    sheet,
    shown,
    tile,
    views_figure,
)
from tests.conftest import BLUE, RED, pixels, plain

# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "rgb"),
    [
        (plain((7,)), (7, 7, 7)),
        (plain((7, 9)), (7, 7, 7)),
        (plain((7, 8, 9)), (7, 8, 9)),
        (plain((7, 8, 9, 10, 11)), (7, 8, 9)),
        (plain((0, 51, 255)) / np.float32(255), (0, 51, 255)),
        (plain((0, 255, 255)) / np.float32(255) + np.float32(1e-6), (0, 255, 255)),
    ],
)
def test_tile_shows_the_first_channels(image: np.ndarray, rgb: tuple[int, ...]) -> None:
    shown_tile = tile(image, 5)
    assert shown_tile.shape == (5, 5, 3)
    assert shown_tile.dtype == np.uint8
    assert (shown_tile == rgb).all()


def test_tile_is_the_square_middle() -> None:
    image = np.concatenate([plain(RED, 10), plain(BLUE, 10), plain(RED, 10)], axis=2)  # (3, 10, 30)
    assert (tile(image, 10) == BLUE).all()


def test_picture_png_is_lossless() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(picture_png(picture)))) == picture).all()


def test_shown_makes_any_name_text() -> None:
    assert shown("a\nb\x1b[31m\udc80") == "a�b�[31m�"
    assert shown("gpj.\u202egif") == "gpj.�gif"
    assert shown("straße 猫.jpg") == "straße 猫.jpg"
    assert shown("abcdefghij", 10) == "abcdefghij"
    assert shown("abcdefghijk", 10) == "abcd…ghijk"


# --- sheets ----------------------------------------------------------------------------------------------------------


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


# --- views ------------------------------------------------------------------------------------------------------------


def test_views_figure_has_images_above_their_views() -> None:
    figure = views_figure([plain(RED)] * 3, [[plain(BLUE, 5) / np.float32(255)] * 3, [plain((9,), 4)] * 3])
    picture = pixels(figure)
    (red, blue, grey) = ((picture == colour).all(axis=2) for colour in (RED, BLUE, (9, 9, 9)))
    sizes = [int(mask.sum()) for mask in (red, blue, grey)]
    assert min(sizes) > 30_000
    assert max(sizes) < 1.03 * min(sizes)  # edges lie between pixels
    assert red.nonzero()[0].max() < blue.nonzero()[0].min() < blue.nonzero()[0].max() < grey.nonzero()[0].min()
    assert {text.get_text() for text in figure.axes[0].texts} == {"image", "view 1", "view 2"}


def test_views_figure_needs_a_view_of_every_image() -> None:
    with pytest.raises(ValueError, match="2 images"):
        views_figure([plain(RED)] * 2, [[plain(RED)]])


# --- charts -----------------------------------------------------------------------------------------------------------

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


def test_confusion_figure() -> None:
    (axes,) = confusion_figure(np.array([[3, 1], [0, 0]]), ["cat", "$dog$"]).axes
    assert axes.images[0].get_array().tolist() == [[75, 25], [0, 0]]
    assert [text.get_text() for text in axes.texts] == ["75", "25"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "$dog$"]
    many = confusion_figure(np.eye(50, dtype=np.int64), [str(n) for n in range(50)]).axes[0]
    assert (list(many.texts), list(many.get_xticks())) == ([], [])


def test_figures_neither_read_nor_change_global_settings() -> None:
    before = dict(matplotlib.rcParams)
    first = figure_png(curves_figure(ROWS))
    assert dict(matplotlib.rcParams) == before
    assert figure_png(curves_figure(ROWS)) == first
    assert figure_png(curves_figure(ROWS, theme=DARK)) != first
