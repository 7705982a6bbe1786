"""An index and its hits in a notebook: what a browser's parser finds in the HTML, whatever images are called."""

from __future__ import annotations

import base64
import io
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.encoders import Encoder, save_encoder
from ssl_toolkit.eval.search import notebook
from tests.conftest import RED, BuildIndex, noise, plain

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>&amp;\n\udcff.png'


class Parsed(HTMLParser):
    """Tags, the text of cells and the pictures of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        html.encode()  # what cannot be encoded never reaches the browser
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "img":
            self.pictures.append(dict(attributes))

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def decoded(picture: dict[str, str | None]) -> np.ndarray:
    source = picture["src"] or ""
    assert source.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_an_index_says_what_it_is(build_index: BuildIndex, tmp_path: Path, small_encoder: Encoder) -> None:
    sha256 = save_encoder(small_encoder, tmp_path / "mine.safetensors")
    labels = np.array([0, 1, -1, 1] * 10)
    index = build_index(
        noise(40), labels=labels, classes=["cat", "dog"], factory="IVF4,Flat",
        encoder_file=tmp_path / "mine.safetensors", encoder_sha256=None, data="photos/",
    )  # fmt: skip
    assert repr(index) == f"EmbeddingIndex(40 images, 8 features, cosine, {index.how}, encoder {sha256[:12]})"
    assert "finds" in index.how
    cells = Parsed(index._repr_html_()).cells
    assert dict(zip(cells[::2], cells[1::2], strict=True)) == {
        "images": "40", "data": "photos/", "labels": "30 in 2 classes", "dimension": "8", "metric": "cosine",
        "neighbours": index.how, "encoder": f"convnet {sha256[:12]}",
    }  # fmt: skip
    (tmp_path / "mine.safetensors").unlink()
    index.approximate, index.labels, index.data = None, None, HOSTILE
    found = Parsed(index._repr_html_())
    assert set(found.tags) == {"table", "tr", "th", "td"}
    facts = dict(zip(found.cells[::2], found.cells[1::2], strict=True))
    assert facts["data"] == HOSTILE.replace("\n", "�").replace("\udcff", "�")
    assert (facts["labels"], facts["neighbours"], facts["encoder"]) == ("none", "exact search", sha256[:12])


def test_hits_are_pictures_where_there_are_any(build_index: BuildIndex, tmp_path: Path) -> None:
    (tmp_path / "<b>").mkdir()
    paths = [str(tmp_path / "<b>" / name) for name in ('"red.png', "gone.png", "broken.png")]
    Image.fromarray(plain(RED).transpose(1, 2, 0)).save(paths[0])
    Path(paths[2]).write_text("no image")
    index = build_index(
        np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32), paths, labels=np.array([0, 1, -1]),
        classes=["<i>red", "blue"],
    )  # fmt: skip
    found = Parsed(index.search(index.vectors[:1], k=3)._repr_html_())
    assert found.cells[0] == "1"
    assert found.cells[1:3] == ["1.000 <i>red", f"{paths[1]}0.800 blue"]
    assert found.cells[3].startswith(f"{paths[2]}0.000")
    assert set(found.tags) == {"table", "tr", "th", "td", "img", "br", "p"}
    (picture,) = found.pictures
    assert (picture["title"], picture["alt"]) == (paths[0], paths[0])
    pixels = decoded(picture)
    assert pixels.shape == (notebook.SIDE, notebook.SIDE, 3)
    assert (pixels == RED).all()


def test_hostile_names_stay_text(build_index: BuildIndex) -> None:
    index = build_index(noise(2), [HOSTILE, "<nothing>"], labels=np.zeros(2, int), classes=[HOSTILE])
    found = Parsed(index.search(index.vectors[:1], k=1)._repr_html_())
    assert found.tags.count("td") == 1
    assert not {"img", "script"} & set(found.tags)
    shown = HOSTILE.replace("\n", "�").replace("\udcff", "�")
    assert found.cells[1].startswith(f"{shown}1.000 {shown}")


def test_items_of_sets_are_shown_without_a_download(
    build_index: BuildIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", lambda *_, **__: pytest.fail("a download would have started"))
    np.save("set.npy", np.stack([plain(RED), plain(RED)]))
    index = build_index(noise(3), ["cifar10:test#1", f"{os.getcwd()}/set.npy#1", "shapes:test#3"])
    found = Parsed(index.search(index.vectors[:1], k=3)._repr_html_())
    assert sorted(picture["title"] or "" for picture in found.pictures) == sorted(index.paths[1:])
    assert sum("cifar10:test#1" in cell for cell in found.cells) == 1


def test_what_is_too_much_for_a_page_is_counted(build_index: BuildIndex) -> None:
    index = build_index(noise(30))
    queries, most = notebook.MOST
    html = index.search(noise(queries + 2), k=most + 3)._repr_html_()
    found = Parsed(html)
    assert (found.tags.count("tr"), found.tags.count("td")) == (queries, queries * most)
    assert "nearest first, cosine below each, 2 more queries, 3 more hits each" in html
    assert "more" not in index.search(noise(queries), k=most)._repr_html_()
