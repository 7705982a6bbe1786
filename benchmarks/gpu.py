"""What a GPU gains: views, the training loop, and the CUDA tests, as tables in Markdown.

    make gpu                                     # or: python benchmarks/gpu.py --out gpu.md
    python benchmarks/gpu.py --only views --batches 64 16 4 --rounds 2 --device cpu     # a trial without a GPU

Random images, nothing to download. Contenders take turns within a round; figures are medians of the rounds. Each table
is appended to the file when it is done, so that a run that is cut off leaves what it had.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from augment import Case, cases, kornia_sequence
from kornia import augmentation as K
from step import bare, wait
from torch import Tensor, nn

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.loader import BadImages, ImageLoader, OnDevice
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.methods import method_class
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.runs import start_run
from ssl_toolkit.training import fit

# Name, method, encoder, size, images a batch.
LOOPS = {
    "SimCLR, ResNet-18, 32 px": ("ssl_toolkit.contrastive.simclr.SimCLR", "resnet18", 32, 512),
    "MoCo v2, ResNet-18, 32 px": ("ssl_toolkit.contrastive.moco.MoCo", "resnet18", 32, 512),
    "DINO, ResNet-18, 32 px": ("ssl_toolkit.contrastive.dino.DINO", "resnet18", 32, 512),
    "SimCLR, ResNet-50, 224 px": ("ssl_toolkit.contrastive.simclr.SimCLR", "resnet50", 224, 256),
    "DINO, ViT-S/16, 224 px": ("ssl_toolkit.contrastive.dino.DINO", "vit_small_patch16_224", 224, 64),
}


def median_ms(device: torch.device, contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each contender, which take turns; each is called three times unseen."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        for _ in range(3):
            call()
    repeats = 5 if device.type == "cuda" else 1
    for _ in range(rounds):
        for name, call in contenders.items():
            wait(device)
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            wait(device)
            taken[name].append((time.perf_counter() - start) / repeats)
    return {name: 1e3 * statistics.median(each) for name, each in taken.items()}


def launches(device: torch.device, call: Callable[[], object]) -> tuple[int, int, float]:
    """Kernels and copies from the host that a call launches, and the milliseconds that the host is busy with it."""
    if device.type != "cuda":
        return 0, 0, 0.0
    from torch.profiler import ProfilerActivity, profile

    wait(device)
    start = time.perf_counter()
    for _ in range(5):
        call()
    host = (time.perf_counter() - start) / 5
    wait(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
        wait(device)
    names = [event.name for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    copies = sum("Memcpy HtoD" in name for name in names)
    return sum("Mem" not in name for name in names), copies, 1e3 * host


def views(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Views against Kornia's."""
    yield "| case | Kornia, ms | ours, eager | compiled | times Kornia | kernels | copies | host, ms | compiling, s |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for case in cases(dict(zip(("small", "large", "multi"), options.batches, strict=True))):
        yield _views_row(case, options.rounds, device)


def _views_row(case: Case, rounds: int, device: torch.device) -> str:
    image = torch.randint(0, 256, (case.batch, 3, case.source, case.source), dtype=torch.uint8, device=device)
    floats = image.float() / 255
    ours = case.ours().to(device)
    eager = copy.deepcopy(ours)
    eager.compiled = False
    kornia = [kornia_sequence(recipe, K.AugmentationSequential).to(device) for recipe in case.recipes]
    start = time.perf_counter()
    ours(image)
    wait(device)
    compiling = time.perf_counter() - start
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        contenders = {
            "kornia": lambda: [sequence(floats) for sequence in kornia],
            "eager": lambda: eager(image),
            "compiled": lambda: ours(image),
        }
        ms = median_ms(device, contenders, rounds)
    kernels, copies, host = launches(device, lambda: ours(image))
    return (
        f"| {case.name}, batch {case.batch} | {ms['kornia']:.2f} | {ms['eager']:.2f} | {ms['compiled']:.2f} "
        f"| {ms['kornia'] / ms['compiled']:.1f} | {kernels} | {copies} | {host:.2f} | {compiling:.1f} |"
    )


