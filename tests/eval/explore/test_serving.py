"""The page over an index: it works, and serves nothing but the index's images to this machine."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import PROGRAM, Page, chromium
from explored import explored_folder

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.explore.explorer import Explorer
from ssl_toolkit.eval.explore.serving import free_port, page, require_gradio
from ssl_toolkit.eval.search.index import EmbeddingIndex

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the extra app is not installed")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explored_folder(tmp_path_factory.mktemp("explore"))


@pytest.fixture(scope="module")
def made(folder: Path) -> Explorer:
    return Explorer.of(EmbeddingIndex.load(folder / "index"))


def test_without_gradio_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[app\]'"):
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
    (tmp_path / "page.html").write_text(page(made, "nonce"), encoding="utf-8")
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
