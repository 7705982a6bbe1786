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

lightly's methods are written as its examples do (``examples/pytorch``), with its heads, losses and helpers, and our
head sizes, queues, crops and prototypes; its encoder is ours. It encodes view by view, we views of one size together.
It has no example of MoCo v3, which is put together from its parts, and no CPC. What it does otherwise and cannot be
told: SimCLR's projection and MoCo v3's and NNCLR's last batch norms have scale and shift, SwAV's prototypes a bias,
and NNCLR and MoCo v3 use its symmetric `NTXentLoss`, which also compares keys with keys.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from lightly.models.modules import heads
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.models.modules.nn_memory_bank import NNMemoryBankModule
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.barlow_twins import BarlowTwins
from ssl_toolkit.contrastive.byol import BYOL
from ssl_toolkit.contrastive.cpc import CPC, SMALLEST_PATCH, patches
from ssl_toolkit.contrastive.dino import DINO
from ssl_toolkit.contrastive.moco import MoCo, MoCoV3
from ssl_toolkit.contrastive.multicrop import by_size
from ssl_toolkit.contrastive.nnclr import NNCLR, nearest
from ssl_toolkit.contrastive.queue import Queue
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.contrastive.simsiam import SimSiam
from ssl_toolkit.contrastive.swav import SwAV
from ssl_toolkit.contrastive.vicreg import VICReg
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.method import Method

Run = Callable[[], None]


class Example(nn.Module):
    """What lightly's examples have in common; with two views and a symmetric loss it is all of one."""

    def __init__(self, backbone: nn.Module, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projection_head, self.criterion = backbone, head, criterion

    def project(self, x: Tensor) -> Tensor:
        """One view to its projection."""
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        z0, z1 = (self.project(x) for x in views)
        return self.criterion(z0, z1)


class MomentumExample(Example):
    """An example with a momentum network; as it stands, MoCo."""

    def __init__(self, backbone: nn.Module, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__(backbone, head, criterion)
        self.backbone_momentum, self.projection_head_momentum = copy.deepcopy(backbone), copy.deepcopy(head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def follow(self) -> None:
        """Move the momentum network."""
        update_momentum(self.backbone, self.backbone_momentum, m=0.99)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.99)

    def project_momentum(self, x: Tensor) -> Tensor:
        """One view to what the momentum network makes of it."""
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        self.follow()
        x_query, x_key = views
        return self.criterion(self.project(x_query), self.project_momentum(x_key))


class PredictedMomentumExample(MomentumExample):
    """BYOL, and MoCo v3 with other heads and another loss."""

    def __init__(self, backbone: nn.Module, head: nn.Module, prediction: nn.Module, criterion: nn.Module) -> None:
        super().__init__(backbone, head, criterion)
        self.prediction_head = prediction

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        self.follow()
        x0, x1 = views
        p0, z0 = self.prediction_head(self.project(x0)), self.project_momentum(x0)
        p1, z1 = self.prediction_head(self.project(x1)), self.project_momentum(x1)
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


class PredictedExample(Example):
    """SimSiam, and NNCLR with a memory bank whose nearest neighbours take the projections' place."""

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        prediction: nn.Module,
        criterion: nn.Module,
        memory_bank: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, head, criterion)
        self.prediction_head, self.memory_bank = prediction, memory_bank

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        z0, z1 = (self.project(x) for x in views)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        z0, z1 = z0.detach(), z1.detach()
        if self.memory_bank is not None:
            z0, z1 = self.memory_bank(z0, update=False), self.memory_bank(z1, update=True)
        return 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))


class SwaVExample(Example):
    """SwAV with a queue."""

    def __init__(self, backbone: nn.Module, head: nn.Module, prototypes: nn.Module, queue: tuple[int, int]) -> None:
        super().__init__(backbone, head, SwaVLoss())
        self.prototypes = prototypes
        self.queues = nn.ModuleList([MemoryBankModule(size=queue) for _ in range(2)])

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        with torch.no_grad():
            self.prototypes.normalize()
        features = [F.normalize(self.project(x), dim=1, p=2) for x in views]
        scores = [self.prototypes(x) for x in features]
        with torch.no_grad():
            queued = [queue(x, update=True)[1] for queue, x in zip(self.queues, features[:2], strict=True)]
            queue_scores = [self.prototypes(x.permute(1, 0)) for x in queued]
        return self.criterion(scores[:2], scores[2:], queue_scores)


