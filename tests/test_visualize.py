"""Pictures and charts: the right things in the right colours, for every kind of image, without global state."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval import visualize
from ssl_toolkit.eval.visualize import (
    DARK,
    LIGHT,
    confusion_figure,
    curve_columns,
    curves_figure,
    figure_png,
    known_label,
    neighbour_grid,
    neighbours_figure,
    pca_map,
    picture_png,
    principal_components,
    score_chart,
    shown,
    tile,
    views_figure,
)

RED, BLUE = (250, 10, 20), (10, 20, 250)


def plain(colour: tuple[int, ...], side: int = 8) -> np.ndarray:
    """An image (C, side, side) of one colour."""
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (len(colour), side, side)).copy()


def pixels(figure: Any) -> np.ndarray:
    """The drawn figure, (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(figure_png(figure))).convert("RGB"))


def count(picture: np.ndarray, colour: str | tuple[int, ...]) -> int:
    rgb = np.round(255 * np.array(to_rgb(colour))) if isinstance(colour, str) else np.array(colour)
    return int((picture == rgb).all(axis=-1).sum())


def hit(path: str, label: Any, score: float = 0.5) -> dict[str, Any]:
    return {"rank": 1, "path": path, "score": score, "label": label}


# --- pixels ----------------------------------------------------------------------------------------------------------


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


# --- neighbours ------------------------------------------------------------------------------------------------------


def grid_of(labels: list[Any], query_label: Any, theme: visualize.Theme = LIGHT) -> np.ndarray:
    hits = [hit("", label) for label in labels]
    picture = np.zeros((8, 8, 3), np.uint8) + np.array(RED, np.uint8)
    return pixels(neighbours_figure([picture], [[picture] * len(hits)], [hits], ["query.png"], [query_label], theme))


def test_right_and_wrong_neighbours_are_told_apart() -> None:
    right, wrong = count(grid_of(["cat"], "cat"), LIGHT.good), count(grid_of(["dog"], "cat"), LIGHT.bad)
    assert min(right, wrong) > 1000  # a frame
    mixed = grid_of(["cat", "dog", "dog"], "cat")
    assert count(mixed, LIGHT.bad) > 1.5 * count(mixed, LIGHT.good) > 0


@pytest.mark.parametrize(("label", "query_label"), [("cat", None), (None, "cat"), (None, None)])
def test_neighbours_are_not_marked_where_a_label_is_unknown(label: Any, query_label: Any) -> None:
    picture = grid_of([label], query_label)
    assert count(picture, LIGHT.good) == count(picture, LIGHT.bad) == 0
    assert count(picture, RED) > 20_000  # query and neighbour are both there


def test_grid_follows_the_theme() -> None:
    assert (grid_of(["cat"], "cat", DARK)[0, 0] == np.round(255 * np.array(to_rgb(DARK.background)))).all()


def test_many_neighbours_go_on_in_the_next_line() -> None:
    ten, eleven = grid_of(["cat"] * 10, "cat"), grid_of(["cat"] * 11, "cat")
    assert ten.shape[1] == eleven.shape[1]
    assert 1.5 * ten.shape[0] < eleven.shape[0] < 2 * ten.shape[0]
    assert 10 * count(eleven, LIGHT.good) > 10.9 * count(ten, LIGHT.good)


def test_more_queries_than_a_picture_can_hold_are_counted() -> None:
    found = [[hit("", None)]] * 130
    figure = neighbours_figure([None] * 130, [[None]] * 130, found, ["x"] * 130, [None] * 130)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "30 more queries are not shown" in texts
    assert texts.count("x") == 100
    assert max(figure.get_size_inches() * figure.dpi) < 2**16


@pytest.mark.parametrize("channels", [1, 3])
def test_neighbour_grid_reads_files_and_items(tmp_path: Path, channels: int) -> None:
    Image.new("RGB", (20, 30), RED).save(tmp_path / "red.png")
    hits = [[hit("shapes:test#3", "house"), hit("shapes:test#4", "lamp"), hit(str(tmp_path / "gone.png"), "house")]]
    out = tmp_path / "new" / "hits.png"
    neighbour_grid([str(tmp_path / "red.png")], hits, out, channels=channels, query_labels=["house"])
    picture = np.asarray(Image.open(out).convert("RGB"))
    grey = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
    assert count(picture, RED if channels == 3 else (grey,) * 3) > 10_000
    assert count(picture, LIGHT.faint) > 8_000  # the tile of what is gone
    assert count(picture, LIGHT.good) > 0 < count(picture, LIGHT.bad)
    assert [path.name for path in out.parent.iterdir()] == ["hits.png"]


