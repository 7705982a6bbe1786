"""An index on disk is the old one or the new one, never something else."""

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

from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.search import folder as module
from ssl_toolkit.eval.search.index import EmbeddingIndex
from tests.conftest import BuildIndex, noise, same_hits

PARTS = ("vectors", "items", "encoder", "approximate")


def part(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"{name}-*") if name in PARTS else [folder / name]
    return found


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_index_comes_back_as_it_was(build_index: BuildIndex, tmp_path: Path, metric: str) -> None:
    odd = ["plain.jpg", "line\nbreak.jpg", "bytes\udcff.jpg", "ünï\u2028code.jpg", "", '"quoted"\\']
    index = build_index(noise(6), odd, metric=metric, labels=np.array([0, 1, -1, 1, 0, 0]), classes=["ä", "b\n"])
    folder = tmp_path / "deep" / "index"
    index.save(folder)
    again = EmbeddingIndex.load(folder)
    assert same_hits(again.search(noise(4, seed=1), k=6), index.search(noise(4, seed=1), k=6))
    assert (again.paths, again.classes, again.metric, again.data) == (odd, ["ä", "b\n"], metric, "photos/")
    assert (len(again), again.dimension, again.encoder_sha256) == (6, 8, "e" * 64)
    assert again.encoder_file.parent == folder
    assert again.encoder_file.read_bytes() == b"the weights of an encoder"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["count"], manifest["dimension"], manifest["metric"]) == (6, 8, metric)
    assert manifest["versions"]["faiss-cpu"] == faiss.__version__
    assert len(os.listdir(folder)) == 4


def test_an_index_is_not_overwritten_by_accident(build_index: BuildIndex, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_index(noise(5)).save(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "encoder-mine.safetensors").write_text("mine")
    (folder / ".vectors.tmp-0123456789abcdef.npy").write_text("of a killed process")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="already holds an index"):
        build_index(noise(7, seed=1)).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    build_index(noise(7, seed=1)).save(folder, overwrite=True)
    assert len(EmbeddingIndex.load(folder)) == 7
    names = sorted(re.sub("-[0-9a-f]{16}", "", name) for name in os.listdir(folder))
    assert names == [
        "encoder-mine.safetensors", "encoder.safetensors", "items.jsonl", "manifest.json", "notes.txt", "vectors.npy",
    ]  # fmt: skip


def test_a_loaded_index_can_be_saved_where_it_came_from(build_index: BuildIndex, tmp_path: Path) -> None:
    build_index(noise(5)).save(tmp_path / "index")
    before = sorted(os.listdir(tmp_path / "index"))
    EmbeddingIndex.load(tmp_path / "index").save(tmp_path / "index", overwrite=True)
    assert sorted(os.listdir(tmp_path / "index")) == before
    EmbeddingIndex.load(tmp_path / "index")


@pytest.mark.parametrize("name", PARTS)
def test_a_flipped_bit_in_a_part_is_found_and_named(build_index: BuildIndex, tmp_path: Path, name: str) -> None:
    build_index(noise(20), labels=np.arange(20), factory="HNSW4").save(tmp_path)
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


def test_flipped_bits_would_go_unnoticed_by_faiss(build_index: BuildIndex, tmp_path: Path) -> None:
    """Why the hashes are there."""
    build_index(noise(20), factory="HNSW4").save(tmp_path)
    path = part(tmp_path, "approximate")
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 0x40  # the exponent of the last number
    path.write_bytes(bytes(whole))
    assert faiss.read_index(str(path)).ntotal == 20


def test_a_flipped_bit_in_the_manifest_is_found_or_changes_nothing(build_index: BuildIndex, tmp_path: Path) -> None:
    build_index(noise(3), labels=np.arange(3), classes=["a", "b", "c"]).save(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    content = module.read_manifest(tmp_path)
    harmless = 0
    for place in range(0, len(whole), 3):
        flipped = whole[place] ^ (1 << place % 8)
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        try:
            found = module.read_manifest(tmp_path)
        except ToolkitError:
            continue
        assert found == content  # a blank for a line break, say
        harmless += 1
    assert harmless < 5


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "3", '{"sha256": 1}', "{", "\0", '{"a": NaN}'])
def test_a_manifest_that_is_none_is_refused(build_index: BuildIndex, tmp_path: Path, text: str) -> None:
    build_index(noise(3)).save(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ToolkitError, match=r"manifest\.json: .*; build it again"):
        EmbeddingIndex.load(tmp_path)