class DINOExample(MomentumExample):
    """DINO, whose head cannot be copied and is built twice."""

    def __init__(self, backbone: nn.Module, feature_dim: int) -> None:
        super().__init__(backbone, nn.Identity(), DINOLoss(4096))
        self.projection_head = heads.DINOProjectionHead(feature_dim, 1024, 256, 4096)
        self.projection_head_momentum = heads.DINOProjectionHead(feature_dim, 1024, 256, 4096)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        self.follow()
        teacher = [self.project_momentum(x) for x in views[:2]]
        student = [self.project(x) for x in views]
        return self.criterion(teacher, student, epoch=0)


# name: our class, our arguments beyond the defaults, the same of lightly given an encoder and its feature dimension
METHODS: dict[str, tuple[type[Method], dict[str, float], Callable[[nn.Module, int], nn.Module] | None]] = {
    "simclr": (SimCLR, {}, lambda e, d: Example(e, heads.SimCLRProjectionHead(d, 512, 128), NTXentLoss(0.2))),
    "moco": (
        MoCo,
        {},
        lambda e, d: MomentumExample(e, heads.MoCoProjectionHead(d, 512, 128), NTXentLoss(0.2, (4096, 128))),
    ),
    "moco_v3": (
        MoCoV3,
        {},
        lambda e, d: PredictedMomentumExample(
            e,
            heads.MoCoProjectionHead(d, 1024, 256, batch_norm=True),
            heads.MoCoProjectionHead(256, 1024, 256, batch_norm=True),
            NTXentLoss(0.2),
        ),
    ),
    "byol": (
        BYOL,
        {},
        lambda e, d: PredictedMomentumExample(
            e,
            heads.BYOLProjectionHead(d, 1024, 256),
            heads.BYOLPredictionHead(256, 1024, 256),
            NegativeCosineSimilarity(),
        ),
    ),
    "simsiam": (
        SimSiam,
        {},
        lambda e, d: PredictedExample(
            e,
            heads.SimSiamProjectionHead(d, 2048, 2048),
            heads.SimSiamPredictionHead(2048, 512, 2048),
            NegativeCosineSimilarity(),
        ),
    ),
    "barlow_twins": (
        BarlowTwins,
        {},
        lambda e, d: Example(e, heads.BarlowTwinsProjectionHead(d, 2048, 2048), BarlowTwinsLoss()),
    ),
    "vicreg": (VICReg, {}, lambda e, d: Example(e, heads.VICRegProjectionHead(d, 2048, 2048), VICRegLoss())),
    "swav": (
        SwAV,
        {"queue_start": 0.0},
        lambda e, d: SwaVExample(
            e, heads.SwaVProjectionHead(d, 1024, 128), heads.SwaVPrototypes(128, 512), (3840, 128)
        ),
    ),
    "nnclr": (
        NNCLR,
        {},
        lambda e, d: PredictedExample(
            e,
            heads.NNCLRProjectionHead(d, 1024, 256),
            heads.NNCLRPredictionHead(256, 1024, 256),
            NTXentLoss(0.1),
            NNMemoryBankModule((4096, 256)),
        ),
    ),
    "dino": (DINO, {}, DINOExample),
    "cpc": (CPC, {}, None),
}


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


@dataclass
class Loss:
    """A loss on given leaves, in both libraries."""

    name: str
    leaves: list[Tensor]
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]

    def contenders(self) -> dict[str, Run]:
        """Forward and backward of each."""

        def run(loss: Callable[[], Tensor]) -> None:
            loss().backward()
            for leaf in self.leaves:
                leaf.grad = None

        return {"ours": partial(run, self.ours), "theirs": partial(run, self.theirs)}


