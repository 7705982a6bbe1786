"""Near-duplicates, outliers and retrieval against small cases by hand and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score

from ssl_toolkit.cli.duplicates import duplicates as duplicates_command
from ssl_toolkit.cli.outliers import outliers as outliers_command
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search import curate
from ssl_toolkit.eval.search.index import EmbeddingIndex


def build(x: NDArray[np.floating], labels: list[int] | None = None, **options: Any) -> EmbeddingIndex:
    paths = [f"{number}.png" for number in range(len(x))]
    label = None if labels is None else np.array(labels)
    options = {"encoder_file": "encoder", "encoder_sha256": "e" * 64, **options}
    return EmbeddingIndex.build(x.astype(np.float32), paths, label, **options)


def at(*degrees: float) -> NDArray[np.floating]:
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_duplicates_are_linked_by_chains() -> None:
    index = build(at(0, 90, 5, 180, 10, 91, 270))
    assert curate.duplicates(index, np.cos(np.radians(6))) == [[0, 2, 4], [1, 5]]
    assert curate.duplicates(index, np.cos(np.radians(2))) == [[1, 5]]
    assert curate.duplicates(index, 1.0) == []


def test_duplicates_by_distance() -> None:
    assert curate.duplicates(build(np.array([[0.0], [5], [0.5], [9]]), metric="l2"), 0.5) == [[0, 2]]


def test_a_group_is_whole_however_large() -> None:
    x = np.concatenate([np.repeat(at(0), 100, axis=0), at(90, 90), np.repeat(at(180), 50, axis=0)])
    place = np.random.default_rng(0).permutation(len(x))
    groups = curate.duplicates(build(x[place]), 0.99)
    assert [len(group) for group in groups] == [100, 50, 2]
    assert sorted(place[groups[0]]) == list(range(100))


def test_outliers_by_hand() -> None:
    index = build(at(0, 1, 2, 60, 61))
    assert curate.outliers(index, k=1)[1] == pytest.approx(
        np.cos(np.radians([1] * 5)), abs=1e-6
    )  # the pair hides itself
    order, score = curate.outliers(index, k=2)
    assert order.tolist()[:2] == [4, 3]
    assert score[:2] == pytest.approx(np.cos(np.radians([59, 58])), abs=1e-6)
    order, score = curate.outliers(build(np.array([[0.0], [1], [9]]), metric="l2"), k=1)
    assert (order.tolist(), score.tolist()) == ([2, 0, 1], [8, 1, 1])
    with pytest.raises(UsageError, match="k must be at least 1"):
        curate.outliers(build(at(0, 1)), k=0)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_retrieval_is_that_of_scikit_learn(metric: str, monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 6, 90)
    label[:3] = (-1, 7, -1)  # no label, and a class of one
    x = rng.standard_normal((90, 12)) + 1.5 * rng.standard_normal((9, 12))[label]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit @ unit.T if metric == "cosine" else -np.linalg.norm(x[:, None] - x, axis=2)
    precision, first = [], []
    for query in np.flatnonzero((label >= 0) & (label != 7)):
        others = np.flatnonzero((label >= 0) & (np.arange(90) != query))
        right = label[others] == label[query]
        precision.append(average_precision_score(right, similarity[query, others]))
        first.append(right[np.argsort(-similarity[query, others])].argmax())
    monkeypatch.setattr(curate, "_BLOCK", 1000)
    found = curate.retrieval(build(x, label.tolist(), metric=metric), ks=(1, 3))
    assert found["map"] == pytest.approx(np.mean(precision), abs=1e-6)
    assert found["recall@1"] == np.mean(np.array(first) < 1)
    assert found["recall@3"] == np.mean(np.array(first) < 3)
    assert found["queries"] == 87


def test_retrieval_needs_two_of_a_class() -> None:
    for labels in (None, [0, 1, 2]):
        with pytest.raises(UsageError, match="no class has two images in the index"):
            curate.retrieval(build(at(0, 1, 2), labels))
    assert curate.retrieval(build(at(0, 1, 90), [0, 0, 1]))["map"] == 1


def test_commands(tmp_path: Path) -> None:
    (tmp_path / "encoder").write_text("weights")
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    index = build(at(0, 1, 90, 2), encoder_file=tmp_path / "encoder")
    index.paths = [str(tmp_path / name) for name in index.paths]
    index.save(tmp_path / "index")
    groups = duplicates_command(str(tmp_path / "index"), 0.99, str(tmp_path / "grid.png"))
    assert groups == [[index.paths[place] for place in (0, 1, 3)]]
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.format == "PNG"
    assert outliers_command(str(tmp_path / "index"), count=1, k=1)[0]["path"] == index.paths[2]
    with pytest.raises(UsageError, match="--threshold is 2"):
        duplicates_command(str(tmp_path / "index"), 2)
    with pytest.raises(UsageError, match="--count is 0"):
        outliers_command(str(tmp_path / "index"), 0)
