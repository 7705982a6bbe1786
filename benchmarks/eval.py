"""What evaluation costs beside public tools.

    python benchmarks/eval.py sweep --rounds 7

`sweep`: forty linear heads trained at once on cached features, over one head trained by the same number of SGD steps on
the same batches, by PyTorch as its documentation writes it, with the features in a tensor and in a `DataLoader`.
Contenders take turns in one process; the seconds are the process's own on one thread, ratios are medians of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ssl_toolkit.eval.features import Features
from ssl_toolkit.eval.sweep import BATCH, LEARNING_RATES, WEIGHT_DECAYS, train_heads


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


def sweep_cost(count: int, width: int, classes: int, epochs: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds a step, and the sweep's time over each contender's.

    Args:
        count: Images.
        width: Features.
        classes: Classes.
        epochs: Passes over the images.
        rounds: How often everything is timed.
    """
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

    contenders: dict[str, Callable[[], object]] = {
        f"{len(pairs)} heads at once": lambda: train_heads(features, pairs, epochs=epochs, least_steps=1),
        "one head of ours": lambda: train_heads(features, pairs[:1], epochs=epochs, least_steps=1),
        "one PyTorch head, features in a tensor": lambda: one_head(
            (in_tensors() for _ in range(epochs)), width, classes, steps
        ),
        "one PyTorch head, DataLoader": lambda: one_head((loader for _ in range(epochs)), width, classes, steps),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if number:  # the first round warms up
                taken[name].append(time.process_time() - start)
    ours = next(iter(taken.values()))
    return {
        name: (
            statistics.median(seconds) / steps * 1e3,
            statistics.median(a / b for a, b in zip(ours, seconds, strict=True)),
        )
        for name, seconds in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What evaluation costs.", allow_abbrev=False)
    parser.add_argument("part", choices=("sweep",))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| features | contender | ms a step | the sweep's time / its time |\n|---:|---|---:|---:|")
    for width in (256, 512):
        for name, (ms, ratio) in sweep_cost(5000, width, classes=10, epochs=4, rounds=options.rounds).items():
            print(f"| {width} | {name} | {ms:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
