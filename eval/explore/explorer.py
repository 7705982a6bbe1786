"""A local web page to explore an index: a map of its images, and the neighbours of any of them or of a dropped one.

`Explorer` answers in plain values and knows no web; `serving` puts it behind a page. What the page can ask for is a
place in the index, a piece of a name, or the neighbours of bytes that it sends: no path ever comes from the browser.
Gradio serves the page in its server mode (`gradio.Server`). Its own routes (files, uploads, proxies) are shut by
`Gate`, and the page (``explore.html``) holds all of its script and style, so that no other host is ever asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import resources
from typing import Any, Literal, TypeAlias

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray

from ssl_toolkit.data.images import decode_image
from ssl_toolkit.data.loader import center_crop
from ssl_toolkit.data.sources import open_item
from ssl_toolkit.encoders import load_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.pictures.maps import PROJECTIONS
from ssl_toolkit.eval.pictures.marks import NAMED_CLASSES, PALETTE
from ssl_toolkit.eval.pictures.pixels import tile
from ssl_toolkit.eval.pictures.png import picture_png
from ssl_toolkit.eval.pictures.themes import DARK, LIGHT
from ssl_toolkit.eval.pictures.words import shown
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.randomness import numpy_generator

HOST = "127.0.0.1"
"""The only address that is ever listened on."""

MAX_BYTES = 32 << 20
"""Largest file that may be dropped, bytes; more is refused unread."""

MAX_PIXELS = 1 << 26
"""Most pixels of an image that may be dropped; more is refused before decoding."""

SIDES = (64, 192)
"""Sides of the pictures that are served, pixels: on the map, and elsewhere."""

FOUND = 20  # names that a search by name lists

ProjectionName: TypeAlias = Literal["pca", "tsne", "umap"]
ABOUT = {
    "tsne": "t-SNE: near points are alike, distances mean little",
    "umap": "UMAP: near points are alike, distances mean little",
}
Encode: TypeAlias = Callable[[bytes], NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Some items of an index in the plane.

    Attributes:
        position: (n,) int64: which items, in random order.
        xy: (n, 2) float64 in [0, 1], y up; both axes have the same scale.
        about: What the axes are, in words.
        place: (m, D) vectors to (m, 2) on the same map; None where the map has no place for others.
    """

    position: NDArray[np.int64]
    xy: NDArray[np.float64]
    about: str
    place: Callable[[NDArray[np.float32]], NDArray[np.float64]] | None

    @classmethod
    def draw(cls, index: EmbeddingIndex, points: int, projection: ProjectionName = "pca") -> EmbeddingMap:
        """A map of at most `points` items, drawn at random, the same each time.

        Args:
            index: The items.
            points: How many of them, at least 1.
            projection: ``pca``, the two directions in which they differ most, has a place for other vectors as well;
                ``tsne`` and ``umap`` keep neighbours together. Fewer than four points are drawn by ``pca``.
        """
        order = numpy_generator(0, "explore").permutation(len(index))[:points]
        x = np.empty((len(order), index.dimension), np.float32)
        x[np.argsort(order)] = index.vectors[np.sort(order)]  # sorted: a mapped file is read forwards
        if projection != "pca" and len(x) > 3:
            flat = PROJECTIONS[projection](x).points
            return cls(order, _Square.around(flat)(flat), ABOUT[projection], None)
        mean = x.mean(axis=0)
        variance, axes = np.linalg.eigh((x - mean).T @ (x - mean))  # ascending
        axes = np.pad(axes[:, :-3:-1], ((0, 0), (0, max(0, 2 - index.dimension))))  # (D, 2)
        axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), (0, 1)] < 0, -1, 1)  # eigenvectors have no sign
        share = 100 * float(variance[-2:].sum()) / max(float(variance.sum()), 1e-12)
        square = _Square.around((x - mean) @ axes)
        about = f"two principal components, {share:.0f} % of the variance"
        return cls(order, square((x - mean) @ axes), about, lambda vectors: square((vectors - mean) @ axes))