def reseal(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(module.sealed({**json.loads(path.read_text()), **changes})))


def test_counts_and_versions_are_checked(build_index: BuildIndex, tmp_path: Path) -> None:
    build_index(noise(3)).save(tmp_path)
    reseal(tmp_path, format=1)
    with pytest.raises(ToolkitError, match="has format 1, this version reads 2: build the index again"):
        EmbeddingIndex.load(tmp_path)
    for wrong in ({"count": 4}, {"dimension": 9}):
        build_index(noise(3)).save(tmp_path, overwrite=True)
        reseal(tmp_path, **wrong)
        with pytest.raises(ToolkitError, match="its counts are not those of the parts"):
            EmbeddingIndex.load(tmp_path)


def test_a_manifest_cannot_point_out_of_its_folder(build_index: BuildIndex, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_index(noise(3)).save(folder)
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
def test_a_kill_at_any_step_leaves_the_old_index_or_the_new(build_index: BuildIndex, tmp_path: Path) -> None:
    query = noise(3, seed=9)
    old = build_index(noise(20), encoder_sha256="a" * 64)
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other weights")
    new = build_index(noise(30, seed=1), encoder_sha256="b" * 64, encoder_file=other, factory="HNSW4")
    answers = {"a" * 64: old.search(query, 5), "b" * 64: new.search(query, 5)}
    encoders = {"a" * 64: b"the weights of an encoder", "b" * 64: b"other weights"}
    seen = []
    for number in range(1, 100):
        folder = tmp_path / f"index{number}"
        old.save(folder)
        died = killed(new, folder, number)
        loaded = EmbeddingIndex.load(folder)
        assert same_hits(loaded.search(query, 5), answers[loaded.encoder_sha256])
        assert loaded.encoder_file.read_bytes() == encoders[loaded.encoder_sha256]
        seen.append(loaded.encoder_sha256[0])
        new.save(folder, overwrite=True)  # what a killed process left is no obstacle, and goes
        assert same_hits(EmbeddingIndex.load(folder).search(query, 5), answers["b" * 64])
        assert len(os.listdir(folder)) == 5
        if not died:
            break
    assert "".join(seen) == "a" * seen.count("a") + "b" * seen.count("b")
    assert seen.count("a") > 10
    assert seen.count("b") > 3


@needs_fork
def test_a_first_build_that_was_killed_is_no_index_and_no_obstacle(build_index: BuildIndex, tmp_path: Path) -> None:
    index = build_index(noise(20))
    assert killed(index, tmp_path / "index", 12)
    assert len(os.listdir(tmp_path / "index")) > 1
    with pytest.raises(UsageError, match="holds no index"):
        EmbeddingIndex.load(tmp_path / "index")
    index.save(tmp_path / "index")
    assert len(EmbeddingIndex.load(tmp_path / "index")) == 20
    assert len(os.listdir(tmp_path / "index")) == 4


def test_an_error_at_any_step_leaves_no_temporary_files(build_index: BuildIndex, tmp_path: Path) -> None:
    old, new = build_index(noise(20)), build_index(noise(30, seed=1))
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
    build_index: BuildIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(noise(20)).save(tmp_path / "index")
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
    build_index(noise(20, seed=1), ["x"] * 20).save(tmp_path / "index", overwrite=True)
    assert taken == [
        "sync vectors", "rename vectors",
        "sync items", "rename items",
        "sync encoder", "rename encoder",
        "sync index",
        "sync manifest", "rename manifest.json", "sync index",
        "delete vectors", "delete items",
    ]  # fmt: skip


def test_a_missing_encoder_file_leaves_the_old_index(build_index: BuildIndex, tmp_path: Path) -> None:
    build_index(noise(20)).save(tmp_path / "index")
    with pytest.raises(FileNotFoundError):
        build_index(noise(30), encoder_file=tmp_path / "nowhere").save(tmp_path / "index", overwrite=True)
    assert len(EmbeddingIndex.load(tmp_path / "index")) == 20
