"""Few labels: linear probes on a few images of each class, or on a small share of them, over many draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, check_labelled
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.linear_probe import fit_softmax, linear_probe
from ssl_toolkit.eval.scores.penalty import STRENGTHS, choose_strength
from ssl_toolkit.randomness import numpy_generator

BUDGETS = (1, 5, 10, 0.01, 0.1)
"""Labels that are used by default: images a class, or shares of each class."""

_LONE = (0.1,)  # strength of the penalty where classes have one image each, and so none to choose on


def low_shot(
    train: Features, test: Features, budgets: Sequence[int | float] = BUDGETS, repeats: int = 5, seed: int = 0
) -> dict[str, Any]:
    """Accuracy of linear probes that see few of the labels.

    Each draw takes as many images of each class as the budget says, at least one, and at most all; `linear_probe`
    chooses its penalty on a part of them.

    Args:
        train: Labelled features, (N, D).
        test: Labelled features, (M, D), of classes that `train` knows.
        budgets: A whole number is images a class; a number below 1 is a share of each class.
        repeats: Draws of each budget.
        seed: Of the draws. A draw of a larger budget holds that of a smaller one.

    Returns:
        `budgets`, a row each with `labels` as it was given, the number of `images`, mean `top1` and its standard
        deviation `std` over the draws, and all of them, `draws`; and the `top1` of one percent, or of the first
        budget where that is not among them.

    Raises:
        UsageError: A budget is not above 0, or there are no repeats; as for `linear_probe`.

    Source: the protocol of Chen et al. 2020 (SimCLR), section 6 (1 % and 10 %), on frozen features.

    Examples:
        >>> label = np.arange(2).repeat(4)
        >>> x = np.eye(2, dtype=np.float32)[label]
        >>> train, test = Features(x, label, np.arange(8)), Features(x[::4], label[::4], np.arange(2))
        >>> low_shot(train, test, budgets=(2,), repeats=3)["budgets"][0]["images"]
        4
    """
    check_labelled(train, test)
    if not budgets or min(budgets) <= 0 or repeats < 1:
        raise UsageError(f"budgets of labels must be above 0 and repeats at least 1, got {list(budgets)} and {repeats}")
    rows = []
    for budget in budgets:
        draws, images = [], 0
        for draw in range(repeats):
            chosen = train.select(draw_labels(train.label, budget, seed, draw))
            images = len(chosen)
            draws.append(linear_probe(chosen, test, _strengths(chosen.label), seed=draw)["top1"])
        row = {"labels": budget, "images": images, "top1": float(np.mean(draws))}
        rows.append({**row, "std": float(np.std(draws, ddof=1)) if repeats > 1 else 0.0, "draws": draws})
    return {"top1": next((row for row in rows if row["labels"] == 0.01), rows[0])["top1"], "budgets": rows}


def fit_probe(train: Features, seed: int = 0) -> LinearClassifier:
    """The probe that `low_shot` scores: softmax regression whose penalty is chosen on a part of the labels, if it can.

    Args:
        train: Labelled features, (N, D), however few.
        seed: Of the split to choose on.
    """
    l2, _ = choose_strength(train, _strengths(train.label), lambda fit: partial(fit_softmax, fit), seed=seed)
    return fit_softmax(train, l2)


def _strengths(label: NDArray[np.int64]) -> Sequence[float]:
    return _LONE if np.unique(label, return_counts=True)[1].max() == 1 else STRENGTHS


def draw_labels(label: NDArray[np.int64], budget: int | float, seed: int, draw: int = 0) -> NDArray[np.int64]:
    """Positions of the images whose labels may be used, in rising order.

    Args:
        label: (N,) int64.
        budget: A whole number is images a class, at most all; below 1, a share of each class, at least one image.
        seed: Of the draws. A draw of a larger budget holds that of a smaller one.
        draw: Number of the draw.
    """
    generator = numpy_generator(seed, "low shot", draw)
    chosen = []
    for one in np.unique(label):
        rows = generator.permutation(np.flatnonzero(label == one))
        chosen.append(rows[: max(1, round(budget * len(rows)) if budget < 1 else int(budget))])
    return np.sort(np.concatenate(chosen))
