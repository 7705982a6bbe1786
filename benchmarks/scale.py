"""An index of millions of vectors on one machine: time, memory, disk and recall; and what more of them would cost.

    python benchmarks/scale.py --millions 1 3 10 --scratch FOLDER

Each index is built in a process of its own, from vectors that lie on the disk, as `ssl-toolkit index` builds it, and
searched in another one. Of memory, what the process holds for itself is told apart from what it has mapped: mapped
pages are the disk's, and go when others need the room. Recall is the share of the ten nearest by exact search, of
queries that are not in the index.

Seconds of a stage are the processor's, all threads together, so that what else runs on the machine does not count.
The model has one rate for each stage of building, fitted through all sizes: training and filling by multiplications,
measuring recall and writing by bytes. To find a vector's list among tens of thousands, FAISS's graph is asked, as the
default of such sizes does; what that takes is measured by itself.

The vectors are synthetic: normal noise around normal centres, as features of trained encoders come in clusters. Some
25 GB of disk are taken for ten million, and given back.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from ssl_toolkit.eval.search import approximate
from ssl_toolkit.eval.search.approximate import Approximate, default_factory, nearest_rows
from ssl_toolkit.eval.search.index import EmbeddingIndex

WIDTH, CENTRES, QUERIES, EXACT, TRAINED, ITERATIONS = 128, 10_000, 1000, 200, 64, 10
STAGES = ("train", "fill", "recall", "rest")
PAPER = (100_000_000, 1_000_000_000)


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    """Vectors around centres that do not depend on the seed, (count, WIDTH)."""
    centre = np.random.default_rng(1234).standard_normal((CENTRES, WIDTH), dtype=np.float32)
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, WIDTH), dtype=np.float32)
    x += centre[generator.integers(0, CENTRES, count)]
    return x


def write_vectors(path: Path, count: int) -> None:
    room = np.lib.format.open_memmap(path, "w+", np.float32, (count, WIDTH))
    step = 500_000
    for start in range(0, count, step):
        room[start : start + step] = clustered(min(step, count - start), start + 1)
    room.flush()


class Watch:
    """The most memory of its own that this process holds while the block runs, MB."""

    def __enter__(self) -> Watch:
        self.peak, self._end = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.05):
            self.peak = max(self.peak, status("RssAnon"))


def status(name: str) -> float:
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def timed(into: dict[str, float], name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        start = time.process_time()
        found = work(*args, **options)
        into[name] = into.get(name, 0.0) + time.process_time() - start
        return found

    return run


def build(folder: Path, factory: str) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    approximate.train = timed(seconds, "train", approximate.train)
    Approximate._fill = timed(seconds, "fill", Approximate._fill)  # type: ignore[method-assign]
    Approximate._tune = timed(seconds, "recall", Approximate._tune)  # type: ignore[method-assign]
    libraries = status("RssAnon")
    start, used = time.perf_counter(), time.process_time()
    with Watch() as watch:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        names = [f"{number:09d}.jpg" for number in range(len(vectors))]
        made = EmbeddingIndex.build(
            vectors, names, metric="l2", factory=factory, encoder_file=folder / "encoder", encoder_sha256="0" * 64,
            scratch=folder,
        )  # fmt: skip
        made.save(folder / "index")
    clock, total = time.perf_counter() - start, time.process_time() - used
    found = made.approximate
    assert found is not None
    return {
        **seconds,
        "rest": total - sum(seconds.values()),
        "total": total,
        "clock": clock,
        "own": watch.peak - libraries,
        "resident": status("VmHWM"),
        "nprobe": found.effort["nprobe"],
        "on_disk": found.lists is not None,
    }


def search(folder: Path, exact: NDArray[np.int64], queries: NDArray[np.float32]) -> dict[str, Any]:
    libraries = status("RssAnon")
    with Watch() as watch:
        start = time.perf_counter()
        index = EmbeddingIndex.load(folder / "index")
        opened = time.perf_counter() - start
        first = time.perf_counter()
        position = index.search(queries, 10).position
        cold = time.perf_counter() - first
        times = []
        for query in queries[:EXACT]:
            start = time.perf_counter()
            index.search(query[None], 10)
            times.append(time.perf_counter() - start)
    recall = float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(position, exact, strict=False)]))
    return {
        "open": opened,
        "together_ms": cold / len(queries) * 1e3,
        "alone_ms": float(np.median(times)) * 1e3,
        "own": watch.peak - libraries,
        "recall": recall,
    }


def child(step: str, folder: Path, factory: str, threads: int) -> None:
    torch.set_num_threads(threads)
    if step == "build":
        print(json.dumps(build(folder, factory)))
        return
    queries = clustered(QUERIES, 0)
    if step == "exact":
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        np.save(folder / "exact.npy", nearest_rows(vectors, queries[:EXACT], 10, "l2"))
        print("{}")
        return
    print(json.dumps(search(folder, np.load(folder / "exact.npy"), queries)))


def apart(step: str, folder: Path, factory: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", step, str(folder), factory, str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{factory}, {step}: {found}", file=sys.stderr, flush=True)
    return found


def measured(count: int, lists: int, codes: str, args: argparse.Namespace) -> dict[str, Any]:
    factory = f"IVF{lists},{codes}"
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        write_vectors(folder / "vectors.npy", count)
        (folder / "encoder").write_text("none")
        built = apart("build", folder, factory, args.threads)
        disk = sum(path.stat().st_size for path in (folder / "index").iterdir()) / 1e9
        apart("exact", folder, factory, args.threads)
        found = apart("search", folder, factory, args.threads)
    cells = [
        f"{count / 10**6:g} million",
        factory,
        "disk" if built["on_disk"] else "memory",
        *(f"{built[stage]:.0f}" for stage in (*STAGES, "total", "clock", "own")),
        f"{disk:.1f}",
        f"{found['own']:.0f}",
        f"{found['open']:.1f}",
        f"{found['together_ms']:.2f}",
        f"{found['alone_ms']:.2f}",
        str(built["nprobe"]),
        f"{found['recall']:.3f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)
    return {"count": count, "lists": lists, **built, "searched": found}


def work_of(count: int, lists: int) -> dict[str, float]:
    """How much each stage has to do: multiplications and additions, or bytes."""
    sample = max(TRAINED * lists, 1 << 16)
    return {
        "train": 2.0 * WIDTH * lists * sample * ITERATIONS,
        "fill": 2.0 * WIDTH * lists * count,
        "recall": 2.0 * WIDTH * 1000 * count,
        "rest": 4.0 * WIDTH * count,
    }


def model(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds a unit of each stage's work: least squares of relative errors."""
    rates = {}
    for stage in STAGES:
        x = np.array([work_of(row["count"], row["lists"])[stage] / row[stage] for row in rows])
        rates[stage] = float(x.sum() / (x * x).sum())
    return rates


