"""What a FAISS with GPUs would be asked to do; a stand-in counts, and does it on the CPU."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from ssl_toolkit.eval.search import gpus as module
from ssl_toolkit.eval.search.approximate import Approximate, nearest_rows
from tests.conftest import noise


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Indexes that were sent to the GPUs."""
    sent: list[Any] = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: sent.append(index) or index)
    return sent


def test_without_gpus_an_index_stays_as_it_is() -> None:
    index = faiss.IndexFlat(4)
    assert module.on_gpus(index) is index


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_exact_search_goes_there_block_by_block(moved: list[Any], monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    x, queries = noise(90), noise(7, seed=1)
    monkeypatch.setattr(module, "_SEARCHED", 16)
    found = nearest_rows(x, queries, 20, metric)
    assert len(moved) == 1
    assert (moved[0].ntotal, moved[0].metric_type == faiss.METRIC_INNER_PRODUCT) == (90 % 16, metric == "cosine")
    score = queries @ x.T if metric == "cosine" else -((queries[:, None] - x) ** 2).sum(2)
    np.testing.assert_array_equal(found, np.argsort(-score, axis=1)[:, :20])


def test_lists_are_trained_and_filled_there_and_answer_as_on_the_cpu(
    moved: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noise(400)
    there = Approximate.build(x, "IVF8,Flat", "l2")
    assert [each.ntotal for each in moved] == [8, 8, 400]  # centres while they are found, centres, vectors for recall
    assert there.index.clustering_index is None
    monkeypatch.undo()
    here = Approximate.build(x, "IVF8,Flat", "l2")
    np.testing.assert_array_equal(there.search(noise(9, seed=2), 5), here.search(noise(9, seed=2), 5))
