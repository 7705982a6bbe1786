"""Accuracies against scikit-learn, and an interval that holds what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from ssl_toolkit.eval.scores.metrics import MOST_CONFUSED, accuracies, calibration_error, in_percent, interval, rank_of


def test_rank_by_hand() -> None:
    score = np.array([[0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3]])
    np.testing.assert_array_equal(rank_of(score, np.array([1, 0, 0, 2])), [0, 2, 0, 2])


def test_accuracies_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    target = generator.choice(8, 300, p=[0.4, 0.3, 0.1, 0.05, 0.05, 0.05, 0.05, 0.0])  # no image of the last class
    score = generator.standard_normal((300, 8)) + 2 * np.eye(8)[target]
    answer = score.argmax(1)
    found = accuracies(rank_of(score, target), answer, target, 8)
    assert found["top1"] == (answer == target).mean()
    assert found["top5"] == pytest.approx(top_k_accuracy_score(target, score, k=5, labels=range(8)))
    present = target < 7
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found["per_class"] == pytest.approx(balanced_accuracy_score(target[present], answer[present]))
    np.testing.assert_array_equal(found["confusion"], confusion_matrix(target, answer, labels=range(8)))


def test_the_matrix_of_many_classes_is_left_out() -> None:
    zero = np.zeros(3, dtype=np.int64)
    assert "confusion" in accuracies(zero, zero, zero, MOST_CONFUSED)
    assert "confusion" not in accuracies(zero, zero, zero, MOST_CONFUSED + 1)


def test_the_interval_is_the_percentile_bootstrap() -> None:
    outcomes = np.arange(500) < 400
    draws = np.random.default_rng(1).choice(outcomes, (4000, 500)).mean(1)
    assert interval(0.8, 500) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=3e-3)
    assert interval(0.8, 500, confidence=0.5) == pytest.approx(np.percentile(draws, [25, 75]), abs=3e-3)
    assert interval(0.8, 500) == interval(0.8, 500)
    assert interval(1.0, 500) == [1, 1]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    ends = np.array([interval(share, 400) for share in generator.binomial(400, 0.7, 300) / 400])
    assert 0.92 <= ((ends[:, 0] <= 0.7) & (ends[:, 1] >= 0.7)).mean() <= 0.98


def test_a_score_as_text() -> None:
    assert in_percent({"top1": 0.643, "interval": [0.634, 0.652]}) == "64.3 ±0.9"
    assert in_percent({"top1": 0.5}) == "50.0"


def naive_calibration_error(p: np.ndarray, target: np.ndarray, bins: int = 15) -> float:
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        rows = [i for i in range(len(p)) if low < p[i].max() <= high]
        if rows:
            accuracy = np.mean([p[i].argmax() == target[i] for i in rows])
            error += len(rows) / len(p) * abs(accuracy - np.mean([p[i].max() for i in rows]))
    return error


def test_calibration_error_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 300)
    target = rng.integers(0, 4, 300)
    assert calibration_error(p, target) == pytest.approx(naive_calibration_error(p, target), abs=1e-12)
    assert calibration_error(p, target, bins=3) == pytest.approx(naive_calibration_error(p, target, 3), abs=1e-12)


def test_calibration_error_of_known_answers() -> None:
    sure = np.array([[1.0, 0.0]] * 4)
    assert calibration_error(sure, np.array([0, 0, 0, 1])) == pytest.approx(0.25)
    even = np.array([[0.75, 0.25]] * 4)
    assert calibration_error(even, np.array([0, 0, 0, 1])) == pytest.approx(0)  # errors within a bin cancel
    apart = np.array([[0.9, 0.1], [0.6, 0.4]])
    assert calibration_error(apart, np.array([1, 0])) == pytest.approx((0.9 + 0.4) / 2)  # those between bins do not
