"""The page to explore an index: right neighbours, nothing but the index's images, and a page that works."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import PROGRAM, Page, chromium
from PIL import Image

from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.explore import explorer as explore
from ssl_toolkit.eval.explore.explorer import EmbeddingMap, Explorer, Gate, free_port, require_gradio
from ssl_toolkit.eval.search.index import EmbeddingIndex

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the extra app is not installed")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of twenty images of two classes, of which one is gone since then, and a secret beside them."""
    from ssl_toolkit.cli.index import index

    folder = tmp_path_factory.mktemp("explore")
    generator = np.random.default_rng(0)
    for label, colour in (("red", 0), ("blue", 2)):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 90, (20, 24, 3), dtype=np.uint8)
            pixels[..., colour] += 150
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")
    Image.new("RGB", (20, 20), "yellow").save(folder / "secret.png")
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), folder / "encoder.safetensors")
    out = folder / "index"
    index(str(folder / "encoder.safetensors"), str(folder / "images"), str(out), workers=0, progress=False)
    (folder / "images" / "red" / "0.png").unlink()
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Explorer:
    return Explorer.of(EmbeddingIndex.load(folder / "index"))


def indexed(tmp_path: Path, vectors: np.ndarray, paths: list[str], **options: Any) -> EmbeddingIndex:
    file = tmp_path / "encoder.safetensors"
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), file)
    return EmbeddingIndex.build(vectors.astype(np.float32), paths, encoder_file=file, **options)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


# --- answers ---------------------------------------------------------------------------------------------------------


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


# --- the map ---------------------------------------------------------------------------------------------------------


def test_pca_map_is_the_plane_of_largest_variance(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)) * [1, 9, 2, 3, 1, 1]
    index = indexed(tmp_path, x, [str(n) for n in range(50)], metric="l2")
    drawn = EmbeddingMap.draw(index, 40)
    assert len(set(drawn.position.tolist())) == len(drawn.xy) == 40
    assert drawn.xy.min() >= 0
    assert drawn.xy.max() <= 1
    assert np.ptp(drawn.xy, axis=0).max() == pytest.approx(1)
    part = x[drawn.position] - x[drawn.position].mean(axis=0)
    scores = part @ np.linalg.svd(part)[2][:2].T  # the axes' signs are free, their scale is one
    scores /= np.ptp(scores, axis=0).max()
    for axis in range(2):
        ours, theirs = (one[:, axis] - one[:, axis].mean() for one in (drawn.xy, scores))
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4)
    assert drawn.place is not None
    np.testing.assert_allclose(drawn.place(index.vectors[drawn.position]), drawn.xy, atol=1e-5)
    again = EmbeddingMap.draw(index, 40)
    np.testing.assert_array_equal(again.position, drawn.position)


@pytest.mark.parametrize(("count", "width"), [(1, 4), (2, 4), (5, 1)])
def test_maps_of_next_to_nothing(tmp_path: Path, count: int, width: int) -> None:
    index = indexed(tmp_path, np.random.default_rng(0).normal(size=(count, width)), list("abcde")[:count], metric="l2")
    for projection in ("pca", "tsne"):
        assert np.isfinite(EmbeddingMap.draw(index, 100, projection).xy).all()


def test_tsne_keeps_clusters_and_has_no_place_for_others(tmp_path: Path) -> None:
    group = np.arange(60) % 3
    x = 20 * np.eye(3)[group] + np.random.default_rng(0).normal(size=(60, 3))
    index = indexed(tmp_path, x, [str(n) for n in range(60)])
    drawn = EmbeddingMap.draw(index, 45, "tsne")
    near = np.linalg.norm(drawn.xy[:, None] - drawn.xy[None], axis=2) + 9 * np.eye(45)
    assert (group[drawn.position][near.argmin(axis=1)] == group[drawn.position]).all()
    made = Explorer(index, encode=lambda content: x[0], map=drawn)
    on_map = {int(position): xy for position, xy in zip(drawn.position, drawn.xy, strict=True)}
    rows = made.neighbours(int(drawn.position[0]), k=59)["hits"]
    assert {row["position"] for row in rows if row["xy"] is not None} == set(on_map) - {int(drawn.position[0])}
    row = next(row for row in rows if row["xy"] is not None)
    np.testing.assert_allclose(row["xy"], on_map[row["position"]], atol=1e-4)
    assert made.similar(b"", k=1)["query"]["xy"] is None


