"""kNN: votes by hand, the same predictions as scikit-learn, and a choice of k that sees the training set alone."""

from __future__ import annotations

import importlib
import math
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, stratified_split
from ssl_toolkit.eval.scores.knn import knn, nearest, select_k

module = importlib.import_module("ssl_toolkit.eval.scores.knn")  # the package has its function


def make(x: NDArray[np.floating], label: list[int] | NDArray[np.int64]) -> Features:
    return Features(np.asarray(x, np.float32), np.asarray(label, np.int64), np.arange(len(label)))


def blobs(count: int, seed: int = 0, width: int = 16, classes: int = 7, spread: float = 1.5) -> Features:
    """Classes that overlap, around centres that do not depend on the seed."""
    generator = np.random.default_rng(seed)
    centre = np.random.default_rng(99).standard_normal((classes, width))
    label = generator.integers(0, classes, count)
    return make(centre[label] + spread * generator.standard_normal((count, width)), label)


def at(*degrees: float) -> NDArray[np.floating]:
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_a_weighted_vote_by_hand() -> None:
    train = make(at(0, 50, 60), [1, 0, 0])
    # cos 0 = 1, cos 50 = .643, cos 60 = .5: at T = .5, class 1 has e^2 = 7.39 and class 0 e^1.29 + e^1 = 6.34;
    # at T = 1 it is 2.72 against 3.55.
    assert knn(train, make(at(0), [1]), k=3, temperature=0.5)["top1"] == 1
    assert knn(train, make(at(0), [1]), k=3, temperature=1)["top1"] == 0
    assert knn(train, make(at(0), [1]), k=3, temperature=0.5, vote="plain")["top1"] == 0
    assert knn(train, make(at(0), [1]), k=2, temperature=0.5, vote="plain")["top1"] == 0  # 1 : 1, the lower label
    assert knn(train, make(at(0), [1]), k=1, temperature=0.5, vote="plain")["top1"] == 1


def test_l2_by_hand() -> None:
    train = make(np.array([[0.0], [3.0], [3.5]]), [1, 0, 0])
    query = make(np.array([[1.0]]), [1])
    # Half squared distances .5, 2, 3.125. T = 1: e^-.5 = .607 against e^-2 + e^-3.125 = .179. T = 10: .951 : 1.551.
    assert knn(train, query, k=3, temperature=1, metric="l2")["top1"] == 1
    assert knn(train, query, k=3, temperature=10, metric="l2")["top1"] == 0


def test_top5_counts_classes_before_the_true_one_and_needs_a_vote() -> None:
    train = make(at(0, 10, 20, 30, 40, 50, 60), [6, 5, 4, 3, 2, 1, 0])
    test = make(at(0, 0, 0), [6, 2, 1])  # ranks 0, 4, 5
    found = knn(train, test, k=7)
    assert (found["top1"], found["top5"], found["k"], found["temperature"]) == (1 / 3, 2 / 3, 7, 0.1)
    assert np.array(found["confusion"])[[1, 2, 6], 6].tolist() == [1, 1, 1]  # all three are taken for the nearest
    # With one neighbour five of the seven classes have no vote: they are no guess, however low their label.
    assert knn(train, test, k=1)["top5"] == 1 / 3
    assert knn(train, make(at(0), [0]), k=1)["top5"] == 0


