"""Inverted lists that stay on the disk answer as those in memory do, and are checked and replaced as all parts are."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.search import on_disk as module
from ssl_toolkit.eval.search.index import EmbeddingIndex
from tests.conftest import BuildIndex, noise, same_hits

FACTORIES = ("IVF8,Flat", "IVF8,SQ8", "PCA4,IVF8,Flat", "IVF8_HNSW4,SQ8")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ON_DISK", 0)
    monkeypatch.setattr(module, "BLOCK", 4000)  # some hundred vectors


def lists(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".ivfdata")]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_lists_on_disk_find_what_lists_in_memory_find(
    build_index: BuildIndex, tmp_path: Path, factory: str, metric: str, capfd: pytest.CaptureFixture[str]
) -> None:
    x, queries = noise(500), noise(20, seed=1)
    within = build_index(x, factory=factory, metric=metric)
    beyond = build_index(x, factory=factory, metric=metric, scratch=tmp_path / "")
    assert within.approximate.lists is None
    assert beyond.approximate.lists is not None
    assert beyond.approximate.about() == within.approximate.about()
    assert same_hits(beyond.search(queries), within.search(queries))
    folder = tmp_path / "index"
    beyond.save(folder)
    assert len(lists(folder)) == 1
    again = EmbeddingIndex.load(folder)
    assert same_hits(again.search(queries), within.search(queries))
    again.save(tmp_path / "copy")
    again.save(folder, overwrite=True)
    shutil.rmtree(folder)
    assert same_hits(EmbeddingIndex.load(tmp_path / "copy").search(queries), within.search(queries))
    assert capfd.readouterr().out == ""  # FAISS's own words


def test_no_scratch_is_left(build_index: BuildIndex, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = build_index(noise(300), factory="IVF4,Flat", scratch=scratch)
    assert len(lists(scratch)) == 1
    del made
    assert os.listdir(scratch) == []
    made = build_index(noise(300), factory="IVF4,Flat", scratch=scratch)
    made.save(scratch)
    (left,) = lists(scratch)
    assert re.fullmatch(r"lists-[0-9a-f]{16}\.ivfdata", left)
    del made
    assert len(EmbeddingIndex.load(scratch).search(noise(2), 5).path) == 2


@pytest.mark.parametrize("kept", [280, 100])
def test_a_changed_index_is_the_one_of_what_it_holds(build_index: BuildIndex, tmp_path: Path, kept: int) -> None:
    x = noise(300)
    build_index(x, factory="IVF4,Flat", metric="l2", scratch=tmp_path).save(tmp_path / "index")
    old = EmbeddingIndex.load(tmp_path / "index")
    before = {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    drop = np.arange(kept, 300)
    new = old.changed(drop, noise(5, seed=2), [f"new{i}" for i in range(5)], scratch=tmp_path / "index")
    assert {name: (tmp_path / "index" / name).read_bytes() for name in before} == before  # until it is saved
    new.save(tmp_path / "index", overwrite=True)
    loaded = EmbeddingIndex.load(tmp_path / "index")
    exact = build_index(np.concatenate([x[:kept], noise(5, seed=2)]), list(loaded.paths), metric="l2", factory="Flat")
    hits, truth = loaded.search(noise(30, seed=3), 5), exact.search(noise(30, seed=3), 5)
    assert np.mean([len(np.intersect1d(*pair)) / 5 for pair in zip(hits.position, truth.position, strict=True)]) > 0.9
    assert len(lists(tmp_path / "index")) == 1


def test_a_flipped_bit_in_the_lists_is_found_and_named(build_index: BuildIndex, tmp_path: Path) -> None:
    build_index(noise(300), factory="IVF4,Flat", scratch=tmp_path).save(tmp_path / "index")
    (name,) = lists(tmp_path / "index")
    path = tmp_path / "index" / name
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", b"", whole[:99] + bytes([whole[99] ^ 4]) + whole[100:]):
        path.write_bytes(damaged)
        with pytest.raises(ToolkitError, match=rf"{re.escape(name)}: .*hash; build it again"):
            EmbeddingIndex.load(tmp_path / "index")
    path.unlink()
    with pytest.raises(ToolkitError, match=rf"{re.escape(name)}: the lists are missing"):
        EmbeddingIndex.load(tmp_path / "index")


def test_lists_lie_in_the_folder_of_the_index_whatever_it_says(build_index: BuildIndex, tmp_path: Path) -> None:
    build_index(noise(300), factory="IVF4,Flat", scratch=tmp_path).save(tmp_path / "index")
    (inner,) = (tmp_path / "index").glob("approximate-*")
    (data,) = (tmp_path / "index").glob("lists-*")
    index = faiss.read_index(str(inner), faiss.IO_FLAG_SKIP_IVF_DATA)
    faiss.downcast_InvertedLists(index.invlists).filename = "/etc/hostname"
    faiss.write_index(index, str(inner))
    assert module.open_on_disk(inner, data).ntotal == 300
    flat = faiss.IndexFlat(8)
    faiss.write_index(flat, str(inner))
    with pytest.raises(ValueError, match="it is not of these lists"):
        module.open_on_disk(inner, data)


def test_small_lists_and_other_indexes_stay_in_memory(
    build_index: BuildIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for factory in ("HNSW4", "IVF4,PQ4x4,RFlat"):
        assert build_index(noise(300), factory=factory, scratch=tmp_path).approximate.lists is None
    monkeypatch.setattr(module, "ON_DISK", 300 * (8 * 4 + 8))
    assert build_index(noise(300), factory="IVF4,Flat", scratch=tmp_path).approximate.lists is None
    assert build_index(noise(301), factory="IVF4,Flat", scratch=tmp_path).approximate.lists is not None