@dataclasses.dataclass(frozen=True, eq=False)
class _Square:
    """The plane, moved and scaled such that some points fill the unit square."""

    middle: NDArray[np.float64]
    side: float

    @classmethod
    def around(cls, flat: NDArray[np.floating[Any]]) -> _Square:
        low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
        return cls((low + high) / 2, max(float((high - low).max()), 1e-12))

    def __call__(self, flat: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return (flat - self.middle) / self.side + 0.5


class Explorer:
    """What the page can ask of an index, in values that are ready for JSON.

    A row of an answer is ``{"position", "name", "label", "score", "xy"}``: its place in the index, the name without
    what all names begin with, the number of its class among `classes` or -1, cosine or distance to the query, and its
    place on the map or None.

    Args:
        index: Its images are read again from where they lie, and no others.
        encode: Bytes of an image file to its features (D,), by the encoder that made the index.
        map: Where the items are drawn.
        channels: Channels of the images.
        root: Folder of torchvision's data sets.
    """

    def __init__(
        self,
        index: EmbeddingIndex,
        encode: Encode,
        map: EmbeddingMap,
        channels: int = 3,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.index, self.map = index, map
        self._encode, self._channels, self._root = encode, channels, root
        self._common = _shared_folder(min(index.paths), max(index.paths))
        self._on_map = {int(position): row for row, position in enumerate(map.position)}
        present = [] if index.labels is None else [int(label) for label in np.unique(index.labels) if label >= 0]
        self._class = {label: number for number, label in enumerate(present)}
        self.classes = [str(label) if index.classes is None else index.classes[label] for label in present]
        self.thumbnail = lru_cache(1024)(self._thumbnail)
        self._busy = threading.Lock()

    @classmethod
    def of(
        cls,
        index: EmbeddingIndex,
        *,
        points: int = 5000,
        projection: ProjectionName = "pca",
        device: str | torch.device = "cpu",
        root: str | os.PathLike[str] | None = None,
    ) -> Explorer:
        """The explorer of an index, with its own encoder; `points` and `projection` as in `EmbeddingMap.draw`."""
        encoder = load_encoder(index.encoder_file).to(device).eval()
        size, view = encoder.config.load_size, encoder.eval_view()

        def encode(content: bytes) -> NDArray[np.float32]:
            pixels = decode_image(content, size=size, channels=encoder.config.channels, max_pixels=MAX_PIXELS)
            batch = torch.from_numpy(center_crop(pixels, size)[None].copy()).to(device)
            with torch.inference_mode():
                features: NDArray[np.float32] = encoder(view(batch))[0].float().cpu().numpy()
            return features

        return cls(index, encode, EmbeddingMap.draw(index, points, projection), encoder.config.channels, root)

    def overview(self) -> dict[str, Any]:
        """The index in words and numbers, and the map: for each of its n points position, class, x and y."""
        return {
            "count": len(self.index),
            "data": shown(self.index.data, 60),
            "metric": self.index.metric,
            "how": self.index.how,
            "classes": [shown(name, 40) for name in self.classes],
            "map": {
                "about": self.map.about,
                "position": self.map.position.tolist(),
                "label": [self._label(int(position)) for position in self.map.position],
                "x": self.map.xy[:, 0].round(4).tolist(),
                "y": self.map.xy[:, 1].round(4).tolist(),
            },
        }

    def neighbours(self, position: int, k: int = 25) -> dict[str, Any]:
        """An item, and the k items that are nearest to it, without itself.

        Raises:
            UsageError: There is no item of that position.
        """
        self._check(position)
        query = np.array(self.index.vectors[position : position + 1])
        hits = self.index.search(query, k + 1)
        near = [
            (place, score) for place, score in zip(hits.position[0], hits.score[0], strict=True) if place != position
        ]
        return {"query": self._rows([(position, None)])[0], "hits": self._rows(near[:k])}

    def similar(self, content: bytes, k: int = 25) -> dict[str, Any]:
        """The k items nearest to an image, and its own place on the map.

        Args:
            content: Bytes of an image file.
            k: How many.

        Raises:
            UsageError: `content` is larger than `MAX_BYTES`.
            BadImageError: It is no image that can be read, or has more than `MAX_PIXELS`.
        """
        if len(content) > MAX_BYTES:
            raise UsageError(f"the file has {len(content):,} bytes: at most {MAX_BYTES:,} are taken")
        with self._busy:  # one at a time: a decoded image takes up to 200 MB
            query = self._encode(content)[None]
        hits = self.index.search(query, k)
        if self.index.metric == "cosine":
            query = query / max(float(np.linalg.norm(query)), 1e-12)
        xy = None if self.map.place is None else self.map.place(query)[0].round(4).tolist()
        return {"query": {"xy": xy}, "hits": self._rows(list(zip(hits.position[0], hits.score[0], strict=True)))}

    def find(self, text: str) -> dict[str, Any]:
        """The first items whose name or class holds a text, upper or lower case, and whether there are more."""
        text = text.strip().lower()
        classes = {number for number, name in enumerate(self.classes) if text in name.lower()}
        found: list[tuple[int, None]] = []
        for position, path in enumerate(self.index.paths):
            if text in path[self._common :].lower() or (classes and self._label(position) in classes):
                if len(found) == FOUND:
                    return {"rows": self._rows(found), "more": True}
                found.append((position, None))
        return {"rows": self._rows(found), "more": False}

    def name(self, position: int) -> str:
        """The name of an item without what all names begin with, fit to be shown."""
        return shown(self.index.paths[position][self._common :], 80)

    def _thumbnail(self, position: int, side: int) -> bytes:
        """A PNG of the square middle of an item, `side` pixels high and wide; the last ones are kept.

        Raises:
            UsageError: There is no item of that position, or no such image any more.
            BadImageError: It cannot be read.
        """
        self._check(position)
        pixels = open_item(self.index.paths[position], self._channels, root=self._root, size=side)
        return picture_png(tile(pixels, side))

    def _check(self, position: int) -> None:
        if not 0 <= position < len(self.index):
            raise UsageError(f"there is no image {position}: the index holds {len(self.index)}")

    def _label(self, position: int) -> int:
        return -1 if self.index.labels is None else self._class.get(int(self.index.labels[position]), -1)

    def _rows(self, near: list[tuple[int, Any]]) -> list[dict[str, Any]]:
        positions = [int(position) for position, _ in near]
        if self.map.place is not None and positions:
            xy: list[Any] = self.map.place(np.array(self.index.vectors[positions])).round(4).tolist()
        else:
            rows = [self._on_map.get(position) for position in positions]
            xy = [None if row is None else self.map.xy[row].round(4).tolist() for row in rows]
        return [
            {
                "position": position,
                "name": self.name(position),
                "label": self._label(position),
                "score": None if score is None else float(score),
                "xy": place,
            }
            for position, (_, score), place in zip(positions, near, xy, strict=True)
        ]


def _shared_folder(first: str, last: str) -> int:
    """Length of the folders, with the slash, that two names begin with: all do, if these come first and last."""
    pairs = enumerate(zip(first, last, strict=False))
    end = next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))
    return first.rfind("/", 0, end) + 1


