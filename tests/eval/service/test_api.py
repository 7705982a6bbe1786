"""The HTTP API: the hits of the index, bounded requests, a token, and counts that add up."""

from __future__ import annotations

import io
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.encoders import Encoder, save_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.search.image_bytes import bytes_encoder
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.tasks import serving
from ssl_toolkit.tasks.indexing import index as build
from ssl_toolkit.tasks.searching import search
from ssl_toolkit.tasks.serving import serve

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")
anyio = pytest.importorskip("anyio")
testclient = pytest.importorskip("starlette.testclient")

from ssl_toolkit.eval.service import Limits, api  # noqa: E402

module: Any = __import__("ssl_toolkit.eval.service.api", fromlist=["api"])
TOKEN = "a-word-of-more-than-16"
Client = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, small_encoder: Encoder) -> Path:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    return build(tmp_path / "encoder.safetensors", "shapes:test:12", tmp_path / "index", workers=0, progress=False)


@pytest.fixture
def client(folder: Path, small_encoder: Encoder) -> Client:
    def make(token: str | None = None, host: str = "127.0.0.1", limits: Limits | None = None) -> Any:
        app = api(EmbeddingIndex.load(folder), bytes_encoder(small_encoder), limits or Limits(2), token)
        return testclient.TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False)

    return make


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_an_image_gets_the_hits_that_search_finds(client: Client, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "query.png").write_bytes(picture())
    (truth,) = search(folder, tmp_path / "query.png", k=4, progress=False)
    found = client().post("/search/image?k=4", content=picture())
    assert found.status_code == 200
    hits = found.json()["hits"]
    assert [set(hit) for hit in hits] == [{"rank", "id", "path", "score", "label"}] * 4
    assert [(hit["rank"], hit["path"], hit["label"]) for hit in hits] == [
        (hit["rank"], hit["path"], hit["label"]) for hit in truth["hits"]
    ]
    assert hits[0]["score"] == pytest.approx(truth["hits"][0]["score"], abs=1e-5)


def test_items_get_their_neighbours(client: Client, folder: Path) -> None:
    truth = EmbeddingIndex.load(folder).neighbours_of(np.array([5, 0]), 3)
    found = client().post("/search/ids", json={"ids": [5, 0], "k": 3}).json()["results"]
    assert [one["id"] for one in found] == [5, 0]
    assert [[hit["id"] for hit in one["hits"]] for one in found] == truth.position.tolist()


