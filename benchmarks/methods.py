"""What a step of each contrastive method costs, beside the bare encoder and beside lightly.

    python benchmarks/methods.py --threads 1 --rounds 11 --chart docs/images/methods_cost.png

A step is forward, backward and what the method itself updates (momentum network, queue, centre, prototypes) on ready
views; augmentation and the optimiser's step are in nobody's time. Bare is forward and backward of the same encoder on
the same crops, all of them, those of one size together. The contenders take turns, each round in another order, so
that a busy machine slows all of them; a line is the median of the rounds' ratios, with their quartiles in brackets. On
a CPU it is the process's own time that counts: the same as the wall clock's with one thread and nothing else running.

Memory is what is held at the worst moment of a step beyond what was held before it: activations, gradients and
temporaries, without weights and queues, which are alike. On a CPU it comes from the allocations that PyTorch's
profiler records, on a GPU from the caching allocator.

lightly's methods are written as its examples do (``lightly_examples.py``), with its heads, losses and helpers, and our
head sizes, queues, crops and prototypes; its encoder is ours. It encodes view by view, we views of one size together.
What it does otherwise and cannot be told: SimCLR's projection and MoCo v3's and NNCLR's last batch norms have scale and
shift, SwAV's prototypes a bias, and NNCLR and MoCo v3 use its symmetric `NTXentLoss`, which also compares keys with
keys.

The second table is the losses alone, forward and backward. Needs ``pip install lightly``; ``KINETO_LOG_LEVEL=99``
keeps the profiler quiet. On Linux much of what large tensors cost a CPU is page faults, as the C library gives freed
memory back at once; with
``GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296`` it keeps it.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import accumulate, chain
from pathlib import Path

import torch
from lightly_examples import METHODS
from lightly_losses import crop_losses, pair_losses, queue_losses, token_and_spread_losses
from torch import Tensor, nn

from ssl_toolkit.contrastive.cpc import SMALLEST_PATCH, patches
from ssl_toolkit.contrastive.passes import by_size
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig

Run = Callable[[], None]


def contenders(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, Run]:
    """A step of ours, of lightly's if it has the method, and of the bare encoder."""
    torch.manual_seed(0)
    method_class, arguments, example = METHODS[name]
    size = options.size
    config = EncoderConfig(options.encoder, image_size=size, load_size=size, norm=method_class.encoder_norm)
    encoder = Encoder(config)
    method = method_class(copy.deepcopy(encoder), method_class.default_views(size), **arguments).to(device)
    image = torch.randint(256, (options.batch, 3, size, size), dtype=torch.uint8, device=device)
    place = torch.arange(options.batch, device=device)
    batch = Batch(image, place, place)
    with torch.no_grad():
        views = method.views(image)
    crops = views
    if name == "cpc":
        side = max(SMALLEST_PATCH, size // 4)
        crops = [patches(views[0], side, side // 2).flatten(0, 2).contiguous()]

    def ours() -> None:
        method.step(views, batch)["loss"].backward()
        method.after_update()
        method.zero_grad(set_to_none=True)

    found = {"ours": ours, "bare": partial(bare, encoder.to(device), crops)}
    if example is not None:
        model = example(copy.deepcopy(encoder), encoder.feature_dim).to(device)
        check_alike(name, method, model)

        def theirs() -> None:
            model(views).backward()
            model.zero_grad(set_to_none=True)

        found["theirs"] = theirs
    return found


def bare(encoder: Encoder, crops: list[Tensor]) -> None:
    """Forward and backward of the encoder, and nothing else."""
    torch.cat(by_size(encoder, crops)).square().mean().backward()
    encoder.zero_grad(set_to_none=True)


def check_alike(name: str, ours: nn.Module, theirs: nn.Module) -> None:
    """Refuse to compare networks of different sizes."""
    count = [sum(p.numel() for p in module.parameters() if p.requires_grad) for module in (ours, theirs)]
    if abs(count[0] - count[1]) > 0.01 * count[0]:
        raise SystemExit(
            f"{name}: ours has {count[0]} trained parameters, lightly's {count[1]}: give it the same heads"
        )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Run, device: torch.device) -> float:
    """Of the processor, which no other program slows much; of the wall clock on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wait(device)
    start = clock()
    run()
    wait(device)
    return clock() - start


def peak(run: Run, device: torch.device) -> int:
    """Bytes held at the worst moment of a call, beyond those held before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    return max(accumulate(e["args"]["Bytes"] for e in changes))


@dataclass
class Cost:
    """Seconds of each round and peak bytes, by contender."""

    times: dict[str, list[float]]
    bytes: dict[str, int]

    def time_ratio(self, name: str, base: str) -> tuple[float, float, float]:
        """Median, lower and upper quartile of the rounds' ratios."""
        ratios = [own / other for own, other in zip(self.times[name], self.times[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high

    def memory_ratio(self, name: str, base: str) -> float:
        """Of the peaks."""
        return self.bytes[name] / self.bytes[base]


def measure(runs: dict[str, Run], device: torch.device, rounds: int) -> Cost:
    """All contenders in turn, round after round."""
    for run in runs.values():
        run()
    memory = {name: peak(run, device) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(seconds(runs[name], device))
    return Cost(times, memory)


def step_row(name: str, cost: Cost) -> str:
    """A line of the first table."""
    time_cells, memory_cells = [], []
    for one, other in (("ours", "bare"), ("theirs", "bare"), ("ours", "theirs")):
        if one not in cost.times or other not in cost.times:
            time_cells.append("")
            memory_cells.append("")
            continue
        middle, low, high = cost.time_ratio(one, other)
        time_cells.append(f"{middle:.2f}" + (f" ({low:.2f}-{high:.2f})" if other == "theirs" else ""))
        memory_cells.append(f"{cost.memory_ratio(one, other):.2f}")
    return f"| {name} | {' | '.join(time_cells + memory_cells)} |"


def loss_row(name: str, cost: Cost) -> str:
    """A line of the second table."""
    middle, low, high = cost.time_ratio("ours", "theirs")
    ms = [f"{statistics.median(cost.times[each]) * 1e3:.1f}" for each in ("ours", "theirs")]
    mib = [f"{cost.bytes[each] / 2**20:.0f}" for each in ("ours", "theirs")]
    ratio = f"{cost.memory_ratio('ours', 'theirs'):.2f}"
    return f"| {name} | {' | '.join([*ms, f'{middle:.2f} ({low:.2f}-{high:.2f})', *mib, ratio])} |"


def chart(path: str, costs: dict[str, Cost], note: str) -> None:
    """Time and memory of a step relative to the bare encoder, a pair of bars a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.4 * len(costs)), layout="constrained")
    names = list(costs)[::-1]
    ratios: list[Callable[[Cost, str], float]] = [
        lambda cost, who: cost.time_ratio(who, "bare")[0],
        lambda cost, who: cost.memory_ratio(who, "bare"),
    ]
    for axis, title, ratio in zip(figure.subplots(1, 2, sharey=True), ("time", "peak memory"), ratios, strict=True):
        for who, shift, colour in (("ours", 0.2, "#1f6f8b"), ("theirs", -0.2, "#b8c4cc")):
            there = [(place, costs[name]) for place, name in enumerate(names) if who in costs[name].times]
            label = {"ours": "ours", "theirs": "lightly"}[who]
            heights = [ratio(cost, who) for _, cost in there]
            axis.barh([place + shift for place, _ in there], heights, 0.38, color=colour, label=label)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{title} of a step, bare encoder = 1", fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=110)


def step_table(options: argparse.Namespace, device: torch.device) -> dict[str, Cost]:
    """Print what a step costs, a line a method."""
    costs = {}
    print("| method | time: ours/bare | theirs/bare | ours/theirs | memory: ours/bare | theirs/bare | ours/theirs |")
    print("|---|" + "---:|" * 6)
    for name in options.methods:
        costs[name] = measure(contenders(name, options, device), device, options.rounds)
        print(step_row(name, costs[name]), flush=True)
    return costs


def loss_table(options: argparse.Namespace, device: torch.device) -> None:
    """Print what the losses cost, a line each."""
    print("\n| loss | ours, ms | theirs, ms | ours/theirs | ours, MiB | theirs, MiB | ours/theirs |")
    print("|---|" + "---:|" * 6)
    n, with_queue = options.loss_batch, min(options.queue_batch, options.loss_batch)
    kinds = (pair_losses(n, device), queue_losses(with_queue, device), crop_losses(n, device))
    for loss in chain(*kinds, token_and_spread_losses(n, device)):
        if options.losses is None or loss.name.startswith(tuple(options.losses)):
            print(loss_row(loss.name, measure(loss.contenders(), device, options.rounds)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a step of each method costs.", allow_abbrev=False)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--encoder", default="convnet")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--loss-batch", type=int, default=4096, help="0: no table of losses")
    parser.add_argument("--queue-batch", type=int, default=1024, help="queries of the losses with a queue")
    parser.add_argument("--losses", nargs="*", help="those whose names begin so; all by default")
    parser.add_argument("--chart", help="PNG to write")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds is {options.rounds}: quartiles need at least 2")
    warnings.filterwarnings("ignore", message=".*weight_norm.*")  # lightly's DINO head
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightly"))
    print(f"{options.encoder}, {options.size} px, batch {options.batch}, {options.threads} thread(s); {versions}\n")

    costs = step_table(options, device)
    if options.chart:
        chart(options.chart, costs, f"{options.encoder}, {options.size} px, batch {options.batch}, {device.type}")
    if options.loss_batch:
        loss_table(options, device)


if __name__ == "__main__":
    main()
