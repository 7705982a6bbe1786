"""Maps: known projections, neighbours that stay neighbours, and classes told apart."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures.maps import (
    PROJECTIONS,
    Pictures,
    map_figure,
    pca,
    principal_components,
    tsne,
    umap,
)
from ssl_toolkit.eval.pictures.marks import mark
from tests.conftest import RED, count, pixels, plain


def map_of(features: np.ndarray, labels: Any, classes: Any, images: Pictures | None = None) -> Figure:
    return map_figure(pca(features), labels, classes, images)


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


def test_map_names_twenty_classes_and_counts_the_rest() -> None:
    features = np.random.default_rng(0).normal(size=(46, 4)).astype(np.float32)
    figure = map_of(features, np.arange(46) % 23, [f"class {i}" for i in range(23)])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["3 other classes", *(f"class {i}" for i in range(20))]
    assert sum(len(dots.get_offsets()) for dots in figure.axes[0].collections) == 46
    few = map_of(features, np.arange(46) % 3, ["a", "b", "c"])
    assert figure.get_figheight() > few.get_figheight()  # the legend takes nothing from the map


def test_frames_bear_the_mark_of_their_class() -> None:
    labels = np.arange(20)
    images = [plain(RED)] * 20
    figure = map_of(np.eye(20, dtype=np.float32), labels, [f"class {i}" for i in labels], images)
    marks = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines if line.get_marker() != "None"]
    assert marks
    frames = [line.get_color() for line in figure.axes[0].lines if line.get_marker() == "None"]
    assert [colour for colour, _ in marks] == frames
    assert set(marks) <= {mark(number) for number in range(20)}
    bare = map_of(np.eye(20, dtype=np.float32), None, None, images)
    assert {line.get_marker() for line in bare.axes[0].lines} == {"None"}


def test_map_without_labels_has_no_legend() -> None:
    figure = map_of(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32), None, None)
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
    figure = map_of(np.repeat(np.eye(3, dtype=np.float32), 50, axis=0), None, None, images)
    assert images.read == [0, 50, 100]
    assert len(figure.axes[0].images) == 3
    assert count(pixels(figure), RED) > 1000


def test_names_of_classes_are_drawn_as_they_are() -> None:
    names = ["_a$x_1$b$", "\udc80\n", "猫" * 30, "W" * 60]
    figure = map_of(np.eye(4, dtype=np.float32), np.arange(4), names)
    assert next(text.get_text() for text in figure.legends[0].get_texts()) == "_a$x_1$b$"
    pixels(figure)


def test_axes_of_pca_say_their_share() -> None:
    axes = map_of(np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], np.float32), None, None).axes[0]
    assert axes.get_xlabel() == "first component, 100 % of the variance"
    assert axes.get_ylabel() == "second component, 0 %"


def three_groups(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    centres = np.linalg.qr(generator.normal(size=(64, 3)))[0].T
    label = np.arange(3).repeat(count)
    return (centres[label] + 0.02 * generator.normal(size=(len(label), 64))).astype(np.float32), label


@pytest.mark.parametrize("name", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_groups_stay_together_and_apart(name: str) -> None:
    if name == "umap":
        pytest.importorskip("umap")
    features, label = three_groups()
    found = PROJECTIONS[name](features)
    distance = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (label[distance.argmin(axis=1)] == label).all()
    np.fill_diagonal(distance, 0)
    same = label[:, None] == label[None]
    assert distance[same].max() < distance[~same].min()
    assert found.axes == ("", "")  # they mean nothing
    assert (PROJECTIONS[name](features).points == found.points).all()


def test_tsne_sees_directions_and_not_lengths() -> None:
    features, _ = three_groups(4)
    longer = features * 2.0 ** np.random.default_rng(1).integers(0, 5, (len(features), 1))
    assert (tsne(longer.astype(np.float32)).points == tsne(features).points).all()


def test_features_that_are_all_alike_have_one_place() -> None:
    assert (tsne(np.ones((9, 5), np.float32)).points == 0).all()


@pytest.mark.parametrize("project", [tsne, umap])
def test_too_few_images_for_a_map(project: Any) -> None:
    with pytest.raises(UsageError, match="four images, got 3"):
        project(np.eye(3, dtype=np.float32))


def test_umap_that_is_not_installed_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[umap\]'"):
        umap(np.eye(4, dtype=np.float32))
