"""What a server counts, in the words of Prometheus."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the buckets of a request's duration, seconds."""

OTHER = "other"
"""What a path is called that is none of ours: what others ask for must not fill memory."""


class Metrics:
    """ASGI middleware: counts requests by path and status, and how long they take; `text` tells.

    Args:
        app: What is counted.
        paths: Paths that are told apart.
    """

    def __init__(self, app: Any, paths: tuple[str, ...]) -> None:
        self.app, self.paths = app, paths
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: dict[str, float] = {}
        self._running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def seen(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        scope["metrics"] = self
        with self._lock:
            self._running += 1
        try:
            await self.app(scope, receive, seen)
        finally:
            self._count(scope["path"], status, time.perf_counter() - start)

    def _count(self, path: str, status: int, seconds: float) -> None:
        path = path if path in self.paths else OTHER
        with self._lock:
            self._running -= 1
            self._requests[path, status] += 1
            self._seconds[path] = self._seconds.get(path, 0.0) + seconds
            for end in BUCKETS:
                self._buckets[path, end] += seconds <= end

    def text(self) -> str:
        """All of it, in Prometheus's text format 0.0.4."""
        with self._lock:
            requests, buckets, seconds = dict(self._requests), dict(self._buckets), dict(self._seconds)
            running = self._running
        lines = ["# TYPE ssl_toolkit_requests_total counter"]
        for (path, status), count in sorted(requests.items()):
            lines.append(f'ssl_toolkit_requests_total{{path="{path}",status="{status}"}} {count}')
        lines.append("# TYPE ssl_toolkit_request_seconds histogram")
        for path in sorted(seconds):
            total = sum(count for (of, _), count in requests.items() if of == path)
            for end in BUCKETS:
                lines.append(f'ssl_toolkit_request_seconds_bucket{{path="{path}",le="{end}"}} {buckets[path, end]}')
            lines.append(f'ssl_toolkit_request_seconds_bucket{{path="{path}",le="+Inf"}} {total}')
            lines.append(f'ssl_toolkit_request_seconds_sum{{path="{path}"}} {seconds[path]:.6f}')
            lines.append(f'ssl_toolkit_request_seconds_count{{path="{path}"}} {total}')
        lines += ["# TYPE ssl_toolkit_requests_running gauge", f"ssl_toolkit_requests_running {running}"]
        return "\n".join(lines) + "\n"
