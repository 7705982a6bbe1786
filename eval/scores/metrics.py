"""What is made of answers: accuracies, overall and by class, how sure they are, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.randomness import numpy_generator

MOST_CONFUSED = 100
"""Up to this many classes `accuracies` gives the confusion matrix."""

_RESAMPLES = 10_000


def rank_of(score: NDArray[Any], target: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the true one, (N,).

    A class comes before another if its score is larger, or equal and its number lower.

    Args:
        score: (N, K), larger is better.
        target: (N,) in [0, K): the true class.
    """
    own = np.take_along_axis(score, target[:, None], axis=1)
    before = (score > own) | ((score == own) & (np.arange(score.shape[1]) < target[:, None]))
    rank: NDArray[np.int64] = before.sum(axis=1)
    return rank


def accuracies(
    rank: NDArray[np.int64], answer: NDArray[np.int64], target: NDArray[np.int64], classes: int
) -> dict[str, Any]:
    """What `results.json` says of the answers to one test set.

    Args:
        rank: (N,), how many classes were put before the true one.
        answer: (N,) in [0, classes): the class that was put first.
        target: (N,) in [0, classes): the true class.
        classes: Number of classes.

    Returns:
        `top1` and `top5`, in [0, 1]; `interval`, where `top1` lies with 95 % confidence (`interval`); `per_class`, the
        mean over the classes of the share of each that was named right; and, of at most `MOST_CONFUSED` classes,
        `confusion`, a row a true class, a column an answer, counts.

    Examples:
        >>> found = accuracies(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), 2)
        >>> found["top1"], found["per_class"], found["confusion"]
        (0.75, 0.5, [[3, 0], [1, 0]])
    """
    right = np.bincount(target[rank < 1], minlength=classes)
    count = np.bincount(target, minlength=classes)
    top1 = float((rank < 1).mean())
    found: dict[str, Any] = {
        "top1": top1,
        "top5": float((rank < 5).mean()),
        "interval": interval(top1, len(rank)),
        "per_class": float((right[count > 0] / count[count > 0]).mean()),
    }
    if classes <= MOST_CONFUSED:
        cells = np.bincount(target * classes + answer, minlength=classes**2)
        found["confusion"] = cells.reshape(classes, classes).tolist()
    return found


def calibration_error(p: NDArray[np.floating[Any]], target: NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from accuracy, over answers of like confidence.

    Args:
        p: (N, K) probabilities.
        target: (N,) in [0, K): the true class.
        bins: Of equal width in [0, 1], each closed above; each counts as many times as it has answers.

    Returns:
        From 0, where of the answers given with confidence c a share of c is right, to 1.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3, with its 15 bins.

    Examples:
        >>> calibration_error(np.array([[0.75, 0.25], [0.25, 0.75]]), np.array([0, 0]))
        0.25
    """
    confidence, right = p.max(axis=1).astype(np.float64), p.argmax(axis=1) == target
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(target))


def interval(share: float, count: int, confidence: float = 0.95, seed: int = 0) -> list[float]:
    """Percentile bootstrap interval of an accuracy: how far another test set of this size might move it.

    Drawing `count` outcomes with replacement, a `share` of which are right, is drawing from a binomial distribution.

    Args:
        share: Accuracy in [0, 1].
        count: Size of the test set.
        confidence: In (0, 1).
        seed: Of the resamples.

    Returns:
        Lower and upper end, in [0, 1].

    Source: Efron & Tibshirani 1993, An introduction to the bootstrap, chapter 13.

    Examples:
        >>> low, high = interval(0.8, count=1000)
        >>> 0.76 < low < 0.8 < high < 0.84
        True
    """
    draws = numpy_generator(seed, "bootstrap").binomial(count, share, _RESAMPLES) / count
    tail = 50 * (1 - confidence)
    return [float(end) for end in np.percentile(draws, (tail, 100 - tail))]


def in_percent(found: Mapping[str, Any]) -> str:
    """An accuracy and half its interval, ``64.3 ±0.9``; without the latter where there is none."""
    text = f"{100 * found['top1']:.1f}"
    if "interval" not in found:
        return text
    return f"{text} ±{half_interval(found):.1f}"


def half_interval(found: Mapping[str, Any]) -> float:
    """Half of an accuracy's interval, in percentage points; 0 where there is none."""
    low, high = found.get("interval", (0.0, 0.0))
    return 50 * float(high - low)
