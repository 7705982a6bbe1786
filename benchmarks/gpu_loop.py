"""What a step of the training loop costs on a GPU, beside the bare encoder and beside its own parts."""

from __future__ import annotations

import copy
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytorch_lightning as pl
import torch
from gpu_section import Section, Settings
from numpy.typing import NDArray
from step import bare, median_ms, parts, wait
from torch import Tensor

from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.arrays import ArraySet
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import OnDevice
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.method import Method
from ssl_toolkit.methods import method_class
from ssl_toolkit.runs import start_run
from ssl_toolkit.training import fit

EPOCH = 98  # batches, as CIFAR-10 has of 512 images
EPOCHS = 51  # some 5,000 steps, so that as few of them are logged as of a long run
HELD = 2**28  # bytes of pixels at most


@dataclass(frozen=True)
class Run:
    """What is trained."""

    name: str
    method: str
    encoder: str
    size: int
    batch: int

    @property
    def load_size(self) -> int:
        """Short side of the images that views are cut from."""
        return self.size if self.size < 64 else self.size * 8 // 7


RUNS = [
    Run("SimCLR, ResNet-18, 32 px", "simclr", "resnet18", 32, 512),
    Run("SimCLR, ResNet-50, 224 px", "simclr", "resnet50", 224, 256),
    Run("MoCo v2, ResNet-18, 32 px", "moco", "resnet18", 32, 512),
    Run("DINO, ResNet-18, 32 px", "dino", "resnet18", 32, 512),
    Run("DINO, ViT-S/16, 224 px", "dino", "vit_small_patch16_224", 224, 64),
]


def step_parts(runs: list[Run], settings: Settings) -> Section:
    """Where a step's time goes; what is left of it is the host's."""

    def row(run: Run) -> str:
        ms = encoder_ms(run, settings)
        steps = [ms[name] for name in ("views", "encoder", "head and loss", "optimiser")]
        loop, _ = loop_cost(run, settings)
        return " | ".join(f"{each:.2f}" for each in (*steps, loop, loop - sum(steps)))

    columns = "run | views | encoder, forward and backward | head and loss | optimiser | a step of the loop | host"
    rows = {f"{run.name}, batch {run.batch}": partial(row, run) for run in runs if run.method == "simclr"}
    return Section("Parts of a step, compiled", columns, rows)


def loops(runs: list[Run], settings: Settings) -> Section:
    """The whole loop against the bare forward and backward of an encoder on ready views: all of a batch's."""

    def row(run: Run) -> str:
        ms = encoder_ms(run, settings)
        loop, peak = loop_cost(run, settings)
        return (
            f"{ms['eager']:.2f} | {ms['encoder']:.2f} | {loop:.2f} | {1e3 * run.batch / loop:,.0f} "
            f"| {ms['eager'] / loop:.0%} | {ms['encoder'] / loop:.0%} | {peak:.1f}"
        )

    columns = "run | bare | bare, compiled | the loop | images/s | speed, bare = 1 | compiled bare = 1 | peak, GiB"
    return Section("The loop", columns, {f"{run.name}, batch {run.batch}": partial(row, run) for run in runs})


def build(run: Run) -> Method:
    found = method_class(run.method)
    torch.manual_seed(0)
    config = EncoderConfig(run.encoder, image_size=run.size, load_size=run.load_size, norm=found.encoder_norm)
    return found(Encoder(config), found.default_views(run.size))


def pixels(count: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


@functools.cache
def encoder_ms(run: Run, settings: Settings) -> dict[str, float]:
    """Milliseconds of the encoder's forward and backward on the views of a batch, and of SimCLR's other parts."""
    method = build(run).to(settings.device)
    image = torch.from_numpy(pixels(run.batch, run.load_size)).to(settings.device)
    groups: dict[int, list[Tensor]] = {}
    for view in method.views(image):
        groups.setdefault(view.shape[-1], []).append(view)
    ready = [torch.cat(group) for group in groups.values()]
    eager = copy.deepcopy(method.encoder)
    if settings.cuda:
        method.compile_encoder()

    def bare_of(encoder: Encoder) -> Callable[[], object]:
        return lambda: [bare(encoder, each, settings.precision) for each in ready]

    contenders = {"eager": bare_of(eager), "encoder": bare_of(method.encoder)}
    if isinstance(method, SimCLR):
        contenders |= parts(method, image, settings.precision)
    return median_ms(settings.device, contenders, settings.rounds)


@functools.cache
def loop_cost(run: Run, settings: Settings) -> tuple[float, float]:
    """Milliseconds of a step of the training loop, and the peak of the device's memory in GiB."""
    device, size = settings.device, run.load_size
    count = min(EPOCH * run.batch, HELD // (3 * size * size))
    images = ArraySet("random", pixels(count, size), np.full(count, -1), None, None)
    loader = ImageLoader(Repeated(images, size, device, EPOCH * run.batch), size, batch_size=run.batch, shuffle=True)
    pace = Pace(device, settings.steps if run.size < 64 else -(-settings.steps // 3))
    if settings.cuda:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        fit(
            build(run), loader, start_run(f"{folder}/run", {}), epochs=EPOCHS, precision=settings.precision,
            compile=settings.cuda, accelerator="gpu" if settings.cuda else "cpu", callbacks=[pace], progress=False,
        )  # fmt: skip
    return pace.ms, torch.cuda.max_memory_allocated() / 2**30 if settings.cuda else 0.0


class Repeated(OnDevice):
    """An epoch of `length` images in which those that are held come again and again."""

    def __init__(self, images: ArraySet, size: int, device: torch.device, length: int) -> None:
        super().__init__(images, size, BadImages(images), device)
        self.held, self.labels = len(images), np.resize(images.labels, length)

    def readable(self, rows: NDArray[np.int64], tries: int) -> NDArray[np.int64]:
        """All of them."""
        return rows % self.held


class Pace(pl.Callback):
    """Milliseconds a step over `steps` steps behind the first logged one, after which training stops.

    The device is waited for at both ends only, and whenever the loop itself does.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps, self.start, self.ms = device, steps, 0.0, float("nan")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        """Start the clock, stop it."""
        done = trainer.global_step - trainer.log_every_n_steps - 1
        if done not in (0, self.steps):
            return
        wait(self.device)
        if done == 0:
            self.start = time.perf_counter()
        else:
            self.ms = 1e3 * (time.perf_counter() - self.start) / self.steps
            trainer.should_stop = True
