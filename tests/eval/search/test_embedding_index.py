"""Search: exact and repeatable hits, and approximate ones that are as good as they say."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssl_toolkit.encoders import Encoder, save_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search import approximate
from ssl_toolkit.eval.search.index import EmbeddingIndex
from tests.conftest import BuildIndex, noise, same_hits


def test_cosine_by_hand(build_index: BuildIndex) -> None:
    index = build_index(np.array([[2, 0], [0, 5], [-1, 0], [3, 4]], np.float32))
    hits = index.search(np.array([[10, 0], [0, 0.1]], np.float32), k=3)
    np.testing.assert_allclose(hits.score, [[1, 0.6, 0], [1, 0.8, 0]], atol=1e-6)
    np.testing.assert_array_equal(hits.position, [[0, 3, 1], [1, 3, 0]])
    assert hits.path == [["0.jpg", "3.jpg", "1.jpg"], ["1.jpg", "3.jpg", "0.jpg"]]
    assert hits.label == [[None] * 3] * 2
    assert (hits.score.dtype, hits.position.dtype) == (np.float32, np.int64)


def test_l2_by_hand(build_index: BuildIndex) -> None:
    index = build_index(np.array([[0, 0], [3, 4], [6, 8], [0, 1]], np.float32), metric="l2")
    hits = index.search(np.array([[0, 0]], np.float32), k=4)
    np.testing.assert_array_equal(hits.score, [[0, 1, 5, 10]])
    np.testing.assert_array_equal(hits.position, [[0, 3, 1, 2]])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("count", [1, 50])
def test_hits_are_exact(build_index: BuildIndex, metric: str, count: int) -> None:
    x, query = noise(500), noise(count, seed=1)
    hits = build_index(x, metric=metric).search(query, k=40)
    a, b = query.astype(np.float64), x.astype(np.float64)
    if metric == "cosine":
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
        exact = a @ b.T
        order = np.argsort(-exact, axis=1)[:, :40]
    else:
        exact = np.linalg.norm(a[:, None] - b, axis=2)
        order = np.argsort(exact, axis=1)[:, :40]
    np.testing.assert_array_equal(hits.position, order)
    np.testing.assert_allclose(hits.score, np.take_along_axis(exact, order, axis=1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_equal_images_score_equally_and_come_in_order(build_index: BuildIndex, metric: str) -> None:
    x = noise(3000, width=100)
    copies = [7, 500, 1023, 1024, 2048, 2999]  # FAISS works in blocks of 1024
    x[copies] = x[7]
    index = build_index(x, metric=metric)
    for count in (1, 64):  # FAISS takes another route from 20 queries on
        hits = index.search(np.repeat(x[7:8], count, axis=0), k=4)
        np.testing.assert_array_equal(hits.position, np.tile(copies[:4], (count, 1)))
        assert len(np.unique(hits.score)) == 1
    if metric == "l2":
        assert hits.score.max() == 0


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_scores_do_not_depend_on_how_many_are_asked_at_once(
    build_index: BuildIndex, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, query = build_index(noise(2000, width=100), metric=metric), noise(64, seed=1, width=100)
    together = index.search(query, k=10)
    for one in range(0, 64, 7):
        alone = index.search(query[one : one + 1], k=10)
        np.testing.assert_array_equal(alone.score[0], together.score[one])
        np.testing.assert_array_equal(alone.position[0], together.position[one])
    monkeypatch.setattr(approximate, "_SCORED", 1)
    assert same_hits(index.search(query, k=10), together)


def test_a_zero_query_has_cosine_zero_with_everything(build_index: BuildIndex) -> None:
    hits = build_index(noise(5)).search(np.zeros((1, 8), np.float32), k=5)
    np.testing.assert_array_equal(hits.score, np.zeros((1, 5)))
    np.testing.assert_array_equal(hits.position, [[0, 1, 2, 3, 4]])


def test_k_is_clamped_to_what_there_is(build_index: BuildIndex) -> None:
    assert build_index(noise(5)).search(noise(2), k=99).score.shape == (2, 5)
    assert build_index(noise(1)).search(noise(2), k=1).score.shape == (2, 1)
    assert build_index(noise(5)).search(noise(0), k=3).score.shape == (0, 3)


def test_wrong_queries_are_refused(build_index: BuildIndex) -> None:
    index = build_index(noise(5))
    with pytest.raises(UsageError, match=r"queries must be \(N, 8\), got \(2, 7\)"):
        index.search(noise(2, width=7))
    with pytest.raises(UsageError, match=r"queries must be \(N, 8\), got \(8,\)"):
        index.search(noise(1)[0])
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        index.search(noise(2), k=0)
    for wrong in (np.nan, np.inf):
        query = noise(3)
        query[1, 2] = wrong
        with pytest.raises(UsageError, match="1 of 3 queries are not finite"):
            index.search(query)


def test_wrong_features_are_refused(build_index: BuildIndex, tmp_path: Path) -> None:
    broken = noise(3)
    broken[0, 0] = np.nan
    with pytest.raises(UsageError, match="1 of 3 features are not finite"):
        build_index(broken)
    with pytest.raises(UsageError, match="3 rows, 2 paths, no labels"):
        build_index(noise(3), ["a", "b"])
    with pytest.raises(UsageError, match="3 rows, 3 paths, 2 labels"):
        build_index(noise(3), labels=np.array([0, 1]))
    with pytest.raises(UsageError, match="0 rows"):
        build_index(noise(0))
    with pytest.raises(UsageError, match="label 2 has no name: there are 2 classes"):
        build_index(noise(3), labels=np.array([0, 1, 2]), classes=["cat", "dog"])
    with pytest.raises(UsageError, match="unknown metric 'l1'"):
        build_index(noise(3), metric="l1")
    with pytest.raises(UsageError, match="no encoder at"):
        build_index(noise(3), encoder_file=tmp_path / "nowhere", encoder_sha256=None)


def test_labels_come_as_names_numbers_or_not_at_all(build_index: BuildIndex, tmp_path: Path) -> None:
    x, label = np.eye(3, dtype=np.float32), np.array([1, 0, -1])
    for options, expected in (
        ({"labels": label, "classes": ["cat", "dog"]}, ["dog", "cat", None]),
        ({"labels": label}, [1, 0, None]),
        ({}, [None, None, None]),
    ):
        index = build_index(x, **options)
        index.save(tmp_path / "index", overwrite=True)
        for each in (index, EmbeddingIndex.load(tmp_path / "index")):
            assert [row[0] for row in each.search(x, k=1).label] == expected


def test_the_encoder_is_checked_by_its_own_hash(tmp_path: Path, small_encoder: Encoder) -> None:
    sha256 = save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    index = EmbeddingIndex.build(noise(3), ["a", "b", "c"], encoder_file=tmp_path / "encoder.safetensors")
    index.save(tmp_path / "index")
    loaded = EmbeddingIndex.load(tmp_path / "index")
    loaded.check_encoder(sha256)
    with torch.no_grad():
        next(small_encoder.parameters()).add_(1e-3)
    with pytest.raises(UsageError, match=rf"of the queries \({small_encoder.sha256[:12]}\) is not .*{sha256[:12]}"):
        loaded.check_encoder(small_encoder.sha256)


def clustered(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors around 50 centres, as features are, (N, 16)."""
    generator = np.random.default_rng(seed)
    centre = 3 * np.random.default_rng(99).standard_normal((50, 16))
    return (centre[generator.integers(0, 50, count)] + generator.standard_normal((count, 16))).astype(np.float32)