def pair_losses(n: int, device: torch.device) -> Iterator[Loss]:
    """The losses of two views."""

    def leaves(dim: int, rows: int = n) -> list[Tensor]:
        return [torch.randn(rows, dim, device=device).requires_grad_() for _ in range(2)]

    z = leaves(128)
    ntx = NTXentLoss(0.2)
    yield Loss(f"nt_xent, {n} x 128", z, lambda: losses.nt_xent(*z, 0.2), lambda: ntx(*z))
    p, target = z[0], z[1].detach()
    cosine = NegativeCosineSimilarity()
    yield Loss(f"negative_cosine, {n} x 128", [p], lambda: losses.negative_cosine(p, target), lambda: cosine(p, target))
    wide = leaves(2048)
    barlow, vicreg = BarlowTwinsLoss(), VICRegLoss()
    yield Loss(f"barlow_twins, {n} x 2,048", wide, lambda: losses.barlow_twins(*wide), lambda: barlow(*wide))
    yield Loss(f"vicreg, {n} x 2,048", wide, lambda: losses.vicreg(*wide), lambda: vicreg(*wide))


def queue_losses(n: int, device: torch.device) -> Iterator[Loss]:
    """The losses with a memory of 65,536, which moves on as in training."""
    k = 65536
    q, p1, p2 = (torch.randn(n, 128, device=device).requires_grad_() for _ in range(3))
    key = F.normalize(torch.randn(n, 128, device=device), dim=1)
    queue = Queue(k, 128).to(device)

    def info_nce() -> Tensor:
        loss = losses.info_nce(q, key, queue.vectors, 0.2)
        queue.enqueue(key)
        return loss

    moco = NTXentLoss(0.2, (k, 128)).to(device)
    yield Loss(f"info_nce, {n} x 128, queue {k}", [q], info_nce, lambda: moco(q, key))
    z = torch.randn(2 * n, 128, device=device)

    def nnclr() -> Tensor:
        nn1, nn2 = (nearest(each, queue.vectors) for each in z.chunk(2))
        loss = (losses.batch_nce(nn1, p2, 0.1) + losses.batch_nce(nn2, p1, 0.1)) / 2
        queue.enqueue(F.normalize(z.chunk(2)[0], dim=1))
        return loss

    bank, ntx = NNMemoryBankModule((k, 128)).to(device), NTXentLoss(0.1)

    def their_nnclr() -> Tensor:
        z0, z1 = z.chunk(2)
        z0, z1 = bank(z0, update=False), bank(z1, update=True)
        return 0.5 * (ntx(z0, p2) + ntx(z1, p1))

    yield Loss(f"nnclr, {n} x 128, queue {k}", [p1, p2], nnclr, their_nnclr)


def crop_losses(n: int, device: torch.device) -> Iterator[Loss]:
    """The losses of two global and two local crops."""
    k = 4096
    scores = [torch.randn(n, k, device=device).tanh_().requires_grad_() for _ in range(4)]
    swapped = SwaVLoss()

    def swav() -> Tensor:
        return losses.swav(scores, [losses.sinkhorn(each) for each in scores[:2]])

    yield Loss(f"swav, 4 x {n} x {k}", scores, swav, lambda: swapped(scores[:2], scores[2:]))
    teacher = [torch.randn(n, k, device=device).tanh_() for _ in range(2)]
    center, criterion = torch.zeros(k, device=device), DINOLoss(k).to(device)

    def dino() -> Tensor:
        loss = losses.dino(scores, teacher, center)
        center.lerp_(torch.cat(teacher).mean(0), 0.1)
        return loss

    yield Loss(f"dino, 4 x {n} x {k}", scores, dino, lambda: criterion(teacher, scores))


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

    costs = {}
    print("| method | time: ours/bare | theirs/bare | ours/theirs | memory: ours/bare | theirs/bare | ours/theirs |")
    print("|---|" + "---:|" * 6)
    for name in options.methods:
        costs[name] = measure(contenders(name, options, device), device, options.rounds)
        print(step_row(name, costs[name]), flush=True)
    if options.chart:
        chart(options.chart, costs, f"{options.encoder}, {options.size} px, batch {options.batch}, {device.type}")
    if not options.loss_batch:
        return
    print("\n| loss | ours, ms | theirs, ms | ours/theirs | ours, MiB | theirs, MiB | ours/theirs |")
    print("|---|" + "---:|" * 6)
    queue_batch = min(options.queue_batch, options.loss_batch)
    for family, n in (
        (pair_losses, options.loss_batch),
        (queue_losses, queue_batch),
        (crop_losses, options.loss_batch),
    ):
        for loss in family(n, device):
            if options.losses is not None and not loss.name.startswith(tuple(options.losses)):
                continue
            print(loss_row(loss.name, measure(loss.contenders(), device, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
