"""Changing an index: only what is new is encoded, and the result is the index that would be built from nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.tasks.indexing import index, merge

Make = Callable[..., EmbeddingIndex]


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)


@pytest.fixture
def make(tmp_path: Path, small_encoder: Encoder) -> Make:
    """``make(out, **options)``: the index in a folder after `ssl-toolkit index` of the images of two classes."""
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    for seed, name in enumerate(("cat/0", "cat/1", "dog/0", "dog/1")):
        paint(tmp_path / "images" / f"{name}.png", seed)

    def run(out: str = "index", data: str = "images", **options: Any) -> EmbeddingIndex:
        settings = {"workers": 0, "progress": False, **options}
        index(str(tmp_path / "encoder.safetensors"), str(tmp_path / data), str(tmp_path / out), **settings)
        return EmbeddingIndex.load(tmp_path / out)

    return run


def content(made: EmbeddingIndex) -> dict[str, tuple[str | int | None, str | None, bytes]]:
    rows = zip(made.paths, made.stamps, made.vectors, strict=True)
    return {p: (made.label(n), stamp, x.round(5).tobytes()) for n, (p, stamp, x) in enumerate(rows)}


def test_an_update_gives_what_a_new_index_holds(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = make()
    (tmp_path / "images" / "cat" / "0.png").unlink()
    paint(tmp_path / "images" / "dog" / "1.png", 17)
    paint(tmp_path / "images" / "emu" / "0.png", 18)
    paint(tmp_path / "images" / "bat" / "0.png", 19)  # shifts the numbers of all classes
    capsys.readouterr()
    after = make(update=True)
    assert "3 encoded, 2 taken out" in capsys.readouterr().err
    assert content(after) == content(make("new"))
    assert content(after) != content(before)
    assert after.classes == ["cat", "dog", "bat", "emu"]
    capsys.readouterr()
    assert content(make(update=True)) == content(after)
    assert "0 encoded, 0 taken out" in capsys.readouterr().err


def test_an_image_that_was_written_again_is_encoded_again(make: Make, tmp_path: Path) -> None:
    before = content(make())
    path = tmp_path / "images" / "cat" / "0.png"
    paint(path, 17)
    os.utime(path, ns=(1, 1))  # another time, and perhaps the same size
    after = content(make(update=True))
    assert {name for name in after if after[name] != before[name]} == {str(path)}


def test_adding_keeps_all_that_is_there(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = make()
    (tmp_path / "images" / "cat" / "0.png").unlink()
    paint(tmp_path / "images" / "dog" / "0.png", 17)  # changed, but not new
    paint(tmp_path / "images" / "cat" / "9.png", 18)
    capsys.readouterr()
    after = make(add=True)
    assert "1 encoded, 0 taken out" in capsys.readouterr().err
    assert after.paths == [*before.paths, str(tmp_path / "images" / "cat" / "9.png")]
    np.testing.assert_array_equal(after.vectors[:4], before.vectors)


def test_removing_by_a_list_of_what_is_gone(make: Make, tmp_path: Path) -> None:
    before = make()
    (tmp_path / "images" / "cat" / "0.png").unlink()
    (tmp_path / "gone.csv").write_text("path\nimages/cat/0.png\nimages/dog/1.png\nimages/never.png\n")
    after = make(data="gone.csv", remove=True)
    assert after.paths == before.paths[1:3]
    assert [after.label(place) for place in range(2)] == ["cat", "dog"]
    with pytest.raises(UsageError, match="nothing would be left in the index"):
        make(remove=True)
    assert content(EmbeddingIndex.load(tmp_path / "index")) == content(after)


def test_an_approximate_index_stays_one(make: Make, tmp_path: Path) -> None:
    for seed in range(20):
        paint(tmp_path / "images" / "cat" / f"x{seed}.png", seed)
    make(index="IVF4,Flat")
    paint(tmp_path / "images" / "dog" / "9.png", 99)
    after = make(add=True)
    assert after.approximate is not None
    assert (after.approximate.factory, after.approximate.index.ntotal) == ("IVF4,Flat", 25)


def test_labels_of_images_added_to_an_index_without_any(make: Make, tmp_path: Path) -> None:
    assert make(labels="none").labels is None
    paint(tmp_path / "images" / "dog" / "9.png", 99)
    after = make(add=True)
    assert [after.label(place) for place in range(5)] == [None] * 4 + ["dog"]


def test_what_does_not_fit_is_refused_and_the_index_stays(make: Make, tmp_path: Path) -> None:
    before = content(make())
    with pytest.raises(UsageError, match="holds an index already: change it by --add"):
        make()
    with pytest.raises(UsageError, match="--add --update: give one of them"):
        make(add=True, update=True)
    with pytest.raises(UsageError, match="holds no index"):
        make("nowhere", add=True)
    paint(tmp_path / "images" / "dog" / "9.png", 99)
    (tmp_path / "images" / "dog" / "8.png").write_text("no image")
    with pytest.raises(ToolkitError):
        make(update=True, max_bad_rate=0)
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16)), tmp_path / "encoder.safetensors")
    with pytest.raises(UsageError, match="is not the one of the index"):
        make(update=True)
    assert content(EmbeddingIndex.load(tmp_path / "index")) == before


def test_an_image_that_cannot_be_read_any_more_is_taken_out_and_listed(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(make())
    broken = tmp_path / "images" / "cat" / "1.png"
    broken.write_text("no image")
    with pytest.raises(ToolkitError, match="1 of the 4 images of"):  # of all images, not of those that have changed
        make(update=True, max_bad_rate=0)
    assert content(EmbeddingIndex.load(tmp_path / "index")) == before
    capsys.readouterr()
    after = make(update=True)
    assert content(after) == {name: row for name, row in before.items() if name != str(broken)}
    told = capsys.readouterr().err
    assert "0 encoded, 1 taken out" in told
    assert "1 could not be read and are not in the index" in told
    assert str(broken) in (tmp_path / "index" / "bad_images.csv").read_text()
    paint(broken, 1)
    assert content(make(update=True)).keys() == before.keys()
    assert not (tmp_path / "index" / "bad_images.csv").exists()


def test_few_changes_do_not_train_an_approximate_index_again(make: Make, tmp_path: Path) -> None:
    for seed in range(30):
        paint(tmp_path / "images" / "cat" / f"x{seed}.png", seed)
    make(index="IVF4,Flat")
    (tmp_path / "images" / "cat" / "x3.png").unlink()
    paint(tmp_path / "images" / "dog" / "9.png", 99)
    after = make(update=True)
    assert after.approximate is not None
    assert (after.approximate.trained, after.approximate.index.ntotal, len(after)) == (34, 34, 34)
    assert after.vectors.shape == (34, 256)
    for seed in range(40):
        paint(tmp_path / "images" / "dog" / f"y{seed}.png", 100 + seed)
    more = make(update=True)
    assert more.approximate is not None
    assert (more.approximate.trained, more.approximate.index.ntotal) == (74, 74)


def test_shards_merge_to_the_index_of_the_whole(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make()
    for number in (0, 1):
        rows = [f"images/{name}/{number}.png,{name}\n" for name in ("dog", "cat")]
        (tmp_path / f"list{number}.csv").write_text("".join(["path,label\n", *rows]))
        make(f"shard{number}", f"list{number}.csv")
    merge([str(tmp_path / f"shard{number}") for number in (0, 1)], str(tmp_path / "merged"))
    assert content(EmbeddingIndex.load(tmp_path / "merged")) == content(whole)
    capsys.readouterr()
    merge([str(tmp_path / name) for name in ("merged", "shard0")], str(tmp_path / "merged"), overwrite=True)
    assert "2 images are in several of them" in capsys.readouterr().err
    assert content(EmbeddingIndex.load(tmp_path / "merged")) == content(whole)
    with pytest.raises(UsageError, match="holds an index already: give --overwrite"):
        merge([str(tmp_path / "shard0")], str(tmp_path / "merged"))
