"""Has a representation collapsed? Two figures that need no labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.eval.knn import unit


def effective_rank(features: NDArray[np.float32]) -> float:
    """How many directions the features use: the exponential of the entropy of their normalised singular values.

    Args:
        features: (N, D), not centred, of more images than there are dimensions: the rank is at most min(N, D).

    Returns:
        From 1, where all features are multiples of one vector, to D, where all directions are used alike; 0 where all
        features are zero.

    Source: Roy & Vetterli 2007, equations 2 to 4; Garrido et al. 2023 (RankMe), equations 1 and 2.

    Example:
        >>> round(effective_rank(np.eye(4, dtype=np.float32)), 4)
        4.0
    """
    singular = np.linalg.svd(np.asarray(features, dtype=np.float64), compute_uv=False)
    share = singular[singular > 0] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def embedding_std(features: NDArray[np.float32]) -> float:
    """How far the directions of the features scatter: mean standard deviation of the unit features, times sqrt(D).

    Args:
        features: (N, D); their lengths do not matter.

    Returns:
        From 0, where all features point in one direction, to 1, where they are uniform on the sphere.

    Source: Chen & He 2021 (SimSiam), section 4.1, which compares the standard deviation with ``1 / sqrt(D)``.

    Example:
        >>> embedding_std(np.ones((4, 3), dtype=np.float32))
        0.0
    """
    scatter = unit(features).std(axis=0, dtype=np.float64)
    return float(scatter.mean() * np.sqrt(features.shape[1]))