# --- the gate --------------------------------------------------------------------------------------------------------


def passes(path: str, **headers: str) -> bool:
    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    named = [
        (name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "127.0.0.1:1", **headers}.items()
    ]
    asyncio.run(Gate(behind, "default-src 'none'")({"type": "http", "path": path, "headers": named}, None, send))
    if sent[0]["status"] == 200:
        assert (b"content-security-policy", b"default-src 'none'") in sent[0]["headers"]
    return bool(sent[0]["status"] == 200)


def test_the_gate_lets_through_the_pages_own_requests_only() -> None:
    for path in ("/", "/map", "/neighbours/17", "/picture/64/3", "/picture/192/3", "/find", "/similar"):
        assert passes(path), path
        assert passes(path, host="localhost:7860"), path
    for path in (
        "/gradio_api/file=/etc/passwd", "/gradio_api/upload", "/gradio_api/proxy=http://example.com", "/config",
        "/gradio_api/queue/join", "/picture/64/../../etc/passwd", "/picture/64/a.png", "/picture/4096/3",
        "/picture/64/-1", "/map/", "/static/x", "/docs", "//", "/neighbours/17\n",
    ):  # fmt: skip
        assert not passes(path), path


def test_the_gate_refuses_other_names_and_other_sites() -> None:
    assert not passes("/map", host="evil.example:7860")  # DNS rebinding
    assert not passes("/map", host="127.0.0.1.evil.example")
    assert not passes("/similar", sec_fetch_site="cross-site")
    assert not passes("/picture/64/3", sec_fetch_site="same-site")  # another port of this machine
    assert passes("/picture/64/3", sec_fetch_site="same-origin")
    assert passes("/", sec_fetch_site="cross-site")  # a link to the page


# --- served ----------------------------------------------------------------------------------------------------------


