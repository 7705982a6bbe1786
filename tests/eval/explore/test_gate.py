"""What passes to the page's server."""

from __future__ import annotations

import asyncio
from typing import Any

from ssl_toolkit.eval.explore.gate import Gate


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
