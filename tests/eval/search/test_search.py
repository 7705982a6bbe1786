"""Search: exact and repeatable hits, and an index on disk that is the old one or the new one, never something else."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssl_toolkit.encoders import Encoder, save_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.search import approximate
from ssl_toolkit.eval.search import index as module
from ssl_toolkit.eval.search.index import EmbeddingIndex, Hits

Build = Callable[..., EmbeddingIndex]
PARTS = ("vectors", "items", "encoder", "approximate")


def vectors(count: int, seed: int = 0, width: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """``build(features, ...)``: an index with made-up paths and an encoder file of a few bytes."""
    encoder = tmp_path / "encoder.safetensors"
    encoder.write_bytes(b"the weights of an encoder")

    def make(x: NDArray[np.float32], paths: list[str] | None = None, **options: Any) -> EmbeddingIndex:
        options = {"encoder_file": encoder, "encoder_sha256": "e" * 64, "data": "photos/", **options}
        return EmbeddingIndex.build(x, paths or [f"{i}.jpg" for i in range(len(x))], **options)

    return make


def same(one: Hits, two: Hits) -> bool:
    arrays = np.array_equal(one.score, two.score) and np.array_equal(one.position, two.position)
    return arrays and (one.path, one.label) == (two.path, two.label)


def part(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"{name}-*") if name in PARTS else [folder / name]
    return found


def test_cosine_by_hand(build: Build) -> None:
    index = build(np.array([[2, 0], [0, 5], [-1, 0], [3, 4]], np.float32))
    hits = index.search(np.array([[10, 0], [0, 0.1]], np.float32), k=3)
    np.testing.assert_allclose(hits.score, [[1, 0.6, 0], [1, 0.8, 0]], atol=1e-6)
    np.testing.assert_array_equal(hits.position, [[0, 3, 1], [1, 3, 0]])
    assert hits.path == [["0.jpg", "3.jpg", "1.jpg"], ["1.jpg", "3.jpg", "0.jpg"]]
    assert hits.label == [[None] * 3] * 2
    assert (hits.score.dtype, hits.position.dtype) == (np.float32, np.int64)


def test_l2_by_hand(build: Build) -> None:
    index = build(np.array([[0, 0], [3, 4], [6, 8], [0, 1]], np.float32), metric="l2")
    hits = index.search(np.array([[0, 0]], np.float32), k=4)
    np.testing.assert_array_equal(hits.score, [[0, 1, 5, 10]])
    np.testing.assert_array_equal(hits.position, [[0, 3, 1, 2]])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("count", [1, 50])
def test_hits_are_exact(build: Build, metric: str, count: int) -> None:
    x, query = vectors(500), vectors(count, seed=1)
    hits = build(x, metric=metric).search(query, k=40)
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
def test_equal_images_score_equally_and_come_in_order(build: Build, metric: str) -> None:
    x = vectors(3000, width=100)
    copies = [7, 500, 1023, 1024, 2048, 2999]  # FAISS works in blocks of 1024
    x[copies] = x[7]
    index = build(x, metric=metric)
    for count in (1, 64):  # FAISS takes another route from 20 queries on
        hits = index.search(np.repeat(x[7:8], count, axis=0), k=4)
        np.testing.assert_array_equal(hits.position, np.tile(copies[:4], (count, 1)))
        assert len(np.unique(hits.score)) == 1
    if metric == "l2":
        assert hits.score.max() == 0


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_scores_do_not_depend_on_how_many_are_asked_at_once(
    build: Build, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, query = build(vectors(2000, width=100), metric=metric), vectors(64, seed=1, width=100)
    together = index.search(query, k=10)
    for one in range(0, 64, 7):
        alone = index.search(query[one : one + 1], k=10)
        np.testing.assert_array_equal(alone.score[0], together.score[one])
        np.testing.assert_array_equal(alone.position[0], together.position[one])
    monkeypatch.setattr(approximate, "_SCORED", 1)
    assert same(index.search(query, k=10), together)


def test_a_zero_query_has_cosine_zero_with_everything(build: Build) -> None:
    hits = build(vectors(5)).search(np.zeros((1, 8), np.float32), k=5)
    np.testing.assert_array_equal(hits.score, np.zeros((1, 5)))
    np.testing.assert_array_equal(hits.position, [[0, 1, 2, 3, 4]])


def test_k_is_clamped_to_what_there_is(build: Build) -> None:
    assert build(vectors(5)).search(vectors(2), k=99).score.shape == (2, 5)
    assert build(vectors(1)).search(vectors(2), k=1).score.shape == (2, 1)
    assert build(vectors(5)).search(vectors(0), k=3).score.shape == (0, 3)


def test_wrong_queries_are_refused(build: Build) -> None:
    index = build(vectors(5))
    with pytest.raises(UsageError, match=r"queries must be \(N, 8\), got \(2, 7\)"):
        index.search(vectors(2, width=7))
    with pytest.raises(UsageError, match=r"queries must be \(N, 8\), got \(8,\)"):
        index.search(vectors(1)[0])
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        index.search(vectors(2), k=0)
    for wrong in (np.nan, np.inf):
        query = vectors(3)
        query[1, 2] = wrong
        with pytest.raises(UsageError, match="1 of 3 queries are not finite"):
            index.search(query)


def test_wrong_features_are_refused(build: Build, tmp_path: Path) -> None:
    broken = vectors(3)
    broken[0, 0] = np.nan
    with pytest.raises(UsageError, match="1 of 3 features are not finite"):
        build(broken)
    with pytest.raises(UsageError, match="3 rows, 2 paths, no labels"):
        build(vectors(3), ["a", "b"])
    with pytest.raises(UsageError, match="3 rows, 3 paths, 2 labels"):
        build(vectors(3), labels=np.array([0, 1]))
    with pytest.raises(UsageError, match="0 rows"):
        build(vectors(0))
    with pytest.raises(UsageError, match="label 2 has no name: there are 2 classes"):
        build(vectors(3), labels=np.array([0, 1, 2]), classes=["cat", "dog"])
    with pytest.raises(UsageError, match="unknown metric 'l1'"):
        build(vectors(3), metric="l1")
    with pytest.raises(UsageError, match="no encoder at"):
        build(vectors(3), encoder_file=tmp_path / "nowhere", encoder_sha256=None)


def test_labels_come_as_names_numbers_or_not_at_all(build: Build, tmp_path: Path) -> None:
    x, label = np.eye(3, dtype=np.float32), np.array([1, 0, -1])
    for options, expected in (
        ({"labels": label, "classes": ["cat", "dog"]}, ["dog", "cat", None]),
        ({"labels": label}, [1, 0, None]),
        ({}, [None, None, None]),
    ):
        index = build(x, **options)
        index.save(tmp_path / "index", overwrite=True)
        for each in (index, EmbeddingIndex.load(tmp_path / "index")):
            assert [row[0] for row in each.search(x, k=1).label] == expected


def test_rows_are_ready_for_json(build: Build) -> None:
    x = np.array([[1, 0], [0.6, 0.8]], np.float32)
    rows = build(x, ["a.jpg", "b.jpg"], labels=np.array([0, 1]), classes=["cat", "dog"]).search(x[:1], k=2).rows()
    again = json.loads(json.dumps(rows))
    assert again == rows
    assert [list(row) for row in rows[0]] == [["rank", "path", "score", "label"]] * 2
    assert [(row["rank"], row["path"], row["label"]) for row in rows[0]] == [(1, "a.jpg", "cat"), (2, "b.jpg", "dog")]
    assert [row["score"] for row in rows[0]] == pytest.approx([1, 0.6], abs=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_index_comes_back_as_it_was(build: Build, tmp_path: Path, metric: str) -> None:
    odd = ["plain.jpg", "line\nbreak.jpg", "bytes\udcff.jpg", "ünï\u2028code.jpg", "", '"quoted"\\']
    index = build(vectors(6), odd, metric=metric, labels=np.array([0, 1, -1, 1, 0, 0]), classes=["ä", "b\n"])
    folder = tmp_path / "deep" / "index"
    index.save(folder)
    again = EmbeddingIndex.load(folder)
    assert same(again.search(vectors(4, seed=1), k=6), index.search(vectors(4, seed=1), k=6))
    assert (again.paths, again.classes, again.metric, again.data) == (odd, ["ä", "b\n"], metric, "photos/")
    assert (len(again), again.dimension, again.encoder_sha256) == (6, 8, "e" * 64)
    assert again.encoder_file.parent == folder
    assert again.encoder_file.read_bytes() == b"the weights of an encoder"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["count"], manifest["dimension"], manifest["metric"]) == (6, 8, metric)
    assert manifest["versions"]["faiss-cpu"] == faiss.__version__
    assert len(os.listdir(folder)) == 4


def test_the_encoder_is_checked_by_its_own_hash(tmp_path: Path, small_encoder: Encoder) -> None:
    sha256 = save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    index = EmbeddingIndex.build(vectors(3), ["a", "b", "c"], encoder_file=tmp_path / "encoder.safetensors")
    index.save(tmp_path / "index")
    loaded = EmbeddingIndex.load(tmp_path / "index")
    loaded.check_encoder(sha256)
    with torch.no_grad():
        next(small_encoder.parameters()).add_(1e-3)
    with pytest.raises(UsageError, match=rf"of the queries \({small_encoder.sha256[:12]}\) is not .*{sha256[:12]}"):
        loaded.check_encoder(small_encoder.sha256)


def test_an_index_is_not_overwritten_by_accident(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(vectors(5)).save(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "encoder-mine.safetensors").write_text("mine")
    (folder / ".vectors.tmp-0123456789abcdef.npy").write_text("of a killed process")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="already holds an index"):
        build(vectors(7, seed=1)).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    build(vectors(7, seed=1)).save(folder, overwrite=True)
    assert len(EmbeddingIndex.load(folder)) == 7
    names = sorted(re.sub("-[0-9a-f]{16}", "", name) for name in os.listdir(folder))
    assert names == [
        "encoder-mine.safetensors", "encoder.safetensors", "items.jsonl", "manifest.json", "notes.txt", "vectors.npy",
    ]  # fmt: skip


def test_a_loaded_index_can_be_saved_where_it_came_from(build: Build, tmp_path: Path) -> None:
    build(vectors(5)).save(tmp_path / "index")
    before = sorted(os.listdir(tmp_path / "index"))
    EmbeddingIndex.load(tmp_path / "index").save(tmp_path / "index", overwrite=True)
    assert sorted(os.listdir(tmp_path / "index")) == before
    EmbeddingIndex.load(tmp_path / "index")


@pytest.mark.parametrize("name", PARTS)
def test_a_flipped_bit_in_a_part_is_found_and_named(build: Build, tmp_path: Path, name: str) -> None:
    build(vectors(20), labels=np.arange(20), factory="HNSW4").save(tmp_path)
    path = part(tmp_path, name)
    whole = path.read_bytes()
    for place in {0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}:
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            with pytest.raises(ToolkitError, match=rf"{re.escape(path.name)}: .*hash; build it again"):
                EmbeddingIndex.load(tmp_path)
    for damaged in (whole[:-1], whole + b"\0", b""):
        path.write_bytes(damaged)
        with pytest.raises(ToolkitError, match=re.escape(path.name)):
            EmbeddingIndex.load(tmp_path)
    path.unlink()
    with pytest.raises(ToolkitError, match=rf"{re.escape(path.name)}: the .* missing; build it again"):
        EmbeddingIndex.load(tmp_path)
    path.write_bytes(whole)
    assert len(EmbeddingIndex.load(tmp_path)) == 20


def test_flipped_bits_would_go_unnoticed_by_faiss(build: Build, tmp_path: Path) -> None:
    """Why the hashes are there."""
    build(vectors(20), factory="HNSW4").save(tmp_path)
    path = part(tmp_path, "approximate")
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 0x40  # the exponent of the last number
    path.write_bytes(bytes(whole))
    assert faiss.read_index(str(path)).ntotal == 20


def test_a_flipped_bit_in_the_manifest_is_found_or_changes_nothing(build: Build, tmp_path: Path) -> None:
    build(vectors(3), labels=np.arange(3), classes=["a", "b", "c"]).save(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    content = module._read_manifest(tmp_path)
    harmless = 0
    for place in range(0, len(whole), 3):
        flipped = whole[place] ^ (1 << place % 8)
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        try:
            found = module._read_manifest(tmp_path)
        except ToolkitError:
            continue
        assert found == content  # a blank for a line break, say
        harmless += 1
    assert harmless < 5


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "3", '{"sha256": 1}', "{", "\0", '{"a": NaN}'])
def test_a_manifest_that_is_none_is_refused(build: Build, tmp_path: Path, text: str) -> None:
    build(vectors(3)).save(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ToolkitError, match=r"manifest\.json: .*; build it again"):
        EmbeddingIndex.load(tmp_path)


def reseal(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(module._sealed({**json.loads(path.read_text()), **changes})))


def test_counts_and_versions_are_checked(build: Build, tmp_path: Path) -> None:
    build(vectors(3)).save(tmp_path)
    reseal(tmp_path, format=1)
    with pytest.raises(ToolkitError, match="has format 1, this version reads 2: build the index again"):
        EmbeddingIndex.load(tmp_path)
    for wrong in ({"count": 4}, {"dimension": 9}):
        build(vectors(3)).save(tmp_path, overwrite=True)
        reseal(tmp_path, **wrong)
        with pytest.raises(ToolkitError, match="its counts are not those of the parts"):
            EmbeddingIndex.load(tmp_path)


def test_a_manifest_cannot_point_out_of_its_folder(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build(vectors(3)).save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    outside = tmp_path / manifest["parts"]["items"]["file"]
    (folder / outside.name).rename(outside)
    manifest["parts"]["items"]["file"] = f"../{outside.name}"
    reseal(folder, parts=manifest["parts"])
    with pytest.raises(ToolkitError, match="the items are missing"):
        EmbeddingIndex.load(folder)


def test_no_index_is_a_usage_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="holds no index"):
            EmbeddingIndex.load(folder)


# --- approximate indexes ---------------------------------------------------------------------------------------------


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
def test_an_approximate_index_finds_what_it_says(build: Build, tmp_path: Path, factory: str, metric: str) -> None:
    x, queries = clustered(5000), clustered(200, seed=1)
    index, exact = build(x, factory=factory, metric=metric), build(x, metric=metric)
    assert index.approximate is not None
    assert 0.95 <= index.approximate.recall <= 1
    assert recall(index, exact, queries) == pytest.approx(index.approximate.recall, abs=0.04)
    found, truth = index.search(queries, 10), exact.search(queries, 10)
    first = found.position[:, 0] == truth.position[:, 0]
    assert first.mean() > 0.9
    np.testing.assert_array_equal(found.score[first, 0], truth.score[first, 0])  # by the vectors, not by their codes
    index.save(tmp_path)
    again = EmbeddingIndex.load(tmp_path)
    assert same(again.search(queries, 10), found)
    assert again.how == index.how
    assert factory in again.how


def test_an_index_that_cannot_find_enough_says_so(build: Build) -> None:
    index = build(clustered(5000), factory="IVF64,PQ8x4fs")  # codes of four bytes
    assert index.approximate is not None
    assert index.approximate.effort == {"nprobe": 64}
    assert 0.5 < index.approximate.recall < 0.95
    assert f"finds {100 * index.approximate.recall:.1f} % of the ten nearest" in index.how


def test_no_more_lists_are_looked_at_than_needed(build: Build) -> None:
    index = build(clustered(5000), factory="IVF64,Flat")
    assert index.approximate is not None
    effort = index.approximate.effort["nprobe"]
    assert 1 <= effort < 64
    faiss.ParameterSpace().set_index_parameter(index.approximate.index, "nprobe", max(1, effort // 2))
    assert effort == 1 or recall(index, build(clustered(5000)), clustered(5000)[::5]) < 0.95


def test_a_query_whose_lists_hold_too_few_is_answered_exactly(build: Build) -> None:
    x = clustered(500)
    index = build(x, factory="IVF16,Flat")
    assert index.approximate is not None
    faiss.ParameterSpace().set_index_parameter(index.approximate.index, "nprobe", 1)
    assert same(index.search(x[:20], 400), build(x).search(x[:20], 400))


def test_equal_vectors_come_in_order_whatever_finds_them(build: Build) -> None:
    x = np.repeat(clustered(500), 2, axis=0)
    found = build(x, factory="IVF8,Flat").search(x[:20:2], 2)
    np.testing.assert_array_equal(found.position, np.arange(20).reshape(10, 2))


@pytest.mark.parametrize("factory", ["IVF", "Flatt", "IVF4096,Flat", "IVF8,PQ7"])
def test_what_faiss_cannot_build_is_named(build: Build, factory: str) -> None:
    with pytest.raises(UsageError, match=rf"--index {factory}: FAISS cannot build that for 300 vectors"):
        build(clustered(300), factory=factory)


def test_the_same_index_again(build: Build) -> None:
    one, two = (build(clustered(3000), factory="IVF32,SQ8") for _ in range(2))
    assert one.approximate is not None
    assert two.approximate is not None
    assert one.approximate.about() == two.approximate.about()
    assert same(one.search(clustered(20, seed=2)), two.search(clustered(20, seed=2)))


# --- merging ---------------------------------------------------------------------------------------------------------


def labels_of(index: EmbeddingIndex) -> list[str | int | None]:
    return [index.label(place) for place in range(len(index))]


@pytest.mark.parametrize("on_disk", [False, True])
def test_merged_shards_are_the_index_of_the_whole(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    monkeypatch.setattr(module, "_COPIED", 7)
    x, queries = vectors(60), vectors(5, seed=1)
    names = [f"{i}.jpg" for i in range(60)]
    shards = []
    for number, rows in enumerate((slice(0, 10), slice(10, 11), slice(11, 60))):
        build(x[rows], names[rows], data=f"shard{number}/").save(tmp_path / f"{number}")
        shards.append(EmbeddingIndex.load(tmp_path / f"{number}"))
    merged = EmbeddingIndex.merged(shards, scratch=tmp_path if on_disk else None)
    whole = build(x, names)
    assert isinstance(merged.vectors, np.memmap) == on_disk
    assert same(merged.search(queries, 60), whole.search(queries, 60))
    assert merged.data == "shard0/, shard1/, shard2/"
    merged.save(tmp_path / "merged")
    assert same(EmbeddingIndex.load(tmp_path / "merged").search(queries, 60), whole.search(queries, 60))
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "encoder.safetensors", "merged"]  # no scratch is left


def test_of_a_path_in_several_indexes_the_last_counts(build: Build) -> None:
    x = vectors(6)
    one = build(x[:3], ["a", "b", "c"], stamps=["1", "1", "1"])
    two = build(x[3:5], ["b", "d"], stamps=["2", "2"])
    three = build(x[5:], ["a"], stamps=["3"])
    merged = EmbeddingIndex.merged([one, two, three])
    assert merged.paths == ["c", "b", "d", "a"]
    assert merged.stamps == ["1", "2", "2", "3"]
    np.testing.assert_array_equal(merged.vectors, np.concatenate([one.vectors[2:], two.vectors, three.vectors]))
    twice = build(x[:2], ["a", "a"])  # a list may name an image twice
    assert EmbeddingIndex.merged([twice, two]).paths == ["a", "a", "b", "d"]


def test_classes_of_merged_indexes_are_matched_by_name(build: Build) -> None:
    x = vectors(3)
    cats = build(x, ["a", "b", "c"], labels=np.array([0, 1, -1]), classes=["cat", "dog"])
    emus = build(x[:2], ["d", "e"], labels=np.array([1, 0]), classes=["dog", "emu"])
    bare = build(x[:1], ["f"])
    merged = EmbeddingIndex.merged([bare, cats, emus])
    assert labels_of(merged) == [None, "cat", "dog", None, "emu", "dog"]
    assert merged.classes == ["cat", "dog", "emu"]
    assert EmbeddingIndex.merged([bare, build(x[:1], ["g"])]).labels is None
    numbers = build(x[:2], ["h", "i"], labels=np.array([5, -1]))
    assert labels_of(EmbeddingIndex.merged([numbers, bare])) == [5, None, None]
    with pytest.raises(UsageError, match="labels of two kinds, names and bare numbers"):
        EmbeddingIndex.merged([numbers, cats])


def test_how_a_merged_index_finds(build: Build) -> None:
    x = clustered(3000)
    one, two = (build(x[part::2], [f"{part}-{i}" for i in range(1500)], factory="IVF8,SQ8") for part in (0, 1))
    merged = EmbeddingIndex.merged([one, two])
    assert merged.approximate is not None
    assert (merged.factory, merged.approximate.trained, merged.approximate.index.ntotal) == ("IVF8,SQ8", 3000, 3000)
    assert recall(merged, build(merged.vectors), x[::20]) == pytest.approx(merged.approximate.recall, abs=0.04)
    exact = build(x[:100])
    assert EmbeddingIndex.merged([one, exact]).approximate is None  # asked for in two ways: chosen by size
    chosen = EmbeddingIndex.merged([one, exact], factory="HNSW8")
    assert chosen.approximate is not None
    assert (chosen.factory, chosen.approximate.factory) == ("HNSW8", "HNSW8")


def test_indexes_that_do_not_fit_together_are_named(build: Build, tmp_path: Path) -> None:
    for name, options in (("a", {}), ("b", {"metric": "l2"}), ("c", {"encoder_sha256": "f" * 64})):
        build(vectors(3), **options).save(tmp_path / name)
    a, b, c = (EmbeddingIndex.load(tmp_path / name) for name in "abc")
    with pytest.raises(UsageError, match=rf"the metric of {tmp_path}/b is l2, that of {tmp_path}/a is cosine"):
        EmbeddingIndex.merged([a, b])
    with pytest.raises(UsageError, match=rf"the encoder of {tmp_path}/c is f{{12}}, that of {tmp_path}/a is e{{12}}"):
        EmbeddingIndex.merged([a, a, c])
    with pytest.raises(UsageError, match="there are no indexes to merge"):
        EmbeddingIndex.merged([])


@pytest.mark.parametrize("factory", [None, "IVF8,Flat"])
def test_neighbours_of_items_are_the_others(build: Build, factory: str | None) -> None:
    x = clustered(300)
    x[7] = x[9]
    index = build(x, factory=factory)
    items = np.array([9, 7, 200])
    hits, all_ = index.neighbours_of(items, 5), index.neighbours(5)
    np.testing.assert_array_equal(hits.position, all_[1][items])
    np.testing.assert_array_equal(hits.score, all_[0][items])
    assert hits.path[0][0] == "7.jpg"  # a copy is another item
    assert hits.path[1][0] == "9.jpg"
    assert index.neighbours_of(items, 999).position.shape == (3, 299)
    assert build(x[:1]).neighbours_of(np.array([0]), 3).position.shape == (1, 0)
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        index.neighbours_of(items, 0)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")

STEPS = [
    (os, "fsync"), (os, "replace"), (Path, "unlink"), (Path, "open"), (Path, "write_text"), (shutil, "copyfile"),
    (faiss, "write_index"),
]  # fmt: skip


class Stop(BaseException):
    pass


def stop_before(number: int, how: Callable[[], None], set_: Callable[[Any, str, Any], None]) -> list[str]:
    """Have `how` called before the given step of saving, counted from 1; the steps, as they are taken."""
    taken: list[str] = []

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            taken.append(name)
            if len(taken) == number:
                how()
            return real(*args, **kwargs)

        set_(owner, name, step)

    for owner, name in STEPS:
        wrap(owner, name)
    return taken


def killed(index: EmbeddingIndex, folder: Path, number: int) -> bool:
    """Save in a process that is killed before the given step; whether it came so far."""
    child = os.fork()
    if not child:
        try:
            stop_before(number, lambda: os._exit(9), setattr)
            index.save(folder, overwrite=True)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@needs_fork
def test_a_kill_at_any_step_leaves_the_old_index_or_the_new(build: Build, tmp_path: Path) -> None:
    query = vectors(3, seed=9)
    old = build(vectors(20), encoder_sha256="a" * 64)
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other weights")
    new = build(vectors(30, seed=1), encoder_sha256="b" * 64, encoder_file=other, factory="HNSW4")
    answers = {"a" * 64: old.search(query, 5), "b" * 64: new.search(query, 5)}
    encoders = {"a" * 64: b"the weights of an encoder", "b" * 64: b"other weights"}
    seen = []
    for number in range(1, 100):
        folder = tmp_path / f"index{number}"
        old.save(folder)
        died = killed(new, folder, number)
        loaded = EmbeddingIndex.load(folder)
        assert same(loaded.search(query, 5), answers[loaded.encoder_sha256])
        assert loaded.encoder_file.read_bytes() == encoders[loaded.encoder_sha256]
        seen.append(loaded.encoder_sha256[0])
        new.save(folder, overwrite=True)  # what a killed process left is no obstacle, and goes
        assert same(EmbeddingIndex.load(folder).search(query, 5), answers["b" * 64])
        assert len(os.listdir(folder)) == 5
        if not died:
            break
    assert "".join(seen) == "a" * seen.count("a") + "b" * seen.count("b")
    assert seen.count("a") > 10
    assert seen.count("b") > 3


@needs_fork
def test_a_first_build_that_was_killed_is_no_index_and_no_obstacle(build: Build, tmp_path: Path) -> None:
    index = build(vectors(20))
    assert killed(index, tmp_path / "index", 12)
    assert len(os.listdir(tmp_path / "index")) > 1
    with pytest.raises(UsageError, match="holds no index"):
        EmbeddingIndex.load(tmp_path / "index")
    index.save(tmp_path / "index")
    assert len(EmbeddingIndex.load(tmp_path / "index")) == 20
    assert len(os.listdir(tmp_path / "index")) == 4


def test_an_error_at_any_step_leaves_no_temporary_files(build: Build, tmp_path: Path) -> None:
    old, new = build(vectors(20)), build(vectors(30, seed=1))
    folder = tmp_path / "index"

    def stop() -> None:
        raise Stop

    for number in range(1, 100):
        old.save(folder, overwrite=True)
        with pytest.MonkeyPatch.context() as patch:
            taken = stop_before(number, stop, patch.setattr)
            try:
                new.save(folder, overwrite=True)
            except Stop:
                cleaning = taken[-1] == "unlink"  # stopped while it cleaned up
            else:
                break
        assert len(EmbeddingIndex.load(folder)) in (20, 30)
        assert cleaning or not list(folder.glob(".*"))
    assert number > 10


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="asks Linux which file is synced")
def test_parts_are_on_disk_before_the_manifest_names_them(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(vectors(20)).save(tmp_path / "index")
    taken: list[str] = []
    real_fsync, real_replace, real_unlink = os.fsync, os.replace, Path.unlink

    def name(path: Path | str) -> str:
        return re.sub(r"^\.", "", re.split(r"[-.]t?m?p?-?[0-9a-f]{16}", Path(path).name)[0])

    def fsync(descriptor: int) -> None:
        taken.append(f"sync {name(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        taken.append(f"rename {name(target)}")
        real_replace(source, target)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            taken.append(f"delete {name(path)}")
        real_unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    build(vectors(20, seed=1), ["x"] * 20).save(tmp_path / "index", overwrite=True)
    assert taken == [
        "sync vectors", "rename vectors",
        "sync items", "rename items",
        "sync encoder", "rename encoder",
        "sync index",
        "sync manifest", "rename manifest.json", "sync index",
        "delete vectors", "delete items",
    ]  # fmt: skip


def test_a_missing_encoder_file_leaves_the_old_index(build: Build, tmp_path: Path) -> None:
    build(vectors(20)).save(tmp_path / "index")
    with pytest.raises(FileNotFoundError):
        build(vectors(30), encoder_file=tmp_path / "nowhere").save(tmp_path / "index", overwrite=True)
    assert len(EmbeddingIndex.load(tmp_path / "index")) == 20
