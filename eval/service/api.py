"""An HTTP API over an index: an image or some of its items in, their neighbours out; bounded, and shut by a token."""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect

from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.search.hits import Hits
from ssl_toolkit.eval.search.image_bytes import MAX_BYTES, EncodeBytes
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.eval.service.metrics import Metrics

MAX_K, MAX_IDS, MAX_HITS = 1000, 1000, 100_000
MAX_ASKED = 1 << 16  # bytes of JSON
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
PATHS = ("/health", "/metrics", "/search/image", "/search/ids")


@dataclass(frozen=True)
class Limits:
    """What is done at once.

    Attributes:
        searching: Requests that are decoded, encoded and searched at once; others wait.
        bodies: Images that are received at once: with `MAX_BYTES`, this bounds memory.
        body_seconds: Time that a client has to send one.
    """

    searching: int
    bodies: int = 16
    body_seconds: float = 30.0


class Items(BaseModel):
    """Items of the index whose neighbours are asked for."""

    ids: list[int] = Field(min_length=1, max_length=MAX_IDS)
    k: int = Field(10, ge=1, le=MAX_K)


class RefusedError(Exception):
    """A request that is answered with an error: its status and a line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class Guard:
    """ASGI middleware: lets requests with the token pass, and those for ``/health``; without one, see `api`."""

    def __init__(self, app: Any, token: str | None) -> None:
        self.app, self._token = app, None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, as ASGI has it."""
        refused = self._refused(scope) if scope["type"] == "http" else None
        await (refused or self.app)(scope, receive, send)

    def _refused(self, scope: Any) -> JSONResponse | None:
        given = dict(scope["headers"])
        if self._token is None:
            name = re.sub(r":\d+$", "", given.get(b"host", b"").decode("latin-1")).lower()
            known = f"the names of this server are {', '.join(LOOPBACK)}"
            return None if name in LOOPBACK else JSONResponse({"detail": known}, 400)
        authorization = given.get(b"authorization", b"")
        if scope["path"] == "/health" or secrets.compare_digest(authorization, self._token):  # in the same time for all
            return None
        return JSONResponse({"detail": "wrong token"}, 401, {"www-authenticate": "Bearer"})


def api(index: EmbeddingIndex, encode: EncodeBytes, limits: Limits, token: str | None = None) -> FastAPI:
    """The application, as ASGI has it.

    ``POST /search/image?k=10`` takes the bytes of an image file, ``POST /search/ids`` JSON with ``ids`` and ``k``; both
    answer with hits of ``rank``, ``id`` (position in the index), ``path``, ``score`` and ``label``. ``GET /health``
    and ``GET /metrics`` (Prometheus) tell how it is. An error is JSON with ``detail``, a line.

    Args:
        index: What is searched.
        encode: The index's own encoder, see `bytes_encoder`.
        limits: What is done at once.
        token: What ``Authorization: Bearer`` must say; None: requests are taken under the loopback's names alone, so
            that no other site reaches it through its visitor's browser.
    """
    app = FastAPI(title="ssl-toolkit", docs_url=None, redoc_url=None)
    slots, bodies = CapacityLimiter(limits.searching), asyncio.Semaphore(limits.bodies)

    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status)

    async def misread(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _complaint(error)}, 422)

    async def health() -> dict[str, Any]:
        return {"status": "ok", "images": len(index), "metric": index.metric, "encoder": index.encoder_sha256}

    async def metrics(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.scope["metrics"].text(), media_type="text/plain; version=0.0.4")

    async def image(request: Request, k: int = 10) -> dict[str, Any]:
        if not 1 <= k <= MAX_K:
            raise RefusedError(422, f"k is {k}: it must be from 1 to {MAX_K}")
        async with bodies:
            content = await _body(request, limits.body_seconds, MAX_BYTES)
            hits = await run_sync(partial(_similar, index, encode, content, k), limiter=slots)
        return {"hits": hits}

    async def ids(request: Request) -> dict[str, Any]:
        asked = _items(await _body(request, limits.body_seconds, MAX_ASKED))
        wrong = next((each for each in asked.ids if not 0 <= each < len(index)), None)
        if wrong is not None:
            raise RefusedError(404, f"there is no image {wrong}: the index holds {len(index)}")
        if len(asked.ids) * asked.k > MAX_HITS:
            raise RefusedError(422, f"{len(asked.ids)} ids x {asked.k} are more than {MAX_HITS:,} hits: ask for fewer")
        hits = await run_sync(lambda: _rows(index.neighbours_of(np.array(asked.ids), asked.k)), limiter=slots)
        return {"results": [{"id": each, "hits": rows} for each, rows in zip(asked.ids, hits, strict=True)]}

    app.add_exception_handler(RequestValidationError, misread)
    app.add_exception_handler(RefusedError, refused)
    app.add_api_route("/health", health)
    app.add_api_route("/metrics", metrics)
    app.add_api_route("/search/image", image, methods=["POST"])
    app.add_api_route("/search/ids", ids, methods=["POST"])
    app.add_middleware(Guard, token=token)
    app.add_middleware(Metrics, paths=PATHS)
    return app


async def _body(request: Request, seconds: float, most: int) -> bytes:
    """The bytes that were sent; of too many, what follows stays unread."""
    content = bytearray()
    try:
        with fail_after(seconds):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise RefusedError(413, f"what was sent is larger than {most >> 10} KB")
    except TimeoutError as error:
        raise RefusedError(408, f"it was not sent within {seconds:g} s") from error
    except ClientDisconnect as error:
        raise RefusedError(400, "what was sent breaks off") from error
    return bytes(content)


def _items(content: bytes) -> Items:
    try:
        asked: Items = Items.model_validate_json(content)
    except ValidationError as error:
        raise RefusedError(422, _complaint(error)) from error
    return asked


def _complaint(error: ValidationError | RequestValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}"


def _similar(index: EmbeddingIndex, encode: EncodeBytes, content: bytes, k: int) -> list[dict[str, Any]]:
    try:
        return _rows(index.search(encode(content)[None], k))[0]
    except ToolkitError as error:
        raise RefusedError(422, str(error).splitlines()[0][:300]) from error


def _rows(hits: Hits) -> list[list[dict[str, Any]]]:
    """Hits ready for JSON; of paths that are no Unicode, question marks."""
    return [
        [
            {**row, "id": int(place), "path": row["path"].encode("utf-8", "replace").decode()}
            for row, place in zip(rows, places, strict=True)
        ]
        for rows, places in zip(hits.rows(), hits.position, strict=True)
    ]
