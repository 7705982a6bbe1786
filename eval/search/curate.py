"""What an index says of a collection of images: outliers, and how well classes are retrieved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search.index import EmbeddingIndex

_BLOCK = 1 << 24  # similarities at once


def outliers(index: EmbeddingIndex, k: int = 10) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All images, those farthest from all others first.

    Args:
        index: What to look through.
        k: An image is as far out as its k-th nearest other is away, so that up to k alike do not hide each other.

    Returns:
        Positions, (N,), and the cosine or distance to the k-th nearest other of each.

    Raises:
        UsageError: `k` is below 1, or there are no others.

    Source: Ramaswamy et al. 2000, Efficient algorithms for mining outliers from large data sets.

    Examples:
        >>> x = np.array([[9, 1], [9, 2], [9, 3], [1, 9]], dtype=np.float32)
        >>> index = EmbeddingIndex.build(x, list("abcd"), encoder_file="encoder.safetensors", encoder_sha256="0")
        >>> position, cosine = outliers(index, k=1)
        >>> position[:1], cosine[:1].round(2)
        (array([3]), array([0.42], dtype=float32))
    """
    if k < 1 or len(index) < 2:
        raise UsageError(f"k must be at least 1 and the index hold two images, got {k} and {len(index)}")
    score = index.neighbours(k)[0][:, -1]
    order = np.argsort(score if index.metric == "cosine" else -score, kind="stable")
    return order, score[order]


def retrieval(index: EmbeddingIndex, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Any]:
    """How well an image finds the others of its class: each labelled image asks all other labelled ones, exactly.

    Args:
        index: With labels.
        ks: For recall.

    Returns:
        `map`, the mean over the queries of the average precision of the whole ranking; `recall@k`, the share of queries
        with one of their class among the k first; `queries`, those whose class has another image. Of equally near
        images the one that the index holds first ranks first.

    Raises:
        UsageError: No class has two images.

    Source: Manning et al. 2008, Introduction to information retrieval, section 8.4 (mean average precision); recall
    as in Musgrave et al. 2020, A metric learning reality check.

    Examples:
        >>> x = np.array([[9, 1], [8, 1], [1, 9], [1, 8]], dtype=np.float32)
        >>> made_by = {"encoder_file": "encoder.safetensors", "encoder_sha256": "0"}
        >>> index = EmbeddingIndex.build(x, list("abcd"), np.array([0, 0, 1, 1]), **made_by)
        >>> retrieval(index, ks=(1,))
        {'map': 1.0, 'recall@1': 1.0, 'queries': 4}
    """
    if not ks or min(ks) < 1:
        raise UsageError(f"k must be at least 1, got {list(ks)}")
    labels = np.full(len(index), -1) if index.labels is None else index.labels
    rows = np.flatnonzero(labels >= 0)
    label, vectors = labels[rows], np.asarray(index.vectors[rows], dtype=np.float32)
    _, number, count = np.unique(label, return_inverse=True, return_counts=True)
    asking = np.flatnonzero(count[number] > 1)
    if not len(asking):
        raise UsageError("no class has two images in the index, so there is nothing to retrieve")
    square = (vectors**2).sum(axis=1)
    precision, first = np.empty(len(asking)), np.empty(len(asking), dtype=np.int64)
    step = max(_BLOCK // len(rows), 1)
    for start in range(0, len(asking), step):
        own = asking[start : start + step]
        similarity = vectors[own] @ vectors.T
        if index.metric == "l2":
            similarity = 2 * similarity - square
        similarity[np.arange(len(own)), own] = -np.inf  # comes last
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        right = label[order] == label[own][:, None]
        rank = np.arange(1, order.shape[1] + 1)
        found = np.cumsum(right, axis=1)
        precision[start : start + step] = (right * found / rank).sum(axis=1) / right.sum(axis=1)
        first[start : start + step] = right.argmax(axis=1)
    recall = {f"recall@{k}": float((first < k).mean()) for k in ks}
    return {"map": float(precision.mean()), **recall, "queries": len(asking)}
