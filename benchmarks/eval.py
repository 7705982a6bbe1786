"""Speed of kNN and of the sweep of linear heads against public tools, and what three kinds of index cost and find.

    python benchmarks/eval.py --threads 1 --rounds 3
    python benchmarks/eval.py --only index --vectors 1000000

kNN: the 20 nearest of 10,000 queries in 50,000 x 512 by brute force. The contenders take turns, each round in another
order, so that a busy machine slows all of them; times are medians, ratios medians of the rounds' ratios.

Index: each is built in a process of its own, which says how long that took and how much memory it held at most beyond
its libraries; and opened in another one, which says what searching takes. Then all are asked in turns, as above.
Recall is the share of the ten nearest by exact search that is found for queries that are not in the index.

Sweep: forty linear heads trained at once on cached features, over one head trained by as many SGD steps on the same
batches, by PyTorch as its documentation writes it, with the features in a tensor and in a `DataLoader`. The seconds are
the process's own on one thread, so there a busy machine does not matter.

The vectors are synthetic: normal noise around normal centres, as features of trained encoders come in clusters.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.scores.knn import nearest
from ssl_toolkit.eval.scores.sweep import BATCH, LEARNING_RATES, WEIGHT_DECAYS, train_heads
from ssl_toolkit.eval.search.index import EmbeddingIndex

PARTS = ("knn", "index", "sweep")
K = 20


def clustered(count: int, width: int, centres: int, seed: int) -> NDArray[np.float32]:
    """Vectors around centres that do not depend on the seed, (count, width)."""
    centre = np.random.default_rng(1234).standard_normal((centres, width), dtype=np.float32)
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, width), dtype=np.float32)
    return x + centre[generator.integers(0, centres, count)]


def in_turns(
    contenders: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    names, seconds = list(contenders), {name: list[float]() for name in contenders}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            contenders[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratio(one: list[float], other: list[float]) -> str:
    """Median of the rounds' ratios, and the smallest and the largest."""
    each = [a / b for a, b in zip(one, other, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


def torch_nearest(bank: NDArray[np.float32], queries: NDArray[np.float32], metric: str) -> Any:
    """As evaluation code for kNN usually writes it."""
    x, b = torch.from_numpy(queries), torch.from_numpy(bank)
    if metric == "cosine":
        x, b = torch.nn.functional.normalize(x), torch.nn.functional.normalize(b)
    square = (b**2).sum(1)
    found = []
    for block in x.split(1024):
        similarity = block @ b.T
        found.append((similarity if metric == "cosine" else 2 * similarity - square).topk(K).indices)
    return torch.cat(found).numpy()


def knn(args: argparse.Namespace) -> None:
    bank, queries = clustered(args.bank, 512, 1000, 0), clustered(args.queries, 512, 1000, 1)
    print(f"\n| {args.queries:,} queries in {args.bank:,} x 512, k = {K} | s | ours is so many times as fast |")
    print("|---|---:|---:|")
    for metric, theirs in (("cosine", "cosine"), ("l2", "euclidean")):

        def scikit_learn(metric: str = theirs) -> Any:
            other = NearestNeighbors(n_neighbors=K, algorithm="brute", metric=metric).fit(bank)
            return other.kneighbors(queries, return_distance=True)[1]

        contenders = {
            "ours": lambda metric=metric: nearest(bank, queries, K, metric)[1],
            "torch matmul + topk": lambda metric=metric: torch_nearest(bank, queries, metric),
            "scikit-learn brute force": scikit_learn,
        }
        seconds = in_turns(contenders, args.rounds)
        for name, times in seconds.items():
            print(
                f"| {metric}, {name} | {statistics.median(times):.1f} | {ratio(times, seconds['ours'])} |", flush=True
            )


def index(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        np.save(folder / "vectors.npy", clustered(args.vectors, 128, 10_000, 0))
        (folder / "encoder").write_text("none")
        queries = clustered(1000, 128, 10_000, 1)
        np.save(folder / "queries.npy", queries)
        factories = ["Flat", f"IVF{args.lists},Flat", f"IVF{args.lists},SQ8"]
        cost = {factory: build_apart(factory, folder) for factory in factories}
        indexes = {factory: EmbeddingIndex.load(folder / factory) for factory in factories}
        found = {factory: made.search(queries, 10).position for factory, made in indexes.items()}
        searches = {factory: lambda made=made: made.search(queries, 10) for factory, made in indexes.items()}
        seconds = in_turns(searches, args.rounds)
    head = (
        "build, s | peak memory of building, MB | of searching, MB | ms a query | times as fast as Flat | recall@10 |"
    )
    print(f"\n| index of {args.vectors:,} x 128 | {head}\n|---|---:|---:|---:|---:|---:|---:|")
    for factory, times in seconds.items():
        recall = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(found[factory], found["Flat"], strict=True)])
        build, search = cost[factory]
        print(
            f"| {factory} | {build['seconds']:.0f} | {build['peak']:.0f} | {search['peak']:.0f} | "
            f"{statistics.median(times):.2f} | {ratio(seconds['Flat'], times)} | {recall:.3f} |"
        )


def build_apart(factory: str, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Build and open an index, each in a process of its own."""
    found = []
    for step in ("build", "search"):
        command = [sys.executable, __file__, "--child", step, factory, str(folder), str(torch.get_num_threads())]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout))
        print(f"{factory}, {step}: {found[-1]}", file=sys.stderr, flush=True)
    return found[0], found[1]


def child(step: str, factory: str, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    libraries = peak()
    start = time.perf_counter()
    if step == "build":
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        names = [str(number) for number in range(len(vectors))]
        options = {"encoder_file": folder / "encoder", "encoder_sha256": "0" * 64, "factory": factory}
        EmbeddingIndex.build(vectors, names, metric="l2", **options).save(folder / factory)
    else:
        EmbeddingIndex.load(folder / factory).search(np.load(folder / "queries.npy"), 10)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak() - libraries}))


def peak() -> float:
    """The most memory that this process has held, MB; what it has read of mapped files counts."""
    # getrusage would answer with what the process held that started this one.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def one_head(epochs: Iterable[Iterable[tuple[Tensor, Tensor]]], width: int, classes: int, steps: int) -> None:
    """One linear head by SGD with momentum and a cosine, the usual way."""
    head = nn.Linear(width, classes)
    optimizer = torch.optim.SGD(head.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batches in epochs:
        for x, label in batches:
            loss = F.cross_entropy(head(x), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def sweep(args: argparse.Namespace) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("\n| features | contender | ms a step | the sweep's time over its |\n|---:|---|---:|---:|")
    for width in (256, 512):
        contenders, steps = heads(count=5000, width=width, classes=10, epochs=4)
        in_turns(contenders, 1)  # warms up
        seconds = in_turns(contenders, args.rounds, time.process_time)
        ours = next(iter(seconds.values()))
        for name, times in seconds.items():
            print(
                f"| {width} | {name} | {statistics.median(times) / steps * 1e3:.2f} | {ratio(ours, times)} |",
                flush=True,
            )
    torch.set_num_threads(threads)


def heads(count: int, width: int, classes: int, epochs: int) -> tuple[dict[str, Callable[[], Any]], int]:
    """Ways to train linear heads on `count` images, and how many steps each takes."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, classes, count)
    x = generator.standard_normal((count, width), dtype=np.float32) + generator.standard_normal((classes, width))[label]
    features = Features(x.astype(np.float32), label, np.arange(count))
    pairs = list(itertools.product(LEARNING_RATES, WEIGHT_DECAYS))
    steps = epochs * (count // BATCH)
    inputs, labels = torch.from_numpy(features.x), torch.from_numpy(label)
    loader = DataLoader(TensorDataset(inputs, labels), BATCH, shuffle=True, drop_last=True)

    def in_tensors() -> Iterable[tuple[Tensor, Tensor]]:
        order = torch.randperm(count)
        for start in range(0, count - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            yield inputs[rows], labels[rows]

    contenders: dict[str, Callable[[], Any]] = {
        f"{len(pairs)} heads at once": lambda: train_heads(features, pairs, epochs=epochs, least_steps=1),
        "one head of ours": lambda: train_heads(features, pairs[:1], epochs=epochs, least_steps=1),
        "one PyTorch head, features in a tensor": lambda: one_head(
            (in_tensors() for _ in range(epochs)), width, classes, steps
        ),
        "one PyTorch head, DataLoader": lambda: one_head((loader for _ in range(epochs)), width, classes, steps),
    }
    return contenders, steps


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        step, factory, folder, threads = sys.argv[2:]
        return child(step, factory, Path(folder), int(threads))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bank", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--lists", type=int, default=4096, help="inverted lists; 4096 is what a million vectors get")
    parser.add_argument("--scratch", help="folder for some 3 GB; the system's for temporary files by default")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{args.threads} thread(s) on {os.cpu_count()} core(s); torch {torch.__version__.split('+')[0]}, faiss "
        f"{faiss.__version__}, scikit-learn {sklearn.__version__}; {datetime.date.today()}"
    )
    for name, part in zip(PARTS, (knn, index, sweep), strict=True):
        if args.only in (None, name):
            part(args)
    return None


if __name__ == "__main__":
    main()
