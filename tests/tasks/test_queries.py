"""Asking an index by image, folder, set, vectors or its own images: each by the right vector, and in order."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_toolkit.encoders import Encoder, TextConfig, TextTower, save_encoder, save_text
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.tasks import searching as module
from ssl_toolkit.tasks.embedding import embed
from ssl_toolkit.tasks.indexing import index, merge
from ssl_toolkit.tasks.queries import Asking
from ssl_toolkit.tasks.searching import Neighbours, search


def paint(path: Path, seed: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture
def place(tmp_path: Path, small_encoder: Encoder) -> Path:
    """A folder with an index of six images of two classes, and copies of some of them under other names."""
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    for seed in range(6):
        paint(tmp_path / "indexed" / ("cat" if seed < 3 else "dog") / f"{seed}.png", seed)
    for name, seed in (("b/0", 4), ("a/9", 1), ("a/10", 5)):
        paint(tmp_path / "copies" / f"{name}.png", seed)
    options = {"workers": 0, "progress": False}
    index(str(tmp_path / "encoder.safetensors"), str(tmp_path / "indexed"), str(tmp_path / "index"), **options)
    return tmp_path


def ask(place: Path, *queries: str | Path, **options: Any) -> list[dict[str, Any]]:
    settings = {"k": 2, "workers": 0, "progress": False, **options}
    return search(str(place / "index"), [str(query) for query in queries], **settings)


def first(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(Path(one["query"]).stem, Path(one["hits"][0]["path"]).stem) for one in found]


def test_all_images_of_a_folder_are_asked_in_order(place: Path) -> None:
    found = ask(place, place / "copies")
    assert first(found) == [("10", "5"), ("9", "1"), ("0", "4")]  # a/10, a/9, b/0: by the bytes of the names
    assert found[0]["query"] == str(place / "copies" / "a" / "10.png")
    assert [one["label"] for one in found] == ["a", "a", "b"]
    assert [one["hits"][0]["label"] for one in found] == ["dog", "cat", "dog"]
    assert found[0]["hits"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_a_set_of_images_is_asked_by_its_word(place: Path) -> None:
    (place / "list.csv").write_text("path\ncopies/b/0.png\ncopies/a/9.png\n")
    assert first(ask(place, place / "list.csv")) == [("0", "4"), ("9", "1")]
    pixels = np.stack([np.asarray(Image.open(place / "copies" / "a" / f"{n}.png")) for n in (9, 10)])
    np.save(place / "images.npy", pixels)
    found = ask(place, place / "images.npy")
    assert [Path(one["hits"][0]["path"]).stem for one in found] == ["1", "5"]
    assert [one["query"] for one in ask(place, "shapes:test:3")] == [f"shapes:test:3#{number}" for number in range(3)]


def test_vectors_are_asked_as_they_are(place: Path) -> None:
    folder = embed(
        str(place / "encoder.safetensors"), str(place / "copies"), str(place / "f"), workers=0, progress=False
    )
    file = folder / "features.npy"
    found = ask(place, file)
    assert [one["query"] for one in found] == [f"{file}#{row}" for row in range(3)]
    assert [one["hits"] for one in found] == [one["hits"] for one in ask(place, place / "copies")]
    np.save(file, np.load(file).astype(np.float64))
    assert [one["hits"] for one in ask(place, file)] == [one["hits"] for one in found]


def test_an_image_of_the_index_needs_no_file_and_no_encoder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = place / "indexed" / "cat" / "1.png"
    (there,) = ask(place, name, k=6)
    monkeypatch.setattr(Asking, "network", property(lambda self: pytest.fail("an encoder was loaded")))
    monkeypatch.chdir(place / "indexed")
    name.unlink()
    (gone,) = ask(place, "cat/1.png", k=6)
    assert gone["hits"] == there["hits"]
    assert gone["label"] == "cat"
    assert [hit["rank"] for hit in gone["hits"]] == [1, 2, 3, 4, 5]
    assert str(name) not in [hit["path"] for hit in gone["hits"]]


def test_a_file_that_was_changed_since_is_asked_as_it_is_now(place: Path) -> None:
    name = place / "indexed" / "cat" / "1.png"
    paint(name, 4)
    assert first(ask(place, name)) == [("1", "4")]


def test_queries_of_all_kinds_keep_their_order(place: Path) -> None:
    np.save(place / "v.npy", np.ones((2, 256), np.float32))
    indexed = place / "indexed" / "dog"
    queries = [
        place / "copies" / "a" / "9.png", indexed / "4.png", place / "v.npy", place / "copies", "shapes:test#3",
        place / "copies" / "b" / "0.png", indexed,
    ]  # fmt: skip
    found = ask(place, *queries)
    stems = [Path(one["query"]).name for one in found]
    assert stems == [
        "9.png", "4.png", "v.npy#0", "v.npy#1", "10.png", "9.png", "0.png", "shapes:test#3", "0.png", "3.png", "4.png",
        "5.png",
    ]  # fmt: skip
    assert found[1]["hits"] == found[10]["hits"]  # by name, or as one of a folder
    alone, in_folder = ([(hit["path"], round(hit["score"], 5)) for hit in found[place]["hits"]] for place in (0, 5))
    assert alone == in_folder


def test_rows_of_the_csv(place: Path) -> None:
    odd = place / "copies" / "a" / 'line\nbreak, "quoted".png'
    odd.write_bytes((place / "copies" / "a" / "9.png").read_bytes())
    found = ask(place, odd, place / "copies" / "b" / "0.png", csv=str(place / "deep" / "hits.csv"))
    with (place / "deep" / "hits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["query", "rank", "path", "score", "label"]
    assert [(row["query"], row["rank"]) for row in rows] == [
        (one["query"], str(hit["rank"])) for one in found for hit in one["hits"]
    ]
    assert [float(row["score"]) for row in rows] == [hit["score"] for one in found for hit in one["hits"]]
    assert (rows[0]["query"], rows[0]["path"], rows[0]["label"]) == (str(odd), found[0]["hits"][0]["path"], "cat")


def test_what_cannot_be_read_is_an_error_by_name_and_left_out_of_a_folder(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = place / "copies" / "a" / "broken.png"
    broken.write_text("no image")
    with pytest.raises(ToolkitError, match=r"broken\.png"):
        ask(place, broken)
    with pytest.raises(ToolkitError, match=r"1 of the 4 images of .* cannot be read"):
        ask(place, place / "copies", max_bad_rate=0)
    capsys.readouterr()
    assert first(ask(place, place / "copies")) == [("10", "5"), ("9", "1"), ("0", "4")]
    assert f"left out, it cannot be read: {broken}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 7)), r"v\.npy: queries must be \(N, 256\), got \(3, 7\)"),
        (np.ones(256), r"v\.npy: queries must be \(N, 256\), got \(256,\)"),
        (np.full((2, 256), np.nan), r"v\.npy: 2 of 2 queries are not finite"),
        (np.full((2, 256), 1e300), r"v\.npy: 2 of 2 queries are not finite"),
        (np.ones((0, 256)), r"v\.npy holds float64 \(0, 256\): vectors to search for are numbers"),
        (np.array([["a"] * 256]), r"v\.npy holds <U1 \(1, 256\): vectors to search for are numbers"),
        (np.array([[None] * 256]), r"v\.npy cannot be read as an array of numbers"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(place: Path, array: np.ndarray, message: str) -> None:
    np.save(place / "v.npy", array, allow_pickle=True)
    with pytest.raises(UsageError, match=message):
        ask(place, place / "v.npy")


def test_a_picture_of_many_queries_shows_the_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 2)
    ask(place, place / "copies", grid=str(place / "three.png"))
    ask(place, place / "copies" / "a", grid=str(place / "two.png"))
    with Image.open(place / "three.png") as three, Image.open(place / "two.png") as two:
        assert three.size == two.size


def test_the_table_shows_all_labels() -> None:
    hits = [{"rank": 1, "path": "a.png", "score": 0.5, "label": label} for label in (0, "cat", None)]
    text = str(Neighbours([{"query": "q.png", "label": None, "hits": hits}]))
    assert [line.split() for line in text.splitlines()] == [
        ["q.png"], ["1", "0.500", "0", "a.png"], ["1", "0.500", "cat", "a.png"], ["1", "0.500", "a.png"],
    ]  # fmt: skip


@pytest.fixture
def towered(place: Path, small_encoder: Encoder) -> TextTower:
    """The text tower of the index of `place`, built anew with it."""
    torch.manual_seed(1)
    tower = TextTower(TextConfig("bytes", small_encoder.feature_dim, 16, 1))
    save_text(tower, place / "text.safetensors")
    again = {"overwrite": True, "workers": 0, "progress": False}
    index(str(place / "encoder.safetensors"), str(place / "indexed"), str(place / "index"), **again)
    return tower


def test_words_find_what_is_nearest_to_them(place: Path, towered: TextTower) -> None:
    grid = place / "grid.png"
    found = ask(place, "text:a red car", place / "copies" / "b" / "0.png", "text: a/house.npy", k=3, grid=grid)
    assert [one["query"] for one in found] == ["text:a red car", str(place / "copies/b/0.png"), "text: a/house.npy"]
    vectors = towered.encode(["a red car", "a/house.npy"]).numpy()
    expected = EmbeddingIndex.load(place / "index").search(vectors, 3)
    assert [[hit["path"] for hit in found[row]["hits"]] for row in (0, 2)] == expected.path
    np.testing.assert_allclose([hit["score"] for hit in found[0]["hits"]], expected.score[0], atol=1e-6)
    assert grid.is_file()


def test_an_index_keeps_its_text_tower_while_it_changes(place: Path, towered: TextTower) -> None:
    own = next((place / "index").glob("encoder-*.safetensors"))
    for encoder in (place / "encoder.safetensors", own):
        index(str(encoder), str(place / "copies"), str(place / "index"), add=True, workers=0, progress=False)
    (place / "text.safetensors").unlink()
    index(str(place / "encoder.safetensors"), str(place / "indexed"), str(place / "index"), update=True, workers=0)
    assert ask(place, "text:a red car")
    merge([place / "index"], place / "merged")
    assert search(place / "merged", "text:a red car", k=1)
    index(str(place / "encoder.safetensors"), str(place / "indexed"), str(place / "index"), overwrite=True, workers=0)
    with pytest.raises(UsageError, match=r"texts need an encoder with a text tower, and beside .* is none"):
        ask(place, "text:a red car")


def test_words_are_compared_by_cosine_alone(place: Path, towered: TextTower) -> None:
    settings = {"metric": "l2", "overwrite": True, "workers": 0, "progress": False}
    index(str(place / "encoder.safetensors"), str(place / "indexed"), str(place / "index"), **settings)
    with pytest.raises(UsageError, match="texts are compared by cosine, the index by l2"):
        ask(place, "text:a red car")