def test_without_gradio_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"pip install 'ssl-toolkit\[app\]'"):
        require_gradio()


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port} cannot be had"):
            free_port(port)
        assert free_port(0) not in (0, port)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where the command serves the page, in surroundings that tell Gradio to open up; Ctrl-C ends it quietly."""
    command = [sys.executable, "-m", "ssl_toolkit.cli", "explore", str(folder / "index"), "-k", "6"]
    hostile = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "true", "GRADIO_ALLOWED_PATHS": "/"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **hostile}
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "Ctrl-C ends it\n")
    finally:
        process.kill()
        process.communicate()


def ask(address: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=60)
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@needs_gradio
def test_only_the_loopback_is_listened_on(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    with socket.socket() as other, pytest.raises(OSError, match="refused"):  # 0.0.0.0 would answer here as well
        other.connect(("127.0.0.2", int(address.rstrip("/").rsplit(":", 1)[1])))


@needs_gradio
def test_requests_for_other_files_are_refused(address: str, folder: Path) -> None:
    secret = (folder / "secret.png").read_bytes()
    assert ask(address, "/picture/64/3")[0] == 200
    for path in (
        f"/gradio_api/file={folder}/secret.png", f"/gradio_api/file/{folder}/secret.png", f"/file={folder}/secret.png",
        f"/picture/64/{folder}/secret.png", "/picture/64/..%2f..%2fsecret.png", "/picture/64/20",
        "/static/../secret.png",
    ):  # fmt: skip
        status, body = ask(address, path)
        assert (status, secret in body) == (404, False), path
    for path in ("/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/queue/join"):
        assert ask(address, path, b'{"data": [{"path": "/etc/passwd"}]}')[0] == 404, path
    assert ask(address, "/map", host="evil.example")[0] == 404


@needs_gradio
def test_a_posted_body_is_bounded_even_without_a_length(address: str) -> None:
    status, body = ask(address, "/similar", (bytes(1 << 20) for _ in range(33)))
    assert (status, body) == (413, b"the file is larger than 32 MB")
    status, body = ask(address, "/similar", b"no image")
    assert status == 422
    assert b"not an image" in body


SHOWN = "[...document.querySelectorAll('#hits button')].map((hit) => Number(hit.dataset.position))"
READY = "document.body && document.body.dataset.ready"


def shows(page: Page, position: int, made: Explorer) -> None:
    page.wait(f"location.hash === '#{position}'")
    assert page.run(SHOWN) == [hit["position"] for hit in made.neighbours(position, 6)["hits"]]


@needs_gradio
@needs_chromium
def test_the_page_in_chromium(address: str, made: Explorer, folder: Path) -> None:
    with chromium() as page:
        page.open(address)
        page.wait(READY)
        assert "20 images" in page.run("document.querySelector('#about').textContent")

        position, (x, y) = int(made.map.position[5]), made.map.xy[5]
        box = page.run("(({x, y}) => ({x, y}))(canvas.getBoundingClientRect())")
        page.click(box["x"] + page.run(f"toX({x})"), box["y"] + page.run(f"toY({y})"))
        shows(page, position, made)

        second = page.run(SHOWN)[1]
        page.run("document.querySelectorAll('#hits button')[1].click()")
        shows(page, second, made)
        page.run("history.back()")
        shows(page, position, made)

        page.choose_file("#file", folder / "images" / "blue" / "2.png")
        page.wait("location.hash === '#dropped'")
        names = [
            row["position"] for row in made.similar((folder / "images" / "blue" / "2.png").read_bytes(), 6)["hits"]
        ]
        assert page.run(SHOWN) == names

        page.wait("[...document.images].every((image) => image.complete)")
        assert page.run("[...document.images].filter((image) => image.naturalWidth).length") >= 7
        assert page.errors == []
        outside = [url for url in page.requests if not url.startswith((address, f"blob:{address}", "data:"))]
        assert outside == []


DROP = """(() => {
  const data = new DataTransfer();
  data.items.add(new File([%s], "dropped.png", {type: "image/png"}));
  document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
})()"""


@needs_gradio
@needs_chromium
def test_a_dropped_image_and_an_image_that_is_gone(address: str, made: Explorer, folder: Path) -> None:
    dropped = (folder / "secret.png").read_bytes()
    position = made.index.paths.index(str(folder / "images" / "red" / "0.png"))
    with chromium(500, 900) as page:
        page.open(f"{address}#{position}")
        page.wait(READY)
        shows(page, position, made)
        page.wait("document.querySelectorAll('#asked .gone').length === 1")
        page.run(DROP % f"Uint8Array.from({list(dropped)})")
        page.wait("location.hash === '#dropped'")
        assert page.run(SHOWN) == [row["position"] for row in made.similar(dropped, 6)["hits"]]
        page.run(DROP % "'no image'")
        assert "not an image" in page.wait("$('error').textContent")
        assert page.run("location.hash") == "#dropped"  # what was shown stays
        assert page.run("document.documentElement.scrollWidth") <= 500
        assert page.errors == []


@needs_chromium
def test_twenty_classes_have_a_mark_of_their_own(made: Explorer, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(explore.page(made, "nonce"), encoding="utf-8")
    classes = json.dumps([f"class {number}" for number in range(22)])
    with chromium() as tab:
        tab.open((tmp_path / "page.html").as_uri())
        tab.wait("document.readyState === 'complete'")
        tab.run(f"world = {{classes: {classes}, map: {{label: [...Array(22).keys()]}}}}; legend()")
        marks = tab.run("[...document.querySelectorAll('#legend path')].map((path) => path.outerHTML)")
        assert len(marks) == 21  # and one for the others
        assert len(set(marks)) == 21
        names = tab.run("[...document.querySelectorAll('#legend .cut')].map((name) => name.textContent)")
        assert names[-1] == "2 other classes"
