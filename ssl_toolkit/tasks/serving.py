"""Search over HTTP."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import contextlib
import os
import socket
from pathlib import Path
from typing import Literal

from ssl_toolkit.errors import UsageError, missing_extra
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.settings import AnyIndex, AnyPath

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    index: AnyIndex,
    port: int = 8000,
    host: str = "127.0.0.1",
    token_file: AnyPath | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> None:
    """Serve a search index over HTTP: an image or items of the index in, their nearest neighbours out, as JSON.

    POST /search/image?k=10 takes the bytes of an image file, POST /search/ids {"ids": [...], "k": 10}; GET /health and
    GET /metrics (Prometheus) tell how it is. Ctrl-C ends it.

    Args:
        index: Index folder.
        port: Port to listen on; 0 takes a free one.
        host: Address to listen on. Beyond this machine, a token is needed.
        token_file: File with a word that every request but /health must bring, as Authorization: Bearer WORD.
        device: Where images are encoded.

    Raises:
        UsageError: If there is no such index, the extra serve is not installed, the port cannot be had, or the token
            is missing or too short.
        ToolkitError: If the index is damaged.

    Examples:
        Until Ctrl-C, while another terminal asks:

            serve("index/", port=8000)
            # curl --data-binary @cat.jpg "http://127.0.0.1:8000/search/image?k=5"
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port is {port}: it must be from 0 to 65535")
    if token_file is None and host not in LOOPBACK:
        raise UsageError(f"--host {host} can be reached from other machines: give --token-file")
    token = None if token_file is None else _token(token_file)
    try:
        import uvicorn

        from ssl_toolkit.eval.service import Limits, api
    except ImportError as error:
        raise missing_extra("serving an index", "serve", "fastapi and uvicorn") from error
    from ssl_toolkit.encoders import load_encoder
    from ssl_toolkit.eval.search.image_bytes import bytes_encoder
    from ssl_toolkit.runs import available_cores
    from ssl_toolkit.tasks.common import open_index, pick_device

    with _listening(host, port) as listener:  # before an index of a million images is read, not after
        loaded = open_index(index)
        encode = bytes_encoder(load_encoder(loaded.encoder_file), pick_device(device))
        app = api(loaded, encode, Limits(available_cores()), token)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, limit_concurrency=1024)
        )
        print(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/", flush=True)
        say("Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _token(file: AnyPath) -> str:
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"--token-file {os.fspath(file)} cannot be read: {error}") from error
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise UsageError(f"--token-file {os.fspath(file)}: a token is one word of 16 letters or more")
    return token


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # Or the second part of an answer waits 40 ms for the client to say that it has the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UsageError(f"--port {port} of {host} cannot be had: {error.strerror}") from error
