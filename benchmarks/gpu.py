"""What a GPU gains: views, the training loop, a step of each method, and the CUDA tests, as tables in Markdown.

    make gpu                                                     # or: python benchmarks/gpu.py --out gpu.md
    python benchmarks/gpu.py --device cpu --batches 16 4 1 --shrink 64 --steps 4 --rounds 1     # a trial without a GPU

Random images, nothing to download. Contenders take turns within a round; figures are medians of the rounds, in
milliseconds. What compiles little comes first. A row is appended to the file when it is done, so that a run that is cut
off leaves what it had; one that fails says why; one whose turn comes when the minutes are over is not begun.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from augment import Case, cases, kornia_sequence, setting
from kornia import augmentation as K
from numpy.typing import NDArray
from step import bare, median_ms, parts, wait
from torch import Tensor, nn

from ssl_toolkit.augment import Views
from ssl_toolkit.checkpoints import Interrupted
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.arrays import ArraySet
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.cache import OnDevice
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.method import Method
from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.runs import start_run
from ssl_toolkit.training import fit

ROOT = Path(__file__).parent.parent
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


@dataclass(frozen=True)
class Settings:
    """How it is measured."""

    device: torch.device
    rounds: int
    steps: int
    deadline: float

    @property
    def cuda(self) -> bool:
        """Whether there is something to compile for and to wait for."""
        return self.device.type == "cuda"

    @property
    def precision(self) -> Any:
        """Lightning's name of it."""
        return "bf16-mixed" if self.cuda else "32-true"


@dataclass
class Section:
    """A heading, the columns of a table, and what writes each of its rows."""

    about: str
    columns: str
    rows: dict[str, Callable[[], str]]


def launches(settings: Settings, call: Callable[[], object]) -> tuple[int, int, float]:
    """Kernels and copies from the host that a call launches, and the milliseconds that the host is busy with it."""
    from torch.profiler import ProfilerActivity, profile

    wait(settings.device)
    start = time.perf_counter()
    for _ in range(5):
        call()
    host = (time.perf_counter() - start) / 5
    wait(settings.device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
        wait(settings.device)
    names = [event.name for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    copies = sum("Memcpy HtoD" in name for name in names)
    return sum("Mem" not in name for name in names), copies, 1e3 * host


def views(some: list[Case], settings: Settings) -> Section:
    """Views of a batch, ours and Kornia's."""
    columns = "case | Kornia | ours, eager | compiled | times Kornia | kernels | copies | host | compiling, s"
    rows = {f"{case.name}, batch {case.batch}": partial(views_row, case, settings) for case in some}
    return Section("Views against Kornia's", columns, rows)


def views_row(case: Case, settings: Settings) -> str:
    device = settings.device
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
        ms = median_ms(device, contenders, settings.rounds)
    kernels, copies, host = launches(settings, lambda: ours(image)) if settings.cuda else (0, 0, 0.0)
    failed = "" if Views.compiler_works else " (the compiler failed)"
    return (
        f"{ms['kornia']:.2f} | {ms['eager']:.2f} | {ms['compiled']:.2f}{failed} | {ms['kornia'] / ms['compiled']:.1f} "
        f"| {kernels} | {copies} | {host:.2f} | {compiling:.1f}"
    )


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


def methods(batch_size: int, settings: Settings) -> Section:
    """Forward, loss, backward and SGD's step on ready views; the peak is beyond weights and the optimiser's state."""
    names = [name for name, path in installed_methods().items() if ".contrastive." in path]
    rows = {name: partial(methods_row, name, batch_size, settings) for name in [*names, "rotation"]}
    columns = "method | ours | lightly | ours, peak GiB | lightly, peak GiB | time, lightly = 1"
    return Section(f"A step of each method on ready views: ResNet-18, 32 px, batch {batch_size}, eager", columns, rows)


def methods_row(name: str, batch_size: int, settings: Settings) -> str:
    arguments, example = lightly_examples().get(name, ({}, None))
    found = method_class(name)
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("resnet18", image_size=32, load_size=32, norm=found.encoder_norm))
    method = found(copy.deepcopy(encoder), found.default_views(32), **arguments).to(settings.device)
    method.views.compiled = False
    image = torch.from_numpy(pixels(batch_size, 32)).to(settings.device)
    place = torch.arange(batch_size, device=settings.device)
    batch, ready = Batch(image, place, place), method.views(image)

    def updating(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)

        def step() -> None:
            with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.cuda):
                value = loss()
            value.backward()
            optimizer.step()
            if model is method:
                method.after_update()
            optimizer.zero_grad(set_to_none=True)

        return step

    steps = {"ours": updating(method, lambda: method.step(ready, batch)["loss"])}
    if example is not None:
        model = example(encoder, encoder.feature_dim).to(settings.device)
        steps["lightly"] = updating(model, lambda: model(ready))
    ms = median_ms(settings.device, steps, settings.rounds)
    gib = {each: peak_gib(step) for each, step in steps.items()} if settings.cuda else {}
    cells = [ms.get("ours"), ms.get("lightly"), gib.get("ours"), gib.get("lightly")]
    ratio = f"{ms['ours'] / ms['lightly']:.2f}" if "lightly" in ms else "-"
    return " | ".join([*("-" if cell is None else f"{cell:.2f}" for cell in cells), ratio])


