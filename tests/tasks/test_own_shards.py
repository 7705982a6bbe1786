"""Parts of a set of images: which is whose, and that all of them together are the whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.features.extraction import load_features
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.tasks.embedding import embed
from ssl_toolkit.tasks.indexing import index, merge
from ssl_toolkit.tasks.sharding import Shard, own_shard
from tests.conftest import same_hits

DATA = "shapes:test:10"
READ: dict[str, Any] = {"workers": 0, "progress": False}


@pytest.fixture
def encoder(tmp_path: Path, small_encoder: Encoder) -> Path:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".npy", ".jsonl")}


def test_parts_follow_one_another_and_are_all_but_equal() -> None:
    firsts = [Shard(number, 4).first(10) for number in range(5)]
    assert firsts == [0, 2, 5, 7, 10]


@pytest.mark.parametrize("asked", ["4/4", "-1/4", "1", "a/b", "0/0", "1/4/2", ""])
def test_a_wrong_number_is_refused_in_a_line(asked: str) -> None:
    with pytest.raises(UsageError, match=r"^--shard .*: (shards are numbered 0/4 to 3/4|it must be i/n, such as 0/8)$"):
        own_shard(asked)


def test_ranks_of_torchrun_and_srun_are_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_shard(None) is None
    assert own_shard("0/1") is None
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert own_shard(None) == Shard(5, 8)
    assert own_shard("2/3") == Shard(2, 3)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    for name, value in {"SLURM_NTASKS": "6", "SLURM_PROCID": "3", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert own_shard(None) == Shard(3, 6)


def test_features_of_all_parts_are_those_of_the_whole(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = files(embed(encoder, DATA, tmp_path / "whole", **READ))
    for number in (2, 0, 1):
        part = embed(encoder, DATA, tmp_path / "parts", shard=f"{number}/3", **READ)
        assert part == tmp_path / "parts" / f"shard-0000{number}-of-00003"
    assert load_features(part).index.tolist() == [3, 4, 5]
    before = files(part)
    capsys.readouterr()
    embed(encoder, DATA, tmp_path / "parts", shard="1/3", **READ)
    assert "shard 1/3 is there already" in capsys.readouterr().err
    assert files(part) == before
    with pytest.raises(UsageError, match=r"holds features of other images or of another encoder: give --overwrite"):
        embed(encoder, "shapes:test:11", tmp_path / "parts", shard="1/3", **READ)
    merged = merge([tmp_path / "parts"], tmp_path / "merged")
    assert files(merged) == whole
    with pytest.raises(UsageError, match="holds features already"):
        merge([tmp_path / "parts"], tmp_path / "merged")


def test_an_index_of_all_parts_is_that_of_the_whole(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = EmbeddingIndex.load(index(encoder, DATA, tmp_path / "whole", **READ))
    for number in range(2):
        index(encoder, DATA, tmp_path / "parts", shard=f"{number}/2", **READ)
    capsys.readouterr()
    index(encoder, DATA, tmp_path / "parts", shard="1/2", **READ)
    assert "shard-00001-of-00002 is there already" in capsys.readouterr().err
    with pytest.raises(UsageError, match="holds an index of other images"):
        index(encoder, "shapes:test:20", tmp_path / "parts", shard="1/2", **READ)
    with pytest.raises(UsageError, match=r"--index HNSW4: parts are searched exactly, give it to merge"):
        index(encoder, DATA, tmp_path / "parts", shard="1/2", index="HNSW4", **READ)
    merged = EmbeddingIndex.load(merge([tmp_path / "parts"], tmp_path / "merged"))
    queries = np.array(whole.vectors[:3])
    assert same_hits(merged.search(queries), whole.search(queries))
    assert (merged.paths, merged.classes) == (list(whole.paths), whole.classes)
    lists = EmbeddingIndex.load(merge([tmp_path / "parts"], tmp_path / "lists", index="HNSW4"))
    assert lists.approximate is not None


def test_what_is_wrong_with_a_part_is_said_in_a_line_and_nothing_is_lost(tmp_path: Path, encoder: Path) -> None:
    for number in range(3):
        embed(encoder, DATA, tmp_path / "parts", shard=f"{number}/3", **READ)
    part = tmp_path / "parts" / "shard-00001-of-00003"
    whole = (part / "features.npy").read_bytes()
    for damaged in (whole[:-4], whole[:-1] + b"\1"):
        (part / "features.npy").write_bytes(damaged)
        with pytest.raises(ToolkitError, match=r"shard-00001-of-00003 are damaged: features.npy: .*hash; write them"):
            merge([tmp_path / "parts"], tmp_path / "out")
    (part / "features.npy").unlink()
    with pytest.raises(ToolkitError, match=r"damaged: features.npy is missing"):
        merge([tmp_path / "parts"], tmp_path / "out")
    (part / "features.npy").write_bytes(whole)
    about = (part / "features.json").read_text()
    for damaged in ("{}", "[1]", about[:-9]):
        (part / "features.json").write_text(damaged)
        with pytest.raises(ToolkitError, match=r"shard-00001-of-00003 are damaged \(features.json\)"):
            merge([tmp_path / "parts"], tmp_path / "out")
    (part / "features.json").write_text(about)
    with pytest.raises(
        UsageError, match=r"--index HNSW4: .*shard-00000-of-00003 holds features, which are not searched"
    ):
        merge([tmp_path / "parts"], tmp_path / "out", index="HNSW4")
    with pytest.raises(UsageError, match=r"begins at image 6, the part before it ends at 3"):
        merge([part.with_name("shard-00000-of-00003"), part.with_name("shard-00002-of-00003")], tmp_path / "out")
    with pytest.raises(UsageError, match=r"the parts end at image 6 of 10: one is missing"):
        merge([part.with_name("shard-00000-of-00003"), part], tmp_path / "out")
    shutil.move(part, tmp_path / "aside")
    with pytest.raises(UsageError, match=r"lacks 1 of 3 shards, first 1/3"):
        merge([tmp_path / "parts"], tmp_path / "out")
    embed(encoder, DATA, tmp_path / "parts", shard="0/2", **READ)
    with pytest.raises(UsageError, match=r"holds shards of 2 and of 3 parts"):
        merge([tmp_path / "parts"], tmp_path / "out")
    with pytest.raises(UsageError, match=r"has 10 images, fewer than parts"):
        embed(encoder, DATA, tmp_path / "many", shard="0/11", **READ)
    assert not (tmp_path / "out").exists()


def test_features_of_several_encoders_are_not_joined(tmp_path: Path, encoder: Path) -> None:
    embed(encoder, DATA, tmp_path / "parts", shard="0/2", **READ)

    save_encoder(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), tmp_path / "other.safetensors")
    embed(tmp_path / "other.safetensors", DATA, tmp_path / "parts", shard="1/2", **READ)
    with pytest.raises(UsageError, match=r"shard-00001-of-00002 has encoder_sha256 .*: they must agree"):
        merge([tmp_path / "parts"], tmp_path / "out")


def test_features_as_parquet(tmp_path: Path, encoder: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    out = embed(encoder, DATA, tmp_path / "out", parquet=True, **READ)
    table, features = pq.read_table(out / "features.parquet"), load_features(out)
    assert table.column_names == ["index", "path", "label", "vector"]
    assert table["path"].to_pylist() == features.paths
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), features.x)
    assert table["label"].to_pylist() == features.label.tolist()
    assert os.path.getsize(out / "features.npy")
