"""What stands before the page's server: this machine's own requests for the page pass, and nothing else."""

from __future__ import annotations

import re
from typing import Any

HOST = "127.0.0.1"
"""The only address that is ever listened on."""

SIDES = (64, 192)
"""Sides of the pictures that are served, pixels: on the map, and elsewhere."""

_SIDE, _NUMBER = "|".join(map(str, SIDES)), r"\d{1,12}"
PATHS = re.compile(
    rf"/|/map|/neighbours/{_NUMBER}|/picture/({_SIDE})/{_NUMBER}|/find|/described|/similar|/gradio_api/startup-events"
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