def lightly_examples() -> dict[str, tuple[dict[str, float], Any]]:
    """Our arguments and lightly's model of each method that it has, with heads of equal sizes; none without it."""
    try:
        from methods import METHODS
    except ImportError:
        return {}
    return {name: (arguments, example) for name, (_, arguments, example) in METHODS.items()}


def peak_gib(call: Callable[[], object]) -> float:
    """GiB held at the worst moment of a call beyond those held before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def tests(settings: Settings) -> Section:
    """The tests that need CUDA: what became of them, and of the first three that failed, why."""

    def run() -> str:
        names = sorted(str(path) for path in (ROOT / "tests").glob("test_*cuda.py"))
        options = ["-q", "--tb=short", "-o", "addopts=", "-p", "no:cacheprovider"]
        command = [sys.executable, "-u", "-m", "pytest", *options, *names]
        try:
            limit = settings.deadline - time.perf_counter()
            done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=limit)
            output, errors = done.stdout, done.stderr
        except subprocess.TimeoutExpired as cut:
            output, errors = cut.stdout or b"", b"cut off: the minutes are over"
        lines = output.decode().strip().splitlines()
        why = [line for line in lines if line.startswith("E  ")][:3]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        return "\n".join(["```", *why, *failed, *lines[-1:], *errors.decode().splitlines()[-3:], "```"])

    return Section("Tests on CUDA", "", {"pytest": run})


def attempt(section: Section, name: str, settings: Settings) -> str:
    """A row, or why there is none."""
    if time.perf_counter() > settings.deadline:
        return f"| {name} | not begun: the minutes are over |"
    torch._dynamo.reset()  # it gives up on a function that it has compiled eight times, whatever for
    try:
        cells = section.rows[name]()
    except Interrupted:
        raise
    except Exception as error:  # whatever a machine may raise that nobody has seen yet
        said = str(error).strip().partition("\n")[0].replace("|", "/")
        return f"| {name} | {type(error).__name__}: {said} |"
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    return f"| {name} | {cells} |" if section.columns else cells


def main() -> None:
    names = ("views", "parts", "methods", "loops", "crops", "tests")
    parser = argparse.ArgumentParser(description="What a GPU gains.", allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="sections")
    parser.add_argument("--match", default="", help="rows whose name holds this")
    parser.add_argument("--minutes", type=float, default=4.0, help="after these nothing new is begun")
    parser.add_argument("--batches", type=int, nargs=3, default=[512, 256, 64], metavar=("SMALL", "LARGE", "MULTI"))
    parser.add_argument("--shrink", type=int, default=1, help="divide the batches of loops and methods by this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150, help="that are timed of a loop; a third of them at 224 px")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: a trial without one takes --device cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    warnings.filterwarnings("ignore", message=".*weight_norm.*")  # lightly's DINO head
    started = time.perf_counter()
    settings = Settings(device, options.rounds, options.steps, started + 60 * options.minutes)
    small, large, multi = cases(dict(zip(("small", "large", "multi"), options.batches, strict=True)))
    runs = [replace(run, batch=max(1, run.batch // options.shrink)) for run in RUNS]
    sections = {
        "views": views([small, large], settings),
        "parts": step_parts(runs, settings),
        "methods": methods(512 // options.shrink, settings),
        "loops": loops(runs, settings),
        "crops": views([multi], settings),
        "tests": tests(settings),
    }
    with options.out.open("a") as file:

        def write(text: str) -> None:
            print(text, file=file, flush=True)
            print(f"[{time.perf_counter() - started:.0f} s] {text}", flush=True)

        write(f"# {setting(torch.get_num_threads())}")
        for section in (sections[name] for name in options.only):
            begun = time.perf_counter()
            write(f"\n## {section.about}\n")
            if section.columns:
                write(f"| {section.columns} |\n|---|{'---:|' * section.columns.count('|')}")
            for name in section.rows:
                if options.match in name:
                    write(attempt(section, name, settings))
            write(f"\n{time.perf_counter() - begun:.0f} s, {time.perf_counter() - started:.0f} s in all.")


if __name__ == "__main__":
    main()
