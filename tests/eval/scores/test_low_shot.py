"""Few labels: draws are nested and stratified, more labels help, and the test set chooses nothing."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.scores.linear_probe import linear_probe
from ssl_toolkit.eval.scores.low_shot import draw_labels, low_shot


def blobs(count: int, seed: int, classes: int = 4) -> Features:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, classes, count)
    centre = np.random.default_rng(99).standard_normal((classes, 12))
    x = centre[label] + 1.2 * generator.standard_normal((count, 12))
    return Features(x.astype(np.float32), label, np.arange(count))


def test_more_labels_help_and_all_of_them_are_the_linear_probe() -> None:
    train, test = blobs(600, 0), blobs(500, 1)
    found = low_shot(train, test, (1, 10, 0.2, 1000), repeats=3)
    rows = found["budgets"]
    assert [row["images"] for row in rows[:2]] == [4, 40]
    assert rows[2]["images"] == pytest.approx(120, abs=2)
    assert rows[3]["images"] == 600
    assert rows[0]["top1"] < rows[1]["top1"] < rows[3]["top1"]
    assert rows[3]["draws"][0] == linear_probe(train, test)["top1"]
    assert found["top1"] == rows[0]["top1"]
    assert low_shot(train, test, (1, 0.01), repeats=1)["top1"] == low_shot(train, test, (0.01,), repeats=1)["top1"]
    for row in rows:
        assert row["top1"] == pytest.approx(np.mean(row["draws"]))
        assert row["std"] == pytest.approx(np.std(row["draws"], ddof=1))
    assert rows[0]["std"] > 0
    assert low_shot(train, test, (1, 10), repeats=3)["budgets"] == rows[:2]


def test_draws_are_stratified_nested_and_differ() -> None:
    label = np.repeat([0, 1, 2], (100, 10, 1))
    one, five, share = (draw_labels(label, budget, 0) for budget in (1, 5, 0.1))
    assert np.bincount(label[one]).tolist() == [1, 1, 1]
    assert np.bincount(label[five]).tolist() == [5, 5, 1]
    assert np.bincount(label[share]).tolist() == [10, 1, 1]
    assert set(one) <= set(five)
    assert not np.array_equal(five, draw_labels(label, 5, 0, 1))
    assert not np.array_equal(five, draw_labels(label, 5, 1, 0))


@pytest.mark.parametrize(("budgets", "repeats"), [((), 1), ((0,), 1), ((-0.5,), 1), ((1,), 0)])
def test_wrong_budgets_are_named(budgets: tuple[float, ...], repeats: int) -> None:
    with pytest.raises(UsageError, match="must be above 0 and repeats at least 1"):
        low_shot(blobs(40, 0), blobs(40, 1), budgets, repeats)
