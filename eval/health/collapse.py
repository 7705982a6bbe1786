"""Has a representation collapsed? Figures that need no labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.eval.scores.knn import unit


def effective_rank(features: NDArray[np.float32]) -> float:
    """How many directions the features use: the exponential of the entropy of their normalised singular values.

    Args:
        features: (N, D), not centred, of more images than there are dimensions: the rank is at most min(N, D).

    Returns:
        From 1, where all features are multiples of one vector, to D, where all directions are used alike; 0 where all
        features are zero.

    Source: Roy & Vetterli 2007, equations 2 to 4; Garrido et al. 2023 (RankMe), equations 1 and 2.

    Examples:
        >>> round(effective_rank(np.eye(4, dtype=np.float32)), 4)
        4.0
    """
    x = np.asarray(features, dtype=np.float64)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x  # many times faster than the singular values themselves
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    share = singular[singular > 0] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def embedding_std(features: NDArray[np.float32]) -> float:
    """How far the directions of the features scatter: mean standard deviation of the unit features, times sqrt(D).

    Args:
        features: (N, D); their lengths do not matter.

    Returns:
        From 0, where all features point in one direction, to 1, where they are uniform on the sphere.

    Source: Chen & He 2021 (SimSiam), section 4.1, which compares the standard deviation with ``1 / sqrt(D)``.

    Examples:
        >>> embedding_std(np.ones((4, 3), dtype=np.float32))
        0.0
    """
    scatter = unit(features).std(axis=0, dtype=np.float64)
    return float(scatter.mean() * np.sqrt(features.shape[1]))


def alignment(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How far apart two views of an image are: mean squared distance of their unit features.

    Args:
        one: (N, D) features of one view of each image.
        other: (N, D) features of another.

    Returns:
        From 0, where views agree, to 4; 2 where they have nothing in common.

    Source: Wang & Isola 2020, section 4.1.1, with exponent 2.

    Examples:
        >>> alignment(np.eye(2, dtype=np.float32), 3 * np.eye(2, dtype=np.float32)[::-1])
        2.0
    """
    return float(((unit(one) - unit(other)) ** 2).sum(axis=1, dtype=np.float64).mean())


def uniformity(features: NDArray[np.float32]) -> float:
    """How evenly unit features fill the sphere: logarithm of the mean of exp(-2 times squared distance) over pairs.

    Args:
        features: (N, D), N at least 2; some thousands are enough, since all pairs are looked at.

    Returns:
        From 0, where all features point in one direction, down to about -4, where they are uniform on the sphere.

    Source: Wang & Isola 2020, section 4.1.2, with t = 2.

    Examples:
        >>> uniformity(np.eye(2, dtype=np.float32))
        -4.0
    """
    x = unit(features).astype(np.float64)
    squared = np.maximum(2 - 2 * (x @ x.T), 0)[np.triu_indices(len(x), 1)]
    return float(np.log(np.exp(-2 * squared).mean()))
