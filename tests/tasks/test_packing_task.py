"""`pack`: from every source, whole after any kill, and byte for byte what it would have been without."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit import open_images, pack
from ssl_toolkit.data import packing
from ssl_toolkit.errors import ToolkitError, UsageError
from tests.data import packed
from tests.killing import killed

JPEGS = packed.jpegs(12)
SHARD = {"shard_mb": 4.5e-6 * len(JPEGS[0]), "workers": 0, "progress": False}  # four images


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".npz"}


def same(given: object, shards: Path, **options: object) -> None:
    """Whether shards hold what they were made of."""
    source, images = open_images(given, **options), open_images(f"wds:{shards}", channels=options.get("channels"))
    assert images.labels.tolist() == source.labels.tolist()
    assert images.classes == source.classes
    for row in range(len(source)):
        np.testing.assert_array_equal(images.load(row, None), source.load(row, None))


def test_a_folder_becomes_shards_with_sums_that_hold(tmp_path):
    folder = packed.folder(tmp_path / "images", JPEGS)
    out = pack(folder, tmp_path / "out", **SHARD)
    same(folder, out)
    tars = sorted(path.name for path in out.glob("*.tar"))
    assert tars == ["shards-000000.tar", "shards-000001.tar", "shards-000002.tar"]
    lines = dict(line.split("  ")[::-1] for line in (out / "SHA256SUMS").read_text().splitlines())
    assert lines == {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in tars}
    stream = open_images(f"stream:wds:{out}")  # the lists say how many images there are
    assert (len(stream), stream.classes) == (12, packed.CLASSES)


@pytest.mark.parametrize("where", [1, 5, 9])
@pytest.mark.parametrize("what", ["_made", "sync", "write_list", "write_atomic"])
def test_a_kill_anywhere_costs_nothing(tmp_path, monkeypatch, where, what):
    """Killed at the `where`-th image that is made, shard that is synced, or list that is written, or sums."""
    monkeypatch.setattr(packing, "CHUNK", 2)
    folder = packed.folder(tmp_path / "images", [*JPEGS[:5], JPEGS[5][:99], *JPEGS[6:]])
    options = {**SHARD, "max_bad_rate": 0.2}
    whole = pack(folder, tmp_path / "whole", **options)
    owner = packing.ImageFiles if what == "_made" else packing
    usual, calls = getattr(owner, what), 0

    def dying(*args: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == (where if what == "_made" else where % 3 + 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(*args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(owner, what, dying)
        assert killed(lambda: pack(folder, tmp_path / "out", **options))
    pack(folder, tmp_path / "out", **options)
    assert content(tmp_path / "out") == content(whole)
    with (whole / "bad_images.csv").open() as file:
        assert [row[0] for row in csv.reader(file)] == ["path", str(folder / "bee" / "0005.jpg")]


def test_a_second_time_nothing_is_done(tmp_path, monkeypatch):
    folder = packed.folder(tmp_path / "images", JPEGS)
    out = pack(folder, tmp_path / "out", **SHARD)
    before = content(out)
    monkeypatch.setattr(packing.ImageFiles, "_made", None)
    assert content(pack(folder, out, **SHARD)) == before


def test_two_processes_do_not_write_to_one_folder(tmp_path, monkeypatch):
    folder, out = packed.folder(tmp_path / "images", JPEGS), tmp_path / "out"
    usual, found = packing.ShardWriter.close, []

    def meanwhile(writer: packing.ShardWriter) -> None:
        if not (child := os.fork()):
            monkeypatch.undo()  # a child has no child, whatever becomes of it
            try:
                pack(folder, out, size=12, overwrite=True, **SHARD)
            except UsageError as error:
                os._exit(7 if f"{out} is being written by another process" in str(error) else 1)
            finally:
                os._exit(0)
        found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        usual(writer)

    monkeypatch.setattr(packing.ShardWriter, "close", meanwhile)
    pack(folder, out, **SHARD)
    assert set(found) == {7}
    same(folder, out)


def test_a_folder_of_other_shards_is_left_as_it_is(tmp_path):
    out = pack(packed.folder(tmp_path / "images", JPEGS), tmp_path / "out", **SHARD)
    (out / "pack.json").unlink()
    before = content(out)
    with pytest.raises(UsageError, match="holds shards of other images or settings"):
        pack(tmp_path / "images", out, **SHARD)
    assert content(out) == before


def test_a_shard_that_was_damaged_is_written_again(tmp_path):
    folder = packed.folder(tmp_path / "images", JPEGS)
    out = pack(folder, tmp_path / "out", **SHARD)
    before = content(out)
    with (out / "shards-000001.tar").open("r+b") as file:
        file.truncate(2000)
    assert content(pack(folder, out, **SHARD)) == before


def test_every_source(tmp_path):
    folder = packed.folder(tmp_path / "images", JPEGS)
    first = pack(folder, tmp_path / "first", **SHARD)
    sources: list[tuple[object, dict[str, object]]] = [
        (f"wds:{first}", {}),
        ("shapes:train:5", {}),
        ([str(folder / "ant" / "0000.jpg")], {}),
        (np.random.default_rng(0).integers(0, 256, (3, 8, 9, 3), np.uint8), {}),
    ]
    for number, (given, options) in enumerate(sources):
        same(given, pack(given, tmp_path / f"out{number}", **SHARD, **options), **options)
    streamed = pack(f"stream:wds:{first}", tmp_path / "streamed", **SHARD)
    same(f"wds:{first}", streamed)
    assert content(streamed).keys() == content(first).keys()


def test_deep_images_keep_their_depth(tmp_path):
    pytest.importorskip("tifffile")
    deep = np.random.default_rng(0).integers(0, 4096, (3, 5, 8, 9)).astype(np.uint16)
    out = pack(deep, tmp_path / "deep", range="0,4095", **SHARD)
    same(deep, out, channels=5, range="0,4095")


def test_shuffled_they_are_the_same_images(tmp_path):
    folder = packed.folder(tmp_path / "images", JPEGS)
    plain, mixed = (pack(folder, tmp_path / str(mix), shuffle=mix, **SHARD) for mix in (False, True))
    labels = [open_images(f"wds:{out}").labels.tolist() for out in (plain, mixed)]
    assert labels[0] != labels[1]
    assert sorted(labels[1]) == labels[0]
    assert pack(folder, tmp_path / "again", shuffle=True, **SHARD)
    assert (tmp_path / "again" / "SHA256SUMS").read_text() == (mixed / "SHA256SUMS").read_text()


def test_workers_change_nothing(tmp_path):
    folder = packed.folder(tmp_path / "images", packed.jpegs(40))
    outs = [pack(folder, tmp_path / str(n), size=12, **SHARD | {"workers": n}) for n in (0, 2)]
    assert content(outs[0]) == content(outs[1])


def test_other_settings_and_too_many_bad_images_are_refused(tmp_path):
    folder = packed.folder(tmp_path / "images", JPEGS)
    out = pack(folder, tmp_path / "out", **SHARD)
    with pytest.raises(UsageError, match="holds shards of other images or settings"):
        pack(folder, out, size=12, **SHARD)
    pack(folder, out, size=12, overwrite=True, **SHARD)
    assert open_images(f"wds:{out}").load(0, None).shape == (3, 12, 12)
    for name, value in (("size", 2), ("shard_mb", 0), ("workers", -1), ("max_bad_rate", 2)):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is {value}: it must be"):
            pack(folder, tmp_path / "no", **SHARD | {name: value})
    with pytest.raises(UsageError, match="is a stream"):
        pack(f"stream:wds:{out}", tmp_path / "no", shuffle=True, **SHARD)
    bad = packed.folder(tmp_path / "bad", [data[:99] for data in JPEGS])
    with pytest.raises(ToolkitError, match="12 of the 12 images"):
        pack(bad, tmp_path / "none", **SHARD)
    assert len((tmp_path / "none" / "bad_images.csv").read_text().splitlines()) == 13


def test_names_of_classes_that_were_begun_with_are_gone_without_labels(tmp_path):
    folder = packed.folder(tmp_path / "images", JPEGS)
    pack(folder, tmp_path / "out", **SHARD)
    for path in [*(tmp_path / "out").glob("*.tar"), *(tmp_path / "out").glob("*.npz")]:
        path.unlink()  # as if it had been killed before its first shard
    pack(folder, tmp_path / "out", labels="none", **SHARD)
    assert not (tmp_path / "out" / "classes.json").exists()
