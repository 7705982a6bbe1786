"""FAISS on GPUs, where the build of FAISS that is installed has them: what costs most is done there."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from faiss.contrib.ivf_tools import add_preassigned
from numpy.typing import NDArray

_ADDED = 1 << 16  # rows at once
_SEARCHED = 1 << 22  # rows of exact search at once


def on_gpus(index: Any) -> Any:
    """The same index on all GPUs; where there are none, itself."""
    return faiss.index_cpu_to_all_gpus(index) if faiss.get_num_gpus() else index


def train(index: Any, sample: NDArray[np.float32]) -> None:
    """Train an index on vectors (n, D); its lists' centres are found on GPUs.

    Raises:
        RuntimeError: FAISS's, of too few vectors.
    """
    there = None
    if isinstance(index, faiss.IndexIVF) and faiss.get_num_gpus():
        there = on_gpus(faiss.IndexFlat(index.d, index.metric_type))
        index.clustering_index = there  # FAISS does not keep it alive
    index.train(np.ascontiguousarray(sample))
    if there is not None:
        index.clustering_index = None


def filled(index: Any, vectors: NDArray[np.float32], first: int | None = None) -> Any:
    """The index with vectors (n, D) added to it, block by block; GPUs find the list of each.

    Args:
        index: Trained.
        vectors: What is added.
        first: Number of the first of them, for an index of inverted lists; None: they are numbered on.
    """
    ivf = index if isinstance(index, faiss.IndexIVF) else None
    coarse = on_gpus(faiss.downcast_index(ivf.quantizer)) if ivf is not None and faiss.get_num_gpus() else None
    start_id = index.ntotal if first is None else first
    for start in range(0, len(vectors), _ADDED):
        block = np.ascontiguousarray(vectors[start : start + _ADDED])
        ids = np.arange(start_id + start, start_id + start + len(block))
        if coarse is not None:
            add_preassigned(ivf, block, coarse.search(block, 1)[1].ravel(), ids)
        elif first is None:
            index.add(block)
        else:
            index.add_with_ids(block, ids)
    return index


def nearest_on_gpus(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], count: int, metric: int
) -> NDArray[np.int64]:
    """Positions of the nearest vectors by exact search on GPUs, (M, count); vectors go there block by block.

    Args:
        vectors: (N, D).
        queries: (M, D).
        count: At most N.
        metric: FAISS's, ``METRIC_INNER_PRODUCT`` or ``METRIC_L2``.
    """
    sign = -1 if metric == faiss.METRIC_INNER_PRODUCT else 1
    far = np.empty((len(queries), 0), np.float32)
    position = np.empty((len(queries), 0), np.int64)
    index = on_gpus(faiss.IndexFlat(vectors.shape[1], metric))
    for start in range(0, len(vectors), _SEARCHED):
        index.reset()
        index.add(np.ascontiguousarray(vectors[start : start + _SEARCHED]))
        found, place = index.search(queries, min(count, index.ntotal))
        far = np.concatenate([far, sign * found], axis=1)
        position = np.concatenate([position, place + start], axis=1)
        order = np.lexsort((position, far))[:, :count]
        far, position = np.take_along_axis(far, order, axis=1), np.take_along_axis(position, order, axis=1)
    return position