@pytest.mark.parametrize(
    ("path", "given", "status", "line"),
    [
        ("/search/image", {"content": b"no image"}, 422, "not an image in a known format"),
        ("/search/image", {"content": b""}, 422, "image in memory: "),
        ("/search/image?k=0", {"content": b"x"}, 422, "k is 0: it must be from 1 to 1000"),
        ("/search/image?k=ten", {"content": b"x"}, 422, '{"detail":"query.k: Input should be a valid integer'),
        ("/search/ids", {"json": {"ids": [0] * 500, "k": 201}}, 422, "500 ids x 201 are more than 100,000 hits"),
        ("/search/image", {"content": b"x" * 2049}, 413, "what was sent is larger than 2 KB"),
        ("/search/ids", {"json": {"ids": [12]}}, 404, "there is no image 12: the index holds 12"),
        ("/search/ids", {"json": {"ids": [-1]}}, 404, "there is no image -1"),
        ("/search/ids", {"json": {"ids": []}}, 422, "at least 1 item"),
        ("/search/ids", {"json": {"ids": [0] * 1001}}, 422, "at most 1000 items"),
        ("/search/ids", {"json": {"ids": [0], "k": 1001}}, 422, "less than or equal to 1000"),
        ("/search/ids", {"content": b"{"}, 422, "Invalid JSON"),
        ("/search/ids", {"json": {"k": 2}}, 422, "ids: Field required"),
        ("/search/ids", {"content": b"[" * 70_000}, 413, "what was sent is larger than 64 KB"),
        ("/elsewhere", {}, 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str, given: dict[str, Any], status: int, line: str
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 2048)
    found = client().post(path, **given)
    assert found.status_code == status
    assert line in found.text
    assert client().post("/search/ids", json={"ids": [0]}).status_code == 200


def test_only_the_token_opens(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = secrets.compare_digest
    monkeypatch.setattr(secrets, "compare_digest", lambda a, b: compared.append(1) or real(a, b))
    opened = client(TOKEN, host="any.example")
    for header in ({}, {"authorization": TOKEN}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": "Bearer "}):
        for method, path in (("GET", "/metrics"), ("POST", "/search/ids"), ("GET", "/openapi.json")):
            found = opened.request(method, path, headers=header)
            assert (found.status_code, found.json()) == (401, {"detail": "wrong token"})
    assert len(compared) == 12
    right = {"authorization": f"Bearer {TOKEN}"}
    assert opened.post("/search/ids", json={"ids": [0]}, headers=right).status_code == 200
    assert opened.get("/health").json()["images"] == 12


def test_without_a_token_other_names_of_this_machine_are_refused(client: Client) -> None:
    for host in ("rebound.example", "127.0.0.1.rebound.example", "[::1].rebound.example"):
        refused = client().get("/health", headers={"host": host})
        assert (refused.status_code, list(refused.json())) == (400, ["detail"])
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
        headers = {"host": host}
        assert client().post("/search/ids", json={"ids": [0]}, headers=headers).status_code == 200


def test_a_client_that_hangs_up_leaves_no_traceback(folder: Path, small_encoder: Encoder) -> None:
    app = api(EmbeddingIndex.load(folder), bytes_encoder(small_encoder), Limits(1))

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    assert status_of(app, receive) == (400, b'{"detail":"what was sent breaks off"}')


def status_of(app: Any, receive: Any) -> tuple[int, bytes]:
    """The answer to an image that is sent by `receive`."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": "/search/image", "query_string": b"", "headers": headers}
    anyio.run(app, scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


def test_counts_add_up(client: Client) -> None:
    asked = client()
    for _ in range(3):
        asked.post("/search/ids", json={"ids": [0]})
    asked.post("/search/ids", json={"ids": [99]})
    for number in range(5):
        asked.get(f"/made/up/{number}")
    text = asked.get("/metrics").text
    assert 'ssl_toolkit_requests_total{path="/search/ids",status="200"} 3' in text
    assert 'ssl_toolkit_requests_total{path="/search/ids",status="404"} 1' in text
    assert 'ssl_toolkit_requests_total{path="other",status="404"} 5' in text
    assert 'ssl_toolkit_request_seconds_bucket{path="/search/ids",le="+Inf"} 4' in text
    assert "ssl_toolkit_requests_running 1\n" in text  # this one
    buckets = [int(n) for n in re.findall(r'path="/search/ids",le="[\d.]+"} (\d+)', text)]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host": "0.0.0.0"}, r"--host 0\.0\.0\.0 can be reached from other machines: give --token-file"),
        ({"port": 70000}, r"--port is 70000: it must be from 0 to 65535"),
        ({"token_file": "nowhere"}, r"--token-file nowhere cannot be read"),
        ({"token_file": "short"}, r"a token is one word of 16 letters or more"),
        ({"index": "nowhere"}, r"nowhere holds no index"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, given: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("short\n")
    with pytest.raises(ToolkitError, match=message) as error:
        serve(**{"index": folder, "port": 0, **given})
    assert len(str(error.value).splitlines()) == 1


def test_a_port_that_is_taken_is_said_in_a_line(folder: Path) -> None:
    with (
        serving._listening("127.0.0.1", 0) as taken,
        pytest.raises(UsageError, match=r"cannot be had: Address already"),
    ):
        serve(folder, taken.getsockname()[1])


def test_a_client_that_does_not_send_is_let_go(folder: Path, small_encoder: Encoder) -> None:
    app = api(EmbeddingIndex.load(folder), bytes_encoder(small_encoder), Limits(1, body_seconds=0.05))

    async def receive() -> None:
        await anyio.sleep(60)

    assert status_of(app, receive) == (408, b'{"detail":"it was not sent within 0.05 s"}')
