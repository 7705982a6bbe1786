"""A local web page over an `Explorer`.

Gradio serves the page in its server mode (`gradio.Server`). Its own routes (files, uploads, proxies) are shut by
`Gate`, and the page (``explore.html``) holds all of its script and style, so that no other host is ever asked.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import jinja2

from ssl_toolkit.errors import ToolkitError, UsageError, missing_extra
from ssl_toolkit.eval.explore.explorer import Explorer
from ssl_toolkit.eval.explore.gate import HOST, SIDES, Gate
from ssl_toolkit.eval.pictures.marks import NAMED_CLASSES, PALETTE
from ssl_toolkit.eval.pictures.themes import DARK, LIGHT
from ssl_toolkit.eval.pictures.words import shown
from ssl_toolkit.eval.search.image_bytes import MAX_BYTES

MAX_TEXT = 200  # characters of a text that is looked for


def page(explorer: Explorer, nonce: str) -> str:
    """The HTML of the page.

    Args:
        explorer: What it is about.
        nonce: The word that marks the page's own script and style in its Content-Security-Policy.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = resources.files("ssl_toolkit.eval.explore").joinpath("explore.html").read_text("utf-8")
    return environment.from_string(template).render(
        light=LIGHT,
        dark=DARK,
        nonce=nonce,
        data=shown(explorer.index.data, 60),
        settings={
            "palette": PALETTE,
            "named": NAMED_CLASSES,
            "maxBytes": MAX_BYTES,
            "sides": SIDES,
            "version": nonce,  # pictures that the browser kept are of this run
        },
    )


def require_gradio() -> Any:
    """The module, silent and told to stay off the network.

    Raises:
        UsageError: It is not installed, or too old.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio

        gradio.Server  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise missing_extra("the page", "app", "gradio, 6.31 or newer") from error
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return gradio


@contextlib.contextmanager
def serving(explorer: Explorer, port: int = 0, k: int = 25) -> Iterator[str]:
    """Serve the page on the loopback address while the block runs.

    Args:
        explorer: What it shows.
        port: 0 takes a free one.
        k: Neighbours that are shown.

    Yields:
        The page's address.

    Raises:
        UsageError: Gradio is missing, or the port cannot be had.
        ToolkitError: Gradio cannot start.
    """
    gradio = require_gradio()
    from starlette.middleware import Middleware

    port = free_port(port)
    nonce = secrets.token_urlsafe(16)
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' blob: data:; connect-src 'self'; "
        f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    )
    server = gradio.Server(
        middleware=[Middleware(Gate, security_policy=policy)], openapi_url=None, docs_url=None, redoc_url=None
    )
    for path, methods, endpoint in _routes(explorer, page(explorer, nonce), k):
        server.add_route(path, endpoint, methods=methods)
    try:
        server.launch(
            server_name=HOST, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True,
            ssr_mode=False, mcp_server=False,
        )  # fmt: skip
    except Exception as error:  # Gradio raises bare exceptions
        raise ToolkitError(f"the page cannot be served on {HOST}:{port}: {error}") from error
    try:
        yield f"http://{HOST}:{port}/"
    finally:
        server.get_blocks().close(verbose=False)


def free_port(port: int) -> int:
    """`port` if it can be listened on, a free one for 0.

    Raises:
        UsageError: It cannot.
    """
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((HOST, port))
            return int(trial.getsockname()[1])
    except OSError as error:
        raise UsageError(
            f"--port {port} cannot be had: {error.strerror}; without --port a free one is taken"
        ) from error


def _routes(explorer: Explorer, html: str, k: int) -> Iterator[tuple[str, list[str], Callable[[Any], Any]]]:
    """Paths, methods and endpoints of `PATHS`, from Starlette's requests to its responses."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

    overview = json.dumps(explorer.overview(), allow_nan=False).encode()

    def refuse(error: Exception, status: int) -> Any:
        return PlainTextResponse(shown(error, 300), status)

    def picture(request: Any) -> Any:
        side, position = int(request.path_params["side"]), int(request.path_params["position"])
        try:
            content = explorer.thumbnail(position, side)
        except (ToolkitError, OSError):
            return PlainTextResponse("this image cannot be read", 404)
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    def neighbours(request: Any) -> Any:
        try:
            return JSONResponse(explorer.neighbours(int(request.path_params["position"]), k))
        except UsageError as error:
            return refuse(error, 404)

    def described(request: Any) -> Any:
        try:
            return JSONResponse(explorer.described(request.query_params.get("text", "")[:MAX_TEXT], k))
        except UsageError as error:
            return refuse(error, 422)

    async def similar(request: Any) -> Any:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_BYTES:  # what follows stays unread
                return refuse(UsageError(f"the file is larger than {MAX_BYTES >> 20} MB"), 413)
        try:
            return JSONResponse(await run_in_threadpool(explorer.similar, bytes(content), k))
        except ToolkitError as error:
            return refuse(error, 422)

    yield "/", ["GET"], lambda request: HTMLResponse(html, headers={"cache-control": "no-store"})
    yield "/map", ["GET"], lambda request: Response(overview, media_type="application/json")
    yield "/find", ["GET"], lambda request: JSONResponse(explorer.find(request.query_params.get("text", "")[:MAX_TEXT]))
    yield "/described", ["GET"], described
    yield "/neighbours/{position:int}", ["GET"], neighbours
    yield "/picture/{side:int}/{position:int}", ["GET"], picture
    yield "/similar", ["POST"], similar
