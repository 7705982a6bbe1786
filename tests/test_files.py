from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssl_toolkit import files
from ssl_toolkit.files import sha256_of, sync, temporary_beside, write_atomic


def test_write_atomic_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, lambda temporary: temporary.write_text("one"))
    assert path.read_text() == "one"
    write_atomic(str(path), lambda temporary: temporary.write_text("two"))
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_writer_gets_the_same_folder_and_suffix(tmp_path: Path) -> None:
    seen: list[Path] = []

    def writer(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_bytes(b"")

    write_atomic(tmp_path / "weights.safetensors", writer)
    assert seen[0].parent == tmp_path
    assert seen[0].suffix == ".safetensors"
    assert seen[0].name != "weights.safetensors"


def test_a_long_name_still_fits(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".txt")
    write_atomic(path, lambda temporary: temporary.write_text("x"))
    assert path.read_text() == "x"


@pytest.mark.parametrize("step", ["writer", "sync", "replace"])
def test_an_error_at_any_step_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise RuntimeError("stop")

    def writer(temporary: Path) -> None:
        temporary.write_text("half of the n")
        if step == "writer":
            fail()

    if step == "sync":
        monkeypatch.setattr(os, "fsync", fail)
    if step == "replace":
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RuntimeError, match="stop"):
        write_atomic(path, writer)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_content_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_sync, real_replace = sync, os.replace

    def spy_sync(path: Path) -> None:
        calls.append("sync folder" if path.is_dir() else "sync file")
        real_sync(path)

    def spy_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(files, "sync", spy_sync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write_atomic(tmp_path / "a.txt", lambda temporary: temporary.write_text("x"))
    assert calls == ["sync file", "rename", "sync folder"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "a.txt", lambda temporary: temporary.write_text("x"))


def test_temporary_beside_gives_fresh_names_and_cleans_up(tmp_path: Path) -> None:
    with temporary_beside(tmp_path / "a.npy") as one, temporary_beside(tmp_path / "a.npy") as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
    assert os.listdir(tmp_path) == []


def test_sha256_known_value_and_large_files(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    path.write_bytes(b"a" * 1_000_000)
    assert sha256_of(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"  # FIPS 180-2, B.3
    path.write_bytes(b"a" * ((1 << 20) + 1))  # one byte into the second block
    assert sha256_of(path) != sha256_of(__file__)
