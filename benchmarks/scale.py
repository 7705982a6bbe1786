"""An index of millions of vectors on one machine: time, memory, disk and recall; and what more of them would cost.

    python benchmarks/scale.py --millions 1 3 10 --out scale/

Each index is built in a process of its own, from vectors that lie on the disk, as `ssl-toolkit index` builds it, and
searched in another one. Sizes that `--out` holds are not measured again. Of memory, what the process holds for itself
is told apart from what it has mapped: mapped pages are the disk's, and go when others need the room. Recall is the
share of the ten nearest by exact search, of queries that are not in the index.

Seconds of a stage are the processor's, all threads together, so that what else runs on the machine does not count.
The model on paper has one rate for each stage, fitted through all sizes: training, filling and measuring recall by
multiplications, the rest by bytes. To find a vector's list among tens of thousands, FAISS's graph is asked, as the
default of such sizes does; what that takes is measured by itself.

The vectors are synthetic: normal noise around normal centres, as features of trained encoders come in clusters. Some
25 GB of disk are taken for ten million, and given back.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from ssl_toolkit.eval.search import approximate
from ssl_toolkit.eval.search.approximate import Approximate, default_factory, nearest_rows
from ssl_toolkit.eval.search.index import EmbeddingIndex

WIDTH, CENTRES, WRITTEN = 128, 10_000, 500_000
QUERIES, EXACT = 1000, 200  # asked, and compared with exact search
LEAST, ITERATIONS = 1 << 16, 10  # of training: rows at least, and turns of k-means
LINE = 60  # bytes of an item's name
PAPER = (100_000_000, 1_000_000_000)
STAGES = ("train", "fill", "recall", "rest")
Row = dict[str, Any]


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    """Vectors around centres that do not depend on the seed, (count, WIDTH)."""
    centre = np.random.default_rng(1234).standard_normal((CENTRES, WIDTH), dtype=np.float32)
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, WIDTH), dtype=np.float32)
    x += centre[generator.integers(0, CENTRES, count)]
    return x


def write_vectors(path: Path, count: int) -> None:
    room = np.lib.format.open_memmap(path, "w+", np.float32, (count, WIDTH))
    for start in range(0, count, WRITTEN):
        room[start : start + WRITTEN] = clustered(min(WRITTEN, count - start), start + 1)
    room.flush()


class Watch:
    """The most memory that this process holds for itself while the block runs, beyond what it held before, MB."""

    def __enter__(self) -> Watch:
        self._before, self.peak, self._end = anonymous(), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.05):
            self.peak = max(self.peak, anonymous() - self._before)


def anonymous() -> float:
    """Memory of this process that is no file's, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def timed(into: dict[str, float], name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The same work, whose seconds of the processor are added up."""

    def run(*args: Any, **options: Any) -> Any:
        start = time.process_time()
        found = work(*args, **options)
        into[name] = into.get(name, 0.0) + time.process_time() - start
        return found

    return run


def build(folder: Path, factory: str) -> Row:
    seconds: dict[str, float] = {}
    approximate.train = timed(seconds, "train", approximate.train)
    Approximate._fill = timed(seconds, "fill", Approximate._fill)  # type: ignore[method-assign]
    Approximate._tune = timed(seconds, "recall", Approximate._tune)  # type: ignore[method-assign]
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
        "building": watch.peak,
        "nprobe": found.effort["nprobe"],
        "on_disk": found.lists is not None,
    }


def exact(folder: Path) -> Row:
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    return {"nearest": nearest_rows(vectors, clustered(QUERIES, 0)[:EXACT], 10, "l2").tolist()}


def search(folder: Path) -> Row:
    queries = clustered(QUERIES, 0)
    with Watch() as watch:
        start = time.perf_counter()
        index = EmbeddingIndex.load(folder / "index")
        opened = time.perf_counter() - start
        start = time.perf_counter()
        found = index.search(queries, 10).position
        together = time.perf_counter() - start
        alone = []
        for query in queries[:EXACT]:
            start = time.perf_counter()
            index.search(query[None], 10)
            alone.append(time.perf_counter() - start)
    return {
        "searching": watch.peak,
        "open": opened,
        "together_ms": together / len(queries) * 1e3,
        "alone_ms": float(np.median(alone)) * 1e3,
        "found": found[:EXACT].tolist(),
    }


def apart(step: str, folder: Path, factory: str, threads: int) -> Row:
    """What a step finds in a process of its own."""
    command = [sys.executable, __file__, "--child", step, str(folder), factory, str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def child(step: str, folder: Path, factory: str, threads: int) -> None:
    torch.set_num_threads(threads)
    found = build(folder, factory) if step == "build" else exact(folder) if step == "exact" else search(folder)
    print(json.dumps(found))


def measured(count: int, lists: int, codes: str, threads: int, scratch: str | None) -> Row:
    """All that is measured of an index of so many vectors."""
    factory = f"IVF{lists},{codes}"
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        write_vectors(folder / "vectors.npy", count)
        (folder / "encoder").write_text("none")
        row = {"count": count, "lists": lists, "factory": factory, **apart("build", folder, factory, threads)}
        row["disk"] = sum(path.stat().st_size for path in (folder / "index").iterdir()) / 1e9
        truth = apart("exact", folder, factory, threads)["nearest"]
        row |= apart("search", folder, factory, threads)
    row["recall_at_10"] = float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(row.pop("found"), truth, strict=True)]))
    return row


