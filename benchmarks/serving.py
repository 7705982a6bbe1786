"""How long the HTTP API takes while many ask at once.

    python benchmarks/serving.py --index index/ --image query.jpg --parallel 200

`ssl-toolkit serve` runs in a process of its own on the loopback address. As many requests as `--parallel` says are
always under way, each on a connection that stays open; the first round warms up and does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np

Ask = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


async def load(address: str, ask: Ask, parallel: int, rounds: int) -> tuple[list[float], float]:
    """Seconds of each request, and of all of them together."""
    times: list[float] = []

    async def one() -> None:
        # A client each: one for all looks for its next connection among all of them, at every request.
        async with httpx.AsyncClient(base_url=address, timeout=120, verify=False) as client:
            for number in range(rounds + 1):
                start = time.perf_counter()
                (await ask(client)).raise_for_status()
                if number:
                    times.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(parallel)))
    return times, (time.perf_counter() - start) * rounds / (rounds + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--parallel", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    image = Path(args.image).read_bytes()
    command = [sys.executable, "-m", "ssl_toolkit.cli", "serve", args.index, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        if not address:
            raise SystemExit("the server did not start")
        # It listens before it answers, and what is asked meanwhile waits.
        count = httpx.get(f"{address}health", timeout=60).json()["images"]
        asked: dict[str, Ask] = {
            "one item": lambda client: client.post("/search/ids", json={"ids": [random.randrange(count)], "k": 10}),
            "an image": lambda client: client.post("/search/image?k=10", content=image),
        }
        print(f"{count:,} images, {args.parallel} at once; {os.cpu_count()} cores; {datetime.date.today()}\n")
        print("| asked | requests | a second | p50, ms | p90, ms | p99, ms | max, ms |\n|---|" + "---:|" * 6)
        for name, ask in asked.items():
            for parallel in (1, args.parallel):
                times, seconds = asyncio.run(load(address, ask, parallel, args.rounds if parallel > 1 else 50))
                p50, p90, p99 = np.percentile(times, [50, 90, 99]) * 1e3
                print(
                    f"| {name}, {parallel} at once | {len(times)} | {len(times) / seconds:.0f} | {p50:.0f} | {p90:.0f} "
                    f"| {p99:.0f} | {max(times) * 1e3:.0f} |",
                    flush=True,
                )
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    main()
