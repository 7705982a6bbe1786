"""The strength of a penalty: tried from strong to weak, chosen on what was held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, stratified_split
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.penalty import choose_strength

TRAIN = Features(np.repeat([[-1.0], [1.0]], 10, axis=0).astype(np.float32), np.repeat([0, 1], 10), np.arange(20))


def threshold(at: float) -> LinearClassifier:
    """Class 1 from `at` on."""
    return LinearClassifier(
        torch.tensor([[0.0, 1.0]]), torch.tensor([at, 0.0]), torch.zeros(1), torch.ones(1), np.array([0, 1])
    )


def test_the_first_of_the_best_from_strong_to_weak_and_three_more() -> None:
    right = {10.0: -5.0, 1.0: 0.0, 0.1: 0.0, 0.01: 5.0, 1e-3: 0.0, 1e-4: 0.0}
    seen = []

    def solver(fit: Features):
        seen.append(fit.index.tolist())
        return lambda l2: threshold(right[l2])

    l2, path = choose_strength(TRAIN, list(right)[::-1], solver, held_out=0.2, seed=7)
    assert l2 == 1.0
    assert path == [
        {"l2": 10.0, "top1": 0.5}, {"l2": 1.0, "top1": 1.0}, {"l2": 0.1, "top1": 1.0}, {"l2": 0.01, "top1": 0.5},
        {"l2": 1e-3, "top1": 1.0},
    ]  # fmt: skip
    assert seen == [stratified_split(TRAIN.label, 0.2, seed=7)[0].tolist()]


def test_one_strength_is_no_choice() -> None:
    assert choose_strength(TRAIN, [0.5], lambda fit: pytest.fail("nothing to fit")) == (0.5, [])


@pytest.mark.parametrize("wrong", [(), (0.0,), (1.0, -1.0), (float("nan"),)])
def test_wrong_strengths(wrong: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="strengths of the penalty must be above 0"):
        choose_strength(TRAIN, wrong, lambda fit: threshold)
