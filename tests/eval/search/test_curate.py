"""Outliers and retrieval against small cases by hand and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

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