def work_of(count: int, lists: int) -> dict[str, float]:
    """How much each stage has to do: multiplications and additions, or bytes."""
    return {
        "train": 2.0 * WIDTH * lists * max(approximate._TRAINED * lists, LEAST) * ITERATIONS,
        "fill": 2.0 * WIDTH * lists * count,
        "recall": 2.0 * WIDTH * approximate._SAMPLE * count,
        "rest": 4.0 * WIDTH * count,
    }


def rates(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds a unit of each stage's work: those of the least squares of relative errors over all rows."""
    found = {}
    for stage in STAGES:
        x = np.array([work_of(row["count"], row["lists"])[stage] / row[stage] for row in rows])
        found[stage] = float(x.sum() / (x * x).sum())
    return found


def costs(count: int, rate: dict[str, float], coarse: Callable[[int], float]) -> Row:
    """What an index of so many vectors would cost with the default factory, whose codes are bytes.

    Args:
        count: How many vectors.
        rate: See `rates`.
        coarse: From a number of lists to the seconds in which the list of a vector is found.

    Returns:
        Hours of a core by stage and in ``all``, gigabytes of the ``disk`` and of it ``meanwhile``, while the index is
        built from vectors that lie there already.
    """
    factory = default_factory(count)
    lists = int(factory.removeprefix("IVF").split("_")[0])
    hours = {stage: rate[stage] * work / 3600 for stage, work in work_of(count, lists).items()}
    hours["fill"] = coarse(lists) * count / 3600
    vectors, codes = 4 * WIDTH * count / 1e9, (WIDTH + 8) * count / 1e9
    disk = vectors + codes + LINE * count / 1e9
    whole = {"count": count, "factory": factory, "all": sum(hours.values()), "disk": disk, "meanwhile": disk + vectors}
    return {**whole, **hours}


def coarse_seconds(lists: int) -> float:
    """Seconds of a core to find the list of a vector by FAISS's graph over so many centres."""
    graph = faiss.IndexHNSWFlat(WIDTH, 32)
    graph.add(clustered(lists, 5))
    x = clustered(20_000, 6)
    start = time.process_time()
    graph.search(x, 1)
    return (time.process_time() - start) / len(x)


def table(rows: Sequence[Row], columns: dict[str, tuple[str, str]]) -> str:
    """Markdown: a row each, of each column its title, key and format."""
    align = [":---" if form == "s" else "---:" for _, form in columns.values()]
    lines = [list(columns), align, *([format(row[key], form) for key, form in columns.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


MEASURED = {
    "vectors": ("count", ",d"), "index": ("factory", "s"), "lists on the disk": ("on_disk", "d"),
    **{f"{stage}, s": (stage, ".0f") for stage in STAGES}, "all, s": ("total", ".0f"),
    "by the clock, s": ("clock", ".0f"), "memory of building, MB": ("building", ".0f"), "on disk, GB": ("disk", ".1f"),
    "memory of searching, MB": ("searching", ".0f"), "open, s": ("open", ".1f"),
    "ms a query, 1,000 together": ("together_ms", ".2f"), "one by one": ("alone_ms", ".2f"), "nprobe": ("nprobe", "d"),
    "recall@10": ("recall_at_10", ".3f"),
}  # fmt: skip
FITTED = {"stage": ("stage", "s"), "10⁹ operations, or bytes, a second": ("rate", ".2f"),
          "measured / model, by size": ("ratios", "s")}  # fmt: skip
ON_PAPER = {
    "vectors, on paper": ("count", ",d"), "index": ("factory", "s"),
    **{f"{stage}, h": (stage, ".1f") for stage in STAGES},
    "all, hours of a core": ("all", ".1f"), "on disk, GB": ("disk", ".0f"), "while building, GB": ("meanwhile", ".0f"),
}  # fmt: skip


def fitted(rows: Sequence[Row], rate: dict[str, float]) -> list[Row]:
    """The rate of each stage, and how well it says what was measured."""
    ratios = {
        stage: ", ".join(
            f"{row[stage] / (rate[stage] * work_of(row['count'], row['lists'])[stage]):.2f}" for row in rows
        )
        for stage in STAGES
    }
    return [{"stage": stage, "rate": 1e-9 / rate[stage], "ratios": ratios[stage]} for stage in STAGES]


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        step, folder, factory, threads = sys.argv[2:]
        return child(step, Path(folder), factory, int(threads))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 3])
    parser.add_argument("--lists", type=int, default=4096)
    parser.add_argument("--codes", default="Flat", help="Flat, or SQ8 for a quarter of the disk")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("scale"), help="folder of what was measured, a file a size")
    parser.add_argument("--scratch", help="folder for the vectors; the system's for temporary files by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    faiss.omp_set_num_threads(options.threads)
    rows = []
    for count in (int(size * 1e6) for size in options.millions):
        file = options.out / f"{count}-{options.lists}-{options.codes}.json"
        if not file.exists():
            row = measured(count, options.lists, options.codes, options.threads, options.scratch)
            file.write_text(json.dumps(row, indent=2) + "\n")
        rows.append(json.loads(file.read_text()))
    rate = rates(rows)
    print(f"{options.threads} threads on {os.cpu_count()} cores; faiss {faiss.__version__}; {datetime.date.today()}\n")
    paper = [costs(count, rate, coarse_seconds) for count in PAPER]
    print("\n\n".join([table(rows, MEASURED), table(fitted(rows, rate), FITTED), table(paper, ON_PAPER)]))
    return None


if __name__ == "__main__":
    main()
