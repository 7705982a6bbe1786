"""Several indexes as one, and what does not fit together."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search import joining
from ssl_toolkit.eval.search.index import EmbeddingIndex
from tests.conftest import BuildIndex, noise, same_hits


def labels_of(index: EmbeddingIndex) -> list[str | int | None]:
    return [index.label(place) for place in range(len(index))]


@pytest.mark.parametrize("on_disk", [False, True])
def test_merged_shards_are_the_index_of_the_whole(
    build_index: BuildIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool
) -> None:
    monkeypatch.setattr(joining, "_COPIED", 7)
    x, queries = noise(60), noise(5, seed=1)
    names = [f"{i}.jpg" for i in range(60)]
    shards = []
    for number, rows in enumerate((slice(0, 10), slice(10, 11), slice(11, 60))):
        build_index(x[rows], names[rows], data=f"shard{number}/").save(tmp_path / f"{number}")
        shards.append(EmbeddingIndex.load(tmp_path / f"{number}"))
    merged = EmbeddingIndex.merged(shards, scratch=tmp_path if on_disk else None)
    whole = build_index(x, names)
    assert isinstance(merged.vectors, np.memmap) == on_disk
    assert same_hits(merged.search(queries, 60), whole.search(queries, 60))
    assert merged.data == "shard0/, shard1/, shard2/"
    merged.save(tmp_path / "merged")
    assert same_hits(EmbeddingIndex.load(tmp_path / "merged").search(queries, 60), whole.search(queries, 60))
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "encoder.safetensors", "merged"]  # no scratch is left


def test_of_a_path_in_several_indexes_the_last_counts(build_index: BuildIndex) -> None:
    x = noise(6)
    one = build_index(x[:3], ["a", "b", "c"], stamps=["1", "1", "1"])
    two = build_index(x[3:5], ["b", "d"], stamps=["2", "2"])
    three = build_index(x[5:], ["a"], stamps=["3"])
    merged = EmbeddingIndex.merged([one, two, three])
    assert merged.paths == ["c", "b", "d", "a"]
    assert merged.stamps == ["1", "2", "2", "3"]
    np.testing.assert_array_equal(merged.vectors, np.concatenate([one.vectors[2:], two.vectors, three.vectors]))
    twice = build_index(x[:2], ["a", "a"])  # a list may name an image twice
    assert EmbeddingIndex.merged([twice, two]).paths == ["a", "a", "b", "d"]


def test_classes_of_merged_indexes_are_matched_by_name(build_index: BuildIndex) -> None:
    x = noise(3)
    cats = build_index(x, ["a", "b", "c"], labels=np.array([0, 1, -1]), classes=["cat", "dog"])
    emus = build_index(x[:2], ["d", "e"], labels=np.array([1, 0]), classes=["dog", "emu"])
    bare = build_index(x[:1], ["f"])
    merged = EmbeddingIndex.merged([bare, cats, emus])
    assert labels_of(merged) == [None, "cat", "dog", None, "emu", "dog"]
    assert merged.classes == ["cat", "dog", "emu"]
    assert EmbeddingIndex.merged([bare, build_index(x[:1], ["g"])]).labels is None
    numbers = build_index(x[:2], ["h", "i"], labels=np.array([5, -1]))
    assert labels_of(EmbeddingIndex.merged([numbers, bare])) == [5, None, None]
    with pytest.raises(UsageError, match="labels of two kinds, names and bare numbers"):
        EmbeddingIndex.merged([numbers, cats])


def test_indexes_that_do_not_fit_together_are_named(build_index: BuildIndex, tmp_path: Path) -> None:
    for name, options in (("a", {}), ("b", {"metric": "l2"}), ("c", {"encoder_sha256": "f" * 64})):
        build_index(noise(3), **options).save(tmp_path / name)
    a, b, c = (EmbeddingIndex.load(tmp_path / name) for name in "abc")
    with pytest.raises(UsageError, match=rf"the metric of {tmp_path}/b is l2, that of {tmp_path}/a is cosine"):
        EmbeddingIndex.merged([a, b])
    with pytest.raises(UsageError, match=rf"the encoder of {tmp_path}/c is f{{12}}, that of {tmp_path}/a is e{{12}}"):
        EmbeddingIndex.merged([a, a, c])
    with pytest.raises(UsageError, match="there are no indexes to merge"):
        EmbeddingIndex.merged([])
