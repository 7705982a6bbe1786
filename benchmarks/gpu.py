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
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from augment import Case, cases, kornia_sequence, setting
from gpu_loop import RUNS, loops, pixels, step_parts
from gpu_section import Section, Settings, attempt
from kornia import augmentation as K
from step import median_ms, wait
from torch import Tensor, nn

from ssl_toolkit.augment import Views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.methods import installed_methods, method_class

ROOT = Path(__file__).parent.parent


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
        from lightly_examples import METHODS
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
        names = sorted(str(path) for path in (ROOT / "tests").rglob("test_*cuda.py"))
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


def parsed() -> argparse.Namespace:
    """The options."""
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
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: a trial without one takes --device cpu")
    return options


def write_tables(sections: Iterable[Section], match: str, settings: Settings, file: TextIO) -> None:
    """Write the rows of sections whose names hold `match`, each as soon as it is measured; show them too."""
    started = time.perf_counter()

    def write(text: str) -> None:
        print(text, file=file, flush=True)
        print(f"[{time.perf_counter() - started:.0f} s] {text}", flush=True)

    write(f"# {setting(torch.get_num_threads())}")
    for section in sections:
        begun = time.perf_counter()
        write(f"\n## {section.about}\n")
        if section.columns:
            write(f"| {section.columns} |\n|---|{'---:|' * section.columns.count('|')}")
        for name in section.rows:
            if match in name:
                write(attempt(section, name, settings))
        write(f"\n{time.perf_counter() - begun:.0f} s, {time.perf_counter() - started:.0f} s in all.")


def main() -> None:
    options = parsed()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    warnings.filterwarnings("ignore", message=".*weight_norm.*")  # lightly's DINO head
    deadline = time.perf_counter() + 60 * options.minutes
    settings = Settings(torch.device(options.device), options.rounds, options.steps, deadline)
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
        write_tables([sections[name] for name in options.only], options.match, settings, file)


if __name__ == "__main__":
    main()