@pytest.mark.parametrize("k", [1, 4, 20, 150])
@pytest.mark.parametrize("vote", ["plain", "weighted"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "l1"])
def test_the_same_predictions_as_scikit_learn(metric: str, vote: str, k: int) -> None:
    train, test = blobs(500, seed=1), blobs(300, seed=2)
    temperature = 0.1 if metric == "cosine" else 8.0

    def weights(distance: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.exp((-(distance**2) / 2 if metric == "l2" else -distance) / temperature)

    other = KNeighborsClassifier(
        k,
        metric={"cosine": "cosine", "l2": "euclidean", "l1": "manhattan"}[metric],
        algorithm="brute",
        weights=weights if vote == "weighted" else "uniform",
    )
    predicted = other.fit(train.x.astype(np.float64), train.label).predict(test.x.astype(np.float64))
    assert knn(train, make(test.x, predicted), k, temperature, metric, vote)["top1"] == 1
    expected = float((predicted == test.label).mean())
    assert knn(train, test, k, temperature, metric, vote)["top1"] == expected
    assert 0.3 < expected < 0.9


def test_on_unit_vectors_l2_votes_like_cosine() -> None:
    train, test = blobs(300, seed=1), blobs(200, seed=2)
    for part in (train, test):
        part.x[:] /= np.linalg.norm(part.x, axis=1, keepdims=True)
    assert knn(train, test, metric="l2") == knn(train, test, metric="cosine")


def test_labels_need_not_be_consecutive() -> None:
    train, test = blobs(300, seed=1), blobs(200, seed=2)
    renamed = [make(part.x, part.label * 1000 + 5) for part in (train, test)]
    assert knn(*renamed) == knn(train, test)


def test_more_neighbours_than_images_means_all() -> None:
    train, test = blobs(10, seed=1), blobs(50, seed=2)
    test = test.select(np.flatnonzero(np.isin(test.label, train.label)))
    assert knn(train, test, k=99) == knn(train, test, k=10)
    assert knn(train, test, k=99)["k"] == 10


def test_a_tiny_temperature_and_huge_distances_do_not_overflow() -> None:
    train, test = blobs(100, seed=1), blobs(100, seed=2)
    far = make(test.x + 1e6, test.label)
    with np.errstate(over="raise", invalid="raise"):
        assert 0 <= knn(train, far, temperature=1e-6, metric="l2")["top1"] <= 1
        assert knn(train, test, temperature=1e-6) == {**knn(train, test, k=1), "k": 20, "temperature": 1e-6}


@pytest.mark.parametrize("metric", ["cosine", "l2", "l1"])
@pytest.mark.parametrize("k", [1, 20, 150])
@pytest.mark.parametrize("queries", [3, 100])
def test_nearest_is_exact(metric: str, k: int, queries: int) -> None:
    bank, query = blobs(400, seed=1).x, blobs(queries, seed=2).x
    similarity, position = nearest(bank, query, k, metric)
    a, b = query.astype(np.float64), bank.astype(np.float64)
    if metric == "cosine":
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
        exact = a @ b.T
    elif metric == "l1":
        exact = -np.abs(a[:, None] - b).sum(axis=2)
    else:
        exact = -((a[:, None] - b) ** 2).sum(axis=2) / 2
    np.testing.assert_array_equal(position, np.argsort(-exact, axis=1)[:, :k])
    np.testing.assert_allclose(similarity, -np.sort(-exact, axis=1)[:, :k], rtol=1e-4, atol=1e-5)
    assert (similarity.dtype, position.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("queries", [3, 100])
def test_equally_near_ones_come_in_order(metric: str, queries: int) -> None:
    generator = np.random.default_rng(0)
    # Small whole numbers of one length: many exact ties, no rounding.
    bank = np.eye(4, dtype=np.float32)[generator.integers(0, 4, 300)] * 2
    query = np.eye(4, dtype=np.float32)[generator.integers(0, 4, queries)] * 2
    position = nearest(bank, query, 200, metric)[1]
    exact = query @ bank.T
    found = np.take_along_axis(exact, position, axis=1)
    np.testing.assert_array_equal(found, -np.sort(-exact, axis=1)[:, :200])
    assert (np.diff(position, axis=1)[np.diff(found, axis=1) == 0] > 0).all()
    np.testing.assert_array_equal(nearest(bank, query, 200, metric)[1], position)
    # Before the last of the 200 places, where FAISS picks among equals, the order is the whole of it.
    np.testing.assert_array_equal(position[:, :60], np.argsort(-exact, axis=1, kind="stable")[:, :60])


def test_queries_in_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = blobs(400, seed=1), blobs(250, seed=2)
    whole = [knn(train, test, metric=metric) for metric in ("cosine", "l2")]
    monkeypatch.setattr(module, "_QUERIES", 100)
    monkeypatch.setattr(module, "_BANK", 16 * 150)  # three blocks
    monkeypatch.setattr(module, "_VOTES", 64)
    assert [knn(train, test, metric=metric) for metric in ("cosine", "l2")] == whole


@pytest.mark.parametrize("metric", ["cosine", "l2", "l1"])
def test_without_a_test_set_each_image_asks_all_others(metric: str) -> None:
    train = blobs(60, seed=1, classes=3)
    others = [np.delete(np.arange(60), row) for row in range(60)]
    apart = [knn(train.select(rest), train.select(np.array([row])), metric=metric) for row, rest in enumerate(others)]
    found = knn(train, None, metric=metric)
    assert found["top1"] == pytest.approx(np.mean([each["top1"] for each in apart]))
    assert found["top5"] == pytest.approx(np.mean([each["top5"] for each in apart]))
    assert found["k"] == 20
    equal = make(np.ones((50, 4)), [0] * 26 + [1] * 24)
    assert knn(equal, None, k=3, vote="plain")["top1"] == 0.52  # of equal ones the first three, all of class 0
    with pytest.raises(UsageError, match="leaving one out needs two images"):
        knn(train.select(np.array([0])), None)


def test_a_zero_row_is_near_to_nothing_and_arguments_stay_as_they_were() -> None:
    bank = np.array([[0, 0], [1, 0], [-1, 0]], dtype=np.float32)
    query = np.array([[2, 0], [0, 0]], dtype=np.float32)
    bank.flags.writeable = query.flags.writeable = False  # as a memory-mapped file is
    similarity, position = nearest(bank, query, 3)
    np.testing.assert_array_equal(similarity, [[1, 0, -1], [0, 0, 0]])
    np.testing.assert_array_equal(position, [[1, 0, 2], [0, 1, 2]])
    np.testing.assert_array_equal(nearest(bank, query, 1, "l2")[1], [[1], [0]])


def test_select_k_scores_a_part_of_the_training_set_against_the_rest() -> None:
    train = blobs(500)
    fit, held = stratified_split(train.label, 0.2, seed=3)
    choice = select_k(train, ks=(50, 1, 10), temperatures=(0.2, 0.02), seed=3)
    assert [(row["k"], row["temperature"]) for row in choice.tried] == [
        (1, 0.2), (1, 0.02), (10, 0.2), (10, 0.02), (50, 0.2), (50, 0.02),
    ]  # fmt: skip
    for row in choice.tried:
        again = knn(train.select(fit), train.select(held), int(row["k"]), row["temperature"])
        assert row["top1"] == again["top1"]
    assert choice.top1 == max(row["top1"] for row in choice.tried)
    assert {"k": choice.k, "temperature": choice.temperature, "top1": choice.top1} in choice.tried


def test_select_k_never_lets_an_image_vote_for_itself() -> None:
    train = blobs(1000)
    train.label[:] = np.random.default_rng(5).integers(0, 7, 1000)  # nothing to learn: each would know itself only
    choice = select_k(train, ks=(1, 5))
    assert choice.top1 < 0.25
    assert knn(train, train, k=1)["top1"] == 1


def test_of_equal_scores_the_smallest_k_and_the_first_temperature_win() -> None:
    far_apart = blobs(200, spread=0.01)
    choice = select_k(far_apart, ks=(10, 5, 20), temperatures=(0.2, 0.1))
    assert (choice.k, choice.temperature, choice.top1) == (5, 0.2, 1)
    assert len({row["top1"] for row in choice.tried}) == 1


def test_select_k_clamps_and_a_plain_vote_has_no_temperature() -> None:
    choice = select_k(blobs(50), ks=(1, 100, 200), vote="plain")
    assert [row["k"] for row in choice.tried] == [1, len(stratified_split(blobs(50).label, 0.2, seed=0)[0])]


def test_wrong_arguments_name_what_they_got() -> None:
    train = blobs(50)
    with pytest.raises(UsageError, match=r"unknown metric 'cosin': did you mean cosine"):
        knn(train, train, metric="cosin")
    with pytest.raises(UsageError, match=r"unknown vote 'weight': did you mean weighted"):
        knn(train, train, vote="weight")
    with pytest.raises(UsageError, match=r"k must be at least 1, got \[0\]"):
        knn(train, train, k=0)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="temperature must be above 0"):
            knn(train, train, temperature=wrong)
    with pytest.raises(UsageError, match=r"k must be at least 1, got \[\]"):
        select_k(train, ks=())
    with pytest.raises(UsageError, match="have no label"):
        knn(train, make(train.x, np.full(50, -1)))
    with pytest.raises(UsageError, match="in the test set but not in the training set: labels 8"):
        knn(train, make(train.x[:1], [8]))
    with pytest.raises(UsageError, match="no class has two"):
        select_k(make(at(0, 1), [0, 1]))


def test_faiss_and_torch_take_turns_without_a_stall() -> None:
    threads = torch.get_num_threads()
    bank, query, weight = blobs(5000).x, blobs(50, seed=1).x, torch.randn(256, 256)
    start = time.monotonic()
    try:
        torch.set_num_threads(2)
        for _ in range(20):
            nearest(bank, query, 10)
            weight @ weight
    finally:
        torch.set_num_threads(threads)
    assert time.monotonic() - start < 20  # some 50 ms, or minutes where thread pools wait for one another