def coarse_seconds(lists: int, threads: int) -> float:
    """Seconds of a core to find the list of one vector by FAISS's graph over so many centres."""
    faiss.omp_set_num_threads(threads)
    graph = faiss.IndexHNSWFlat(WIDTH, 32)
    graph.add(clustered(lists, 5))
    x = clustered(20_000, 6)
    start = time.process_time()
    graph.search(x, 1)
    return (time.process_time() - start) / len(x)


def on_paper(rates: dict[str, float], rows: list[dict[str, Any]], threads: int) -> None:
    print("\n| stage | rate | measured / model, by size |\n|---|---|---|")
    for stage in STAGES:
        ratios = [row[stage] / (rates[stage] * work_of(row["count"], row["lists"])[stage]) for row in rows]
        unit = "thousand million operations a second" if stage != "rest" else "GB a second"
        print(f"| {stage} | {1e-9 / rates[stage]:.2f} {unit} | {', '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    own = np.polyfit([row["count"] for row in rows], [row["own"] for row in rows], 1) if len(rows) > 1 else [0, 0]
    print(
        "\n| on paper | index | train | fill | recall | rest | all, core hours | disk, GB | while building, GB | "
        "memory of building, GB |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for count in PAPER:
        factory = default_factory(count)
        lists = int(factory[3:].split("_")[0])
        work = work_of(count, lists)
        hours = {stage: rates[stage] * work[stage] / 3600 for stage in STAGES}
        hours["fill"] = coarse_seconds(lists, threads) * count / 3600
        code = WIDTH + 8
        disk, scratch = count * (4 * WIDTH + code + 60) / 1e9, count * (4 * WIDTH + code) / 1e9
        memory = own[0] * count / 1e3 + lists * TRAINED * WIDTH * 4 / 1e9
        print(
            f"| {count:,} | {factory} | "
            + " | ".join(f"{hours[stage]:.1f}" for stage in STAGES)
            + f" | {sum(hours.values()):.1f} | {disk:.0f} | {disk + scratch:.0f} | {memory:.0f} |",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        step, folder, factory, threads = sys.argv[2:]
        return child(step, Path(folder), factory, int(threads))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 3])
    parser.add_argument("--lists", type=int, default=4096)
    parser.add_argument("--codes", default="Flat", help="Flat, or SQ8 for a quarter of the disk")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scratch", help="folder for the files; the system's for temporary files by default")
    args = parser.parse_args()
    free = shutil.disk_usage(args.scratch or tempfile.gettempdir()).free / 1e9
    columns = (
        f"| x {WIDTH} | index | lists in | train, s | fill, s | recall, s | rest, s | all, s | by the clock, s | "
        "own memory of building, MB | index on disk, GB | of searching, MB | open, s | ms a query, 1,000 together | "
        "one by one | nprobe | recall@10 |"
    )
    print(
        f"{args.threads} thread(s) on {os.cpu_count()} core(s), {free:.0f} GB free; faiss {faiss.__version__}; "
        f"{datetime.date.today()}\n\n{columns}\n|{'---|' * 17}",
        flush=True,
    )
    rows = [measured(int(size * 1e6), args.lists, args.codes, args) for size in args.millions]
    on_paper(model(rows), rows, args.threads)
    return None


if __name__ == "__main__":
    main()