def recall(index: EmbeddingIndex, exact: EmbeddingIndex, queries: NDArray[np.float32]) -> float:
    found, truth = index.search(queries, 10).position, exact.search(queries, 10).position
    return float(np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(found, truth, strict=True)]))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("factory", ["IVF64,Flat", "IVF64,SQ8", "IVF64,SQ4", "HNSW16"])
def test_an_approximate_index_finds_what_it_says(
    build_index: BuildIndex, tmp_path: Path, factory: str, metric: str
) -> None:
    x, queries = clustered(5000), clustered(200, seed=1)
    index, exact = build_index(x, factory=factory, metric=metric), build_index(x, metric=metric)
    assert index.approximate is not None
    assert 0.95 <= index.approximate.recall <= 1
    assert recall(index, exact, queries) == pytest.approx(index.approximate.recall, abs=0.04)
    found, truth = index.search(queries, 10), exact.search(queries, 10)
    first = found.position[:, 0] == truth.position[:, 0]
    assert first.mean() > 0.9
    np.testing.assert_array_equal(found.score[first, 0], truth.score[first, 0])  # by the vectors, not by their codes
    index.save(tmp_path)
    again = EmbeddingIndex.load(tmp_path)
    assert same_hits(again.search(queries, 10), found)
    assert again.how == index.how
    assert factory in again.how