def test_neighbour_grid_of_many_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "five.npy", np.tile(plain((*RED, 0, 255), 12), (2, 1, 1, 1)))
    item = f"{tmp_path / 'five.npy'}#1"
    neighbour_grid([item], [[hit(item, None)]], tmp_path / "hits.png", channels=5)
    assert count(np.asarray(Image.open(tmp_path / "hits.png").convert("RGB")), RED) > 20_000


def test_neighbour_grid_marks_items_whose_label_is_known(tmp_path: Path) -> None:
    neighbour_grid(["shapes:test#3"], [[hit("shapes:test#13", "house")]], tmp_path / "hits.png")
    assert count(np.asarray(Image.open(tmp_path / "hits.png").convert("RGB")), LIGHT.good) > 1000


def test_known_label() -> None:
    assert known_label("shapes:test#3", []) == "house"
    assert known_label("a.png", [hit("b.png", "dog"), hit("a.png", "cat")]) == "cat"
    assert known_label("a.png", [hit("b.png", "dog")]) is None
    assert known_label("shapes:nothing#3", []) is None
    assert known_label("shapes:test:5#9", []) is None


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ["_a$x_1$b$", "\udc80\n", "猫" * 30, "W" * 60]
    hits = [[hit("gone", name)] for name in names]
    neighbour_grid([f"/nowhere/{name}" for name in names], hits, tmp_path / "hits.png", query_labels=names)
    figure = pca_map(np.eye(4, dtype=np.float32), np.arange(4), names)
    assert next(text.get_text() for text in figure.legends[0].get_texts()) == "_a$x_1$b$"
    figure_png(figure)


def test_labels_never_reach_the_next_tile() -> None:
    def reach(label: str) -> int:
        drawn = pixels(neighbours_figure([None], [[None]], [[hit("", label)]], ["x"], [None]))
        below_the_neighbour = drawn[int(1.4 * 120) :, int(1.4 * 120) :, 0]
        return int((below_the_neighbour < 60).any(axis=0).nonzero()[0].max())  # ink: scores are lighter

    assert 20 < reach("cat") < reach("W" * 12) < 0.85 * 120


def test_grid_that_cannot_be_written_is_the_users_to_know(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--grid .*file cannot be written"):
        neighbour_grid(["a"], [[hit("b", None)]], tmp_path / "file" / "hits.png")


# --- views -----------------------------------------------------------------------------------------------------------


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


# --- charts ----------------------------------------------------------------------------------------------------------

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


# --- maps ------------------------------------------------------------------------------------------------------------


def test_principal_components_of_points_on_a_plane() -> None:
    angle = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0][:2]
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points, share = principal_components((3 * circle @ basis).astype(np.float32))
    assert sum(share) == pytest.approx(1, abs=1e-6)
    assert share[0] > share[1] > 0

    def distances(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, None] - x[None], axis=2)

    assert distances(points) == pytest.approx(distances(circle), abs=1e-6)  # unit length, then a rotation
    assert (points[np.abs(points).argmax(axis=0), [0, 1]] > 0).all()


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (2, 2)])
def test_principal_components_of_hardly_anything(shape: tuple[int, int]) -> None:
    points, _ = principal_components(np.ones(shape, np.float32))
    assert points.shape == (shape[0], 2)
    assert np.abs(points).max() < 1e-6


def test_map_names_twelve_classes_and_counts_the_rest() -> None:
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    figure = pca_map(features, np.arange(30) % 15, [f"class {i}" for i in range(15)])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["3 other classes", *(f"class {i}" for i in range(12))]
    styles = visualize._class_styles(np.arange(12), None, LIGHT)
    assert len({style[:2] for style in styles}) == 12
    assert sum(len(dots.get_offsets()) for dots in figure.axes[0].collections) == 30


def test_map_without_labels_has_no_legend() -> None:
    figure = pca_map(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32), None, None)
    assert not figure.legends
    assert len(figure.axes[0].collections[0].get_offsets()) == 9


def test_map_reads_only_the_images_that_find_room() -> None:
    class Images:
        def __init__(self) -> None:
            self.read: list[int] = []

        def __getitem__(self, row: int, /) -> np.ndarray:
            self.read.append(row)
            return plain(RED)

    images = Images()
    figure = pca_map(np.repeat(np.eye(3, dtype=np.float32), 50, axis=0), None, None, images)
    assert images.read == [0, 50, 100]
    assert len(figure.axes[0].images) == 3
    assert count(pixels(figure), RED) > 1000


def test_figures_neither_read_nor_change_global_settings() -> None:
    before = dict(matplotlib.rcParams)
    first = figure_png(curves_figure(ROWS))
    assert dict(matplotlib.rcParams) == before
    assert figure_png(curves_figure(ROWS)) == first
    assert figure_png(curves_figure(ROWS, theme=DARK)) != first
