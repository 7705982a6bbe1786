"""Changing an approximate index: what it has learnt stays, what it holds and how well it finds is as of a new one."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from ssl_toolkit.eval.search.approximate import Approximate, scored_again


def clustered(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around 50 centres, (N, 16)."""
    generator = np.random.default_rng(seed)
    centre = 3 * np.random.default_rng(99).standard_normal((50, 16))
    x = (centre[generator.integers(0, 50, count)] + generator.standard_normal((count, 16))).astype(np.float32)
    faiss.normalize_L2(x)
    return x


def centres(index: Any) -> NDArray[np.float32]:
    """What an index of inverted lists has learnt."""
    return np.asarray(faiss.extract_index_ivf(index).quantizer.reconstruct_n())


# Lists, lists behind a rotation, lists in blocks of codes, lists that are scored again by FAISS, a graph.
FACTORIES = ["IVF16,Flat", "IVF16_HNSW8,SQ8", "PCA12,IVF16,SQ8", "IVF16,PQ8x4fs", "IVF16,SQ8,RFlat", "HNSW16"]


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_changed_index_holds_what_a_new_one_would(factory: str) -> None:
    x, new = clustered(3000), clustered(400, seed=1)
    old = Approximate.build(x, factory, "cosine")
    before = old.search(new, 50)
    keep = np.setdiff1d(np.arange(3000), [0, 5, 17, *range(1000, 1200), 2999])
    vectors = np.concatenate([x[keep], new])
    made = old.changed(vectors, keep, "cosine")
    assert (made.index.ntotal, made.trained, made.factory) == (len(vectors), 3000, factory)
    fresh = Approximate.build(vectors, factory, "cosine")
    assert made.recall == pytest.approx(fresh.recall, abs=0.03)
    ids = made.search(vectors[::7], len(vectors))
    if made.effort.get("nprobe") == 16:  # all lists
        assert [sorted(row) for row in ids.tolist()] == [list(range(len(vectors)))] * len(ids)
    first = scored_again(vectors, vectors[::7], made.search(vectors[::7], 50), "cosine")[1][:, 0]
    assert (first == np.arange(len(vectors))[::7]).mean() > 0.9  # each finds itself, under its new number
    np.testing.assert_array_equal(old.search(new, 50), before)  # the old one is as it was
    assert old.index.ntotal == 3000


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,SQ8"])
def test_removed_vectors_are_found_no_more_and_the_others_under_their_new_places(factory: str) -> None:
    x = clustered(2000)
    keep = np.flatnonzero(np.arange(2000) % 3)
    made = Approximate.build(x, factory, "cosine").changed(x[keep], keep, "cosine")
    faiss.ParameterSpace().set_index_parameter(made.index, "nprobe", 16)
    found = scored_again(x[keep], x[keep], made.search(x[keep], 20), "cosine")[1][:, 0]
    np.testing.assert_array_equal(found, np.arange(len(keep)))


def test_training_is_kept_until_the_index_has_doubled_or_halved() -> None:
    x = clustered(4001)
    old = Approximate.build(x[:2000], "IVF16,Flat", "cosine")
    for count, again in ((2001, False), (4000, False), (4001, True), (1000, False), (999, True)):
        made = old.changed(x[:count], np.arange(min(count, 2000)), "cosine")
        assert np.array_equal(centres(made.index), centres(old.index)) != again
        assert made.trained == (count if again else 2000)
    unknown = Approximate(old.index, old.factory, old.effort, old.recall)  # written before this was kept
    assert unknown.changed(x[:2001], np.arange(2000), "cosine").trained == 2001


def test_recall_and_effort_are_measured_again() -> None:
    # Vectors unlike those that the lists were made for lie in one list or two, and are found there at once.
    x = clustered(2000)
    old = Approximate.build(x, "IVF64,PQ2x4fs", "cosine")
    copies = np.repeat(x[:1], 2000, axis=0) + 1e-3 * clustered(2000, seed=3)
    made = old.changed(np.concatenate([x, copies.astype(np.float32)]), np.arange(2000), "cosine")
    assert made.recall != old.recall
