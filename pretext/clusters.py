"""Clusters of what was measured: k-means, and the nearest of its centroids."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def k_means(x: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.float32]:
    """Centroids by k-means (FAISS).

    Args:
        x: (N, D), N at least `count`.
        count: Clusters.
        seed: Decides the first centroids; with it, the same on every machine of the same libraries: one thread.

    Returns:
        (count, D).
    """
    means = faiss.Kmeans(
        x.shape[1], count, niter=25, seed=seed, min_points_per_centroid=1, max_points_per_centroid=4096
    )
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        means.train(np.ascontiguousarray(x, dtype=np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(means.centroids, dtype=np.float32)


def nearest_cluster(x: Tensor, centroid: Tensor) -> Tensor:
    """The number of the nearest centroid (K, D) of each point (..., D), int64."""
    return (x[..., None, :] - centroid).square().sum(dim=-1).argmin(dim=-1)