class Pace(pl.Callback):
    """Seconds between the `first` step and the last, the device waited for at both ends only."""

    def __init__(self, device: torch.device, first: int) -> None:
        self.device, self.first, self.steps, self.start, self.seconds = device, first, 0, 0.0, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Count."""
        self.steps += 1
        if self.steps == self.first:
            wait(self.device)
            self.start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        wait(self.device)
        self.seconds = (time.perf_counter() - self.start) / (self.steps - self.first)


def loops(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The whole loop against the bare forward and backward of what a step encodes."""
    yield "| run | bare, images/s | bare, compiled | the loop | loop / bare | loop / bare, compiled | peak, GiB |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, (path, encoder, size, batch) in LOOPS.items():
        if options.match in name:
            yield _loop_row(name, path, encoder, size, batch // options.shrink, options, device)


def _loop_row(
    name: str, path: str, encoder: str, size: int, batch: int, options: argparse.Namespace, device: torch.device
) -> str:
    found = method_class(path)
    torch.manual_seed(0)
    load_size = size if size < 64 else size * 8 // 7
    with tempfile.TemporaryDirectory() as folder:
        count = batch * 4
        pixels = np.random.default_rng(0).integers(0, 256, (count, 3, load_size, load_size), dtype=np.uint8)
        np.save(f"{folder}/images.npy", pixels)
        images = open_images(f"{folder}/images.npy")
        made = Encoder(EncoderConfig(encoder, image_size=size, load_size=load_size, norm=found.encoder_norm))
        method = found(made, found.default_views(size), OptimizerConfig())
        plain = _bare_rate(method, pixels[:batch], device, options, compiled=False)
        fused = _bare_rate(method, pixels[:batch], device, options, compiled=True)
        cached = OnDevice(images, load_size, BadImages(images), device)
        loader = ImageLoader(cached, load_size, batch_size=batch, shuffle=True)
        pace = Pace(device, options.steps // 3)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        fit(
            method, loader, start_run(f"{folder}/run", {}), epochs=-(-options.steps // len(loader)),
            precision="bf16-mixed" if device.type == "cuda" else "32-true", compile=device.type == "cuda",
            accelerator="gpu" if device.type == "cuda" else "cpu", callbacks=[pace], progress=False,
        )  # fmt: skip
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    rate = batch / pace.seconds
    return (
        f"| {name}, batch {batch} | {plain:,.0f} | {fused:,.0f} | {rate:,.0f} | {rate / plain:.0%} "
        f"| {rate / fused:.0%} | {peak:.1f} |"
    )


def _bare_rate(
    method: nn.Module, pixels: np.ndarray, device: torch.device, options: argparse.Namespace, compiled: bool
) -> float:
    """Images a second of forward and backward of the encoder on ready views: those that the method trains on."""
    encoder = copy.deepcopy(method.encoder).to(device).train()
    method.views.to(device)
    groups: dict[int, list[Tensor]] = {}
    for view in method.views(torch.from_numpy(pixels).to(device)):
        groups.setdefault(view.shape[-1], []).append(view)
    ready = [torch.cat(group) for group in groups.values()]
    if compiled and device.type == "cuda":
        encoder.compile()
    precision = "bf16-mixed" if device.type == "cuda" else "32-true"
    ms = median_ms(device, {"bare": lambda: [bare(encoder, each, precision) for each in ready]}, options.rounds)
    return 1e3 * len(pixels) / ms["bare"]


def tests(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The tests that need CUDA."""
    names = sorted(str(path) for path in Path(__file__).parent.parent.joinpath("tests").glob("test_*cuda.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    yield "\n".join(["```", *failed, *done.stdout.strip().splitlines()[-1:], *done.stderr.splitlines()[-3:], "```"])


SECTIONS = {"views": views, "loops": loops, "tests": tests}


def main() -> None:
    parser = argparse.ArgumentParser(description="What a GPU gains.", allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--match", default="", help="of the loops, those whose name holds this")
    parser.add_argument("--batches", type=int, nargs=3, default=[512, 256, 64], metavar=("SMALL", "LARGE", "MULTI"))
    parser.add_argument("--shrink", type=int, default=1, help="divide the loops' batches by this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    started = time.perf_counter()
    with options.out.open("a") as file:
        print(f"\n{machine}; torch {torch.__version__}; {datetime.date.today()}", file=file)
        for name in options.only:
            file.write(f"\n## {name}\n\n")
            for line in SECTIONS[name](options, device):
                print(line, file=file, flush=True)
                print(f"[{time.perf_counter() - started:.0f} s] {line}", flush=True)


if __name__ == "__main__":
    main()
