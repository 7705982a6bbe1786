"""Neighbour grids: right and wrong told apart, for every kind of image and name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures.neighbours import known_label, neighbour_grid, neighbours_figure
from ssl_toolkit.eval.pictures.themes import DARK, LIGHT, Theme
from tests.conftest import RED, count, pixels, plain


def hit(path: str, label: Any, score: float = 0.5) -> dict[str, Any]:
    return {"rank": 1, "path": path, "score": score, "label": label}


def grid_of(labels: list[Any], query_label: Any, theme: Theme = LIGHT) -> np.ndarray:
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


def test_words_stand_where_a_picture_would(tmp_path: Path) -> None:
    figure = neighbours_figure([None], [[None]], [[hit("", None)]], ["text:a red house above a car"], [None])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "a red house\nabove a car" in texts
    assert texts.count("cannot\nbe read") == 1  # the hit
    neighbour_grid(["text:a/b"], [[hit("gone", None)]], tmp_path / "grid.png")
    assert (tmp_path / "grid.png").is_file()
