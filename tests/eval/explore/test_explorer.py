"""What a page can ask of an index: right neighbours, and nothing but the index's images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from explored import explored_folder, indexed
from PIL import Image

from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.encoders import TextConfig, TextTower, save_text
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.explore import explorer as explore
from ssl_toolkit.eval.explore.embedding_map import EmbeddingMap
from ssl_toolkit.eval.explore.explorer import Explorer
from ssl_toolkit.eval.search.index import EmbeddingIndex


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explored_folder(tmp_path_factory.mktemp("explore"))


@pytest.fixture(scope="module")
def made(folder: Path) -> Explorer:
    return Explorer.of(EmbeddingIndex.load(folder / "index"))


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_neighbours_are_the_nearest_others(tmp_path: Path, metric: str) -> None:
    x = np.random.default_rng(0).normal(size=(30, 5))
    x[7] = x[21]  # equal vectors: 7 comes first among the neighbours of 21, and must stay there
    index = indexed(tmp_path, x, [f"{n}.png" for n in range(30)], metric=metric)
    answer = Explorer(index, encode=lambda content: x[0], map=EmbeddingMap.draw(index, 9)).neighbours(21, k=6)
    if metric == "cosine":
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        score = unit @ unit[21]
        order = np.argsort(-score)
    else:
        score = np.linalg.norm(x - x[21], axis=1)
        order = np.argsort(score)
    expected = [n for n in order if n != 21][:6]
    assert answer["query"]["position"] == 21
    assert [hit["position"] for hit in answer["hits"]] == expected
    np.testing.assert_allclose([hit["score"] for hit in answer["hits"]], score[expected], atol=1e-5)


def test_the_bytes_of_an_indexed_image_find_it_again(made: Explorer, folder: Path) -> None:
    answer = made.similar((folder / "images" / "red" / "4.png").read_bytes(), k=3)
    assert answer["hits"][0]["name"] == "red/4.png"
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(answer["query"]["xy"], answer["hits"][0]["xy"], atol=1e-3)
    assert {made.classes[hit["label"]] for hit in answer["hits"]} == {"red"}


def test_what_is_too_large_or_no_image_is_refused_undecoded(made: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadImageError, match="more than the cap of 67,108,864"):
        made.similar(png(9000, 9000))  # 81 million pixels in some 10 kB
    with pytest.raises(BadImageError, match="not an image"):
        made.similar(b"root:x:0:0")
    monkeypatch.setattr(explore, "MAX_BYTES", 100)
    with pytest.raises(UsageError, match="101 bytes: at most 100"):
        made.similar(bytes(101))


def test_find_goes_by_name_and_class(made: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made.find(" RED/4")
    assert [row["name"] for row in found["rows"]] == ["red/4.png"]
    monkeypatch.setattr(explore, "FOUND", 9)
    found = made.find("blu")
    assert (len(found["rows"]), found["more"]) == (9, True)
    assert {made.classes[row["label"]] for row in found["rows"]} == {"blue"}
    monkeypatch.setattr(explore, "FOUND", 10)
    assert made.find("blu")["more"] is False
    assert made.find("images") == {"rows": [], "more": False}  # what all names begin with is no part of them


def test_pictures_of_files_and_of_items_of_a_set(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (200, 0, 0)).save(tmp_path / "a.png")
    index = indexed(tmp_path, np.eye(3), [str(tmp_path / "a.png"), "shapes:test#3", str(tmp_path / "gone.png")])
    made = Explorer(index, encode=lambda content: np.ones(3), map=EmbeddingMap.draw(index, 9))
    with Image.open(io.BytesIO(made.thumbnail(0, 64))) as picture:
        assert (picture.size, picture.format, picture.getpixel((9, 9))) == ((64, 64), "PNG", (200, 0, 0))
    assert made.thumbnail(1, 64)[:4] == b"\x89PNG"
    with pytest.raises(UsageError, match="no such image"):
        made.thumbnail(2, 64)
    for position in (3, -1):
        with pytest.raises(UsageError, match=f"no image {position}: the index holds 3"):
            made.thumbnail(position, 64)
        with pytest.raises(UsageError, match=f"no image {position}: the index holds 3"):
            made.neighbours(position)


def test_classes_that_are_numbers_and_items_without_one(tmp_path: Path) -> None:
    index = indexed(tmp_path, np.eye(3), ["a", "b", "c"], labels=np.array([7, -1, 5]))
    made = Explorer(index, encode=lambda content: np.ones(3), map=EmbeddingMap.draw(index, 9))
    assert made.classes == ["5", "7"]
    assert [made.neighbours(place)["query"]["label"] for place in range(3)] == [1, -1, 0]
    drawn = made.overview()["map"]
    assert dict(zip(drawn["position"], drawn["label"], strict=True)) == {0: 1, 1: -1, 2: 0}


def test_words_find_what_is_nearest_to_them(made: Explorer, folder: Path) -> None:
    assert made.overview()["texts"] is False
    with pytest.raises(UsageError, match="knows no texts"):
        made.described("a red car")
    index = EmbeddingIndex.load(folder / "index")
    tower = TextTower(TextConfig("bytes", index.dimension, 16, 1))
    save_text(tower, folder / "index" / "text.safetensors")
    try:
        told = Explorer.of(index)
    finally:
        (folder / "index" / "text.safetensors").unlink()
    assert told.overview()["texts"] is True
    answer = told.described(" a red car", k=4)
    hits = index.search(tower.encode(["a red car"]).numpy(), 4)
    assert [hit["position"] for hit in answer["hits"]] == hits.position[0].tolist()
    assert answer["query"] == {"xy": None}
    with pytest.raises(UsageError, match="no words"):
        told.described("  ")