def test_an_index_that_cannot_find_enough_says_so(build_index: BuildIndex) -> None:
    index = build_index(clustered(5000), factory="IVF64,PQ8x4fs")  # codes of four bytes
    assert index.approximate is not None
    assert index.approximate.effort == {"nprobe": 64}
    assert 0.5 < index.approximate.recall < 0.95
    assert f"finds {100 * index.approximate.recall:.1f} % of the ten nearest" in index.how


def test_no_more_lists_are_looked_at_than_needed(build_index: BuildIndex) -> None:
    index = build_index(clustered(5000), factory="IVF64,Flat")
    assert index.approximate is not None
    effort = index.approximate.effort["nprobe"]
    assert 1 <= effort < 64
    faiss.ParameterSpace().set_index_parameter(index.approximate.index, "nprobe", max(1, effort // 2))
    assert effort == 1 or recall(index, build_index(clustered(5000)), clustered(5000)[::5]) < 0.95


def test_a_query_whose_lists_hold_too_few_is_answered_exactly(build_index: BuildIndex) -> None:
    x = clustered(500)
    index = build_index(x, factory="IVF16,Flat")
    assert index.approximate is not None
    faiss.ParameterSpace().set_index_parameter(index.approximate.index, "nprobe", 1)
    assert same_hits(index.search(x[:20], 400), build_index(x).search(x[:20], 400))


def test_equal_vectors_come_in_order_whatever_finds_them(build_index: BuildIndex) -> None:
    x = np.repeat(clustered(500), 2, axis=0)
    found = build_index(x, factory="IVF8,Flat").search(x[:20:2], 2)
    np.testing.assert_array_equal(found.position, np.arange(20).reshape(10, 2))


@pytest.mark.parametrize("factory", ["IVF", "Flatt", "IVF4096,Flat", "IVF8,PQ7"])
def test_what_faiss_cannot_build_is_named(build_index: BuildIndex, factory: str) -> None:
    with pytest.raises(UsageError, match=rf"--index {factory}: FAISS cannot build that for 300 vectors"):
        build_index(clustered(300), factory=factory)


def test_the_same_index_again(build_index: BuildIndex) -> None:
    one, two = (build_index(clustered(3000), factory="IVF32,SQ8") for _ in range(2))
    assert one.approximate is not None
    assert two.approximate is not None
    assert one.approximate.about() == two.approximate.about()
    assert same_hits(one.search(clustered(20, seed=2)), two.search(clustered(20, seed=2)))


def test_how_a_merged_index_finds(build_index: BuildIndex) -> None:
    x = clustered(3000)
    one, two = (build_index(x[part::2], [f"{part}-{i}" for i in range(1500)], factory="IVF8,SQ8") for part in (0, 1))
    merged = EmbeddingIndex.merged([one, two])
    assert merged.approximate is not None
    assert (merged.factory, merged.approximate.trained, merged.approximate.index.ntotal) == ("IVF8,SQ8", 3000, 3000)
    assert recall(merged, build_index(merged.vectors), x[::20]) == pytest.approx(merged.approximate.recall, abs=0.04)
    exact = build_index(x[:100])
    assert EmbeddingIndex.merged([one, exact]).approximate is None  # asked for in two ways: chosen by size
    chosen = EmbeddingIndex.merged([one, exact], factory="HNSW8")
    assert chosen.approximate is not None
    assert (chosen.factory, chosen.approximate.factory) == ("HNSW8", "HNSW8")


@pytest.mark.parametrize("factory", [None, "IVF8,Flat"])
def test_neighbours_of_items_are_the_others(build_index: BuildIndex, factory: str | None) -> None:
    x = clustered(300)
    x[7] = x[9]
    index = build_index(x, factory=factory)
    items = np.array([9, 7, 200])
    hits, all_ = index.neighbours_of(items, 5), index.neighbours(5)
    np.testing.assert_array_equal(hits.position, all_[1][items])
    np.testing.assert_array_equal(hits.score, all_[0][items])
    assert hits.path[0][0] == "7.jpg"  # a copy is another item
    assert hits.path[1][0] == "9.jpg"
    assert index.neighbours_of(items, 999).position.shape == (3, 299)
    assert build_index(x[:1]).neighbours_of(np.array([0]), 3).position.shape == (1, 0)
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        index.neighbours_of(items, 0)