# --- the page --------------------------------------------------------------------------------------------------------

_SIDE, _NUMBER = "|".join(map(str, SIDES)), r"\d{1,12}"
PATHS = re.compile(
    rf"/|/map|/neighbours/{_NUMBER}|/picture/({_SIDE})/{_NUMBER}|/find|/similar|/gradio_api/startup-events"
)
"""All that is answered; the last is how Gradio starts."""


class Gate:
    """ASGI middleware: lets through what the page needs, from this machine, and answers nothing else.

    A page of another site can send requests to a loopback address through its visitor's browser, under its own host
    name if it turns that into 127.0.0.1 (DNS rebinding). So the name asked for must be the loopback's, and a browser
    must not say that another site asks.

    Args:
        app: What to guard.
        security_policy: The pages' Content-Security-Policy.
    """

    def __init__(self, app: Any, security_policy: str) -> None:
        self.app = app
        self.headers = [
            (b"content-security-policy", security_policy.encode()),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = asked.get("host", "").rsplit(":", 1)[0]
        foreign = asked.get("sec-fetch-site") in ("cross-site", "same-site") and scope["path"] != "/"
        if host not in (HOST, "localhost") or foreign or PATHS.fullmatch(scope["path"]) is None:
            start = {"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]}
            await send(start)
            await send({"type": "http.response.body", "body": b"not found"})
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        await self.app(scope, receive, guarded)


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
        raise UsageError("the page needs gradio, 6.31 or newer: pip install 'ssl-toolkit[app]'") from error
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
    yield "/find", ["GET"], lambda request: JSONResponse(explorer.find(request.query_params.get("text", "")[:200]))
    yield "/neighbours/{position:int}", ["GET"], neighbours
    yield "/picture/{side:int}/{position:int}", ["GET"], picture
    yield "/similar", ["POST"], similar
