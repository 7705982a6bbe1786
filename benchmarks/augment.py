"""Speed of the views, against Kornia, torchvision and lightly.

    taskset -c 1 python benchmarks/augment.py --threads 1 --rounds 15 --chart docs/images/augment_speed.png

The contenders take turns, each round in another order, so that a busy machine slows all of them; a turn is one call
that is not timed, since the contender before has emptied the caches, and one that is. Each line is the median, and the
ratio the median of the rounds' ratios. Images are decoded uint8 tensors in memory for everybody. What
happens to an image is the same recipe for all, SimCLR's or DINO's multi-crop, with the same sizes of the blur's
kernel, but not quite the same work: Kornia's crop is not antialiased, and its jitter draws one order of operations a
batch; ours and torchvision's are antialiased, and draw one an image. Kornia's jitter is `ColorJitter`, whose
arithmetic is torchvision's (its newer `ColorJiggle` computes something else). torchvision's and lightly's transforms
work an image at a time; "2 workers" gives them a loader with two processes and every core of the machine.

lightly is used if it can be imported (``pip install --target DIR --no-deps lightly lightly_utils`` and PYTHONPATH).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from kornia import augmentation as K
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from ssl_toolkit.augment import Views, multicrop_views, simclr_views


@dataclass
class Recipe:
    """One kind of view, as the other libraries spell it."""

    size: int
    scale: tuple[float, float]
    jitter: tuple[float, float, float, float]
    blur_p: float
    solarize_p: float = 0.0
    bicubic: bool = False
    grey_p: float = 0.2
    jitter_p: float = 0.8
    sigma: tuple[float, float] = (0.1, 2.0)

    @property
    def kernel(self) -> int:
        """Length of the blur's kernel: a tenth of the image, odd."""
        return max(3, self.size // 10) // 2 * 2 + 1


@dataclass
class Case:
    """A batch and the recipes that make its views."""

    name: str
    batch: int
    source: int
    recipes: list[Recipe]
    ours: Callable[..., Views]
    targets: dict[str, float]


SIMCLR = {"scale": (0.08, 1.0), "jitter": (0.8, 0.8, 0.8, 0.2), "blur_p": 0.5}
DINO = {"jitter": (0.4, 0.4, 0.2, 0.1), "bicubic": True}


def cases(batches: dict[str, int]) -> list[Case]:
    crops = [
        Recipe(224, (0.4, 1.0), blur_p=1.0, **DINO),
        Recipe(224, (0.4, 1.0), blur_p=0.1, solarize_p=0.2, **DINO),
        *(Recipe(96, (0.05, 0.4), blur_p=0.5, **DINO) for _ in range(8)),
    ]
    small, large, multi = "SimCLR 32 px", "SimCLR 224 px", "DINO 2x224 + 8x96 px"
    simclr, dino = partial(simclr_views, count=1), partial(multicrop_views, 224, local_size=96)
    return [
        Case(small, batches["small"], 32, [Recipe(32, **SIMCLR)], partial(simclr, 32), {"cpu": 4.5}),
        Case(large, batches["large"], 256, [Recipe(224, **SIMCLR)], partial(simclr, 224), {"cpu": 4, "cuda": 5}),
        Case(multi, batches["multi"], 256, crops, dino, {"cpu": 4}),
    ]


def kornia_sequence(recipe: Recipe, container: type[nn.Module]) -> nn.Module:
    """As Kornia's documentation writes it, in its container, or in PyTorch's, which tracks no matrices."""
    steps = [
        K.RandomResizedCrop(
            (recipe.size, recipe.size), recipe.scale, resample="bicubic" if recipe.bicubic else "bilinear"
        ),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(*recipe.jitter, p=recipe.jitter_p),
        K.RandomGrayscale(p=recipe.grey_p),
        K.RandomGaussianBlur((recipe.kernel, recipe.kernel), recipe.sigma, p=recipe.blur_p),
    ]
    if recipe.solarize_p:
        steps.append(K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=recipe.solarize_p))
    return container(*steps)


def torchvision_sequence(recipe: Recipe) -> nn.Module:
    mode = InterpolationMode.BICUBIC if recipe.bicubic else InterpolationMode.BILINEAR
    steps = [
        v2.RandomResizedCrop(recipe.size, recipe.scale, interpolation=mode, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*recipe.jitter)], recipe.jitter_p),
        v2.RandomGrayscale(recipe.grey_p),
        v2.RandomApply([v2.GaussianBlur(recipe.kernel, recipe.sigma)], recipe.blur_p),
    ]
    if recipe.solarize_p:
        steps.append(v2.RandomSolarize(128, recipe.solarize_p))
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])


class ImageByImage(Dataset):
    """What a loader's worker does: all views of one image."""

    def __init__(self, images: Tensor, transform: Callable[[Tensor], object], repeats: int = 1) -> None:
        self.images, self.transform, self.repeats = images, transform, repeats

    def __len__(self) -> int:
        return len(self.images) * self.repeats

    def __getitem__(self, index: int) -> object:
        return self.transform(self.images[index % len(self.images)])


class EveryCore:
    """Lifts the pin of the main process in a worker."""

    def __init__(self) -> None:
        self.cores = os.cpu_count() or 1

    def __call__(self, worker: int) -> None:
        """Set up worker process number `worker`."""
        os.sched_setaffinity(0, range(self.cores))
        torch.set_num_threads(1)


class Each:
    """All views of one input, as a loader can pickle it."""

    def __init__(self, transforms: list[Callable[[Tensor], Tensor]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Tensor) -> list[Tensor]:
        """One output a transform."""
        return [transform(image) for transform in self.transforms]


def in_workers(images: Tensor, transform: Callable[[Tensor], object], repeats: int) -> Callable[[], float]:
    """Seconds a batch through a loader with two workers, already running."""
    # Not pinned to one core itself, which PyTorch cannot know.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    loader = DataLoader(
        ImageByImage(images, transform, repeats),
        batch_size=len(images),
        num_workers=2,
        persistent_workers=True,
        worker_init_fn=EveryCore(),
    )

    def run() -> float:
        start = time.perf_counter()
        for _ in loader:
            pass
        return (time.perf_counter() - start) / repeats

    return run


def timed(function: Callable[[], object], device: torch.device) -> Callable[[], float]:
    def run() -> float:
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        return time.perf_counter() - start

    return run


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def lightly_contender(case: Case, images: Tensor) -> Iterator[tuple[str, Callable[[], float]]]:
    """Lightly's SimCLR (two views, halved) on PIL images, normalisation off."""
    try:
        from lightly.transforms import SimCLRTransform
    except ImportError:
        return
    if len(case.recipes) != 1:
        return
    size = case.recipes[0].size
    transform = SimCLRTransform(size, cj_strength=1.0, gaussian_blur=0.5, min_scale=0.08, normalize=None)
    pictures = [v2.functional.to_pil_image(image) for image in images]

    def one_core() -> float:
        start = time.perf_counter()
        torch.stack([torch.stack(transform(picture)) for picture in pictures])
        return (time.perf_counter() - start) / 2

    yield "lightly SimCLRTransform, an image at a time", one_core


def contenders(case: Case, device: torch.device) -> dict[str, Callable[[], float]]:
    torch.manual_seed(0)
    # Smooth colours with some noise: the speed of no contender depends on the pixels.
    coarse = torch.rand(case.batch, 3, 8, 8)
    smooth = nn.functional.interpolate(coarse, case.source, mode="bicubic")
    images = ((smooth + 0.05 * torch.randn_like(smooth)).clamp(0, 1) * 255).to(torch.uint8)
    on_device = images.to(device)
    exact, linear = case.ours(hue="exact").to(device), case.ours(hue="linear").to(device)
    contained = [K.AugmentationSequential(view.crop, *view.steps).to(device) for view in exact.transforms]
    kornia = [kornia_sequence(recipe, K.AugmentationSequential).to(device) for recipe in case.recipes]
    bare_kornia = [kornia_sequence(recipe, nn.Sequential).to(device) for recipe in case.recipes]
    vision = [torchvision_sequence(recipe) for recipe in case.recipes]

    def run_kornia(sequences: list[nn.Module]) -> list[Tensor]:
        with torch.no_grad():
            floats = on_device.float() / 255
            return [sequence(floats) for sequence in sequences]

    found = {
        "kornia": timed(lambda: run_kornia(kornia), device),
        "kornia in nn.Sequential": timed(lambda: run_kornia(bare_kornia), device),
        "ours, exact colour": timed(lambda: exact(on_device), device),
        "ours, linear colour": timed(lambda: linear(on_device), device),
        "ours, exact, in AugmentationSequential": timed(
            lambda: [sequence(on_device) for sequence in contained], device
        ),
        "torchvision v2, the batch at once (one draw for all)": timed(lambda: Each(vision)(on_device), device),
    }
    if device.type == "cpu":

        def by_image() -> list[list[Tensor]]:
            return [Each(vision)(image) for image in images]

        found["torchvision v2, an image at a time"] = timed(by_image, device)
        found["torchvision v2, an image at a time, 2 workers"] = in_workers(images, Each(vision), 2)
        found.update(lightly_contender(case, images))
    return found


def measure(case: Case, device: torch.device, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds a batch and median speed relative to Kornia, by contender."""
    runs = contenders(case, device)
    for run in runs.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            runs[name]()
            times[name].append(runs[name]())
    base = times["kornia"]
    return {
        name: (
            statistics.median(taken),
            statistics.median(other / own for other, own in zip(base, taken, strict=True)),
        )
        for name, taken in times.items()
    }


def device_report(device: torch.device, case: Case, seconds: float) -> list[str]:
    """Bytes a second against a copy's, and the share of a ResNet-50 step."""
    from timm import create_model

    views = sum(recipe.size**2 for recipe in case.recipes)
    moved = case.batch * 3 * (case.source**2 + 4 * views)  # bytes: uint8 in, float32 out
    block = torch.empty(2**28, device=device)
    copy = min(timed(lambda: block.clone(), device)() for _ in range(10))
    lines = [
        f"{case.name}: {moved / seconds / 1e9:.0f} GB/s of input and output; "
        f"a copy reads and writes {2 * block.nbytes / copy / 1e9:.0f} GB/s"
    ]
    if len(case.recipes) == 1 and case.recipes[0].size == 224:
        network = create_model("resnet50", num_classes=128).to(device, memory_format=torch.channels_last)
        batch = torch.rand(case.batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)

        def step() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = network(batch).float().square().mean()
            loss.backward()

        taken = statistics.median([timed(step, device)() for _ in range(12)][2:])
        lines.append(
            f"{case.name}: a view takes {seconds / taken:.1%} of a ResNet-50 step in bf16 ({taken * 1e3:.1f} ms)"
        )
    return lines


def chart(path: str, results: dict[str, dict[str, tuple[float, float]]], note: str) -> None:
    """Speed relative to Kornia, a panel a case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.0 + 1.9 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 1, squeeze=False)[:, 0]
    for axis, (case, rows) in zip(axes, results.items(), strict=True):
        names = list(rows)[::-1]
        speed = [rows[name][1] for name in names]
        colours = ["#1f6f8b" if name.startswith("ours") else "#b8c4cc" for name in names]
        axis.barh(names, speed, color=colours)
        for place, name in enumerate(names):
            seconds, ratio = rows[name]
            axis.text(ratio, place, f" {ratio:.1f}x  ({seconds * 1e3:.1f} ms)", va="center", fontsize=8)
        axis.set_xlim(0, 1.25 * max(speed))
        axis.set_title(case, fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(f"speed relative to Kornia ({note})", fontsize=9)
    figure.savefig(path, dpi=110)


def setting(threads: int) -> str:
    """The machine and the versions that a table belongs to."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("torch", "torchvision", "kornia", "lightly"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    cores = len(os.sched_getaffinity(0))
    instructions = torch.backends.cpu.get_cpu_capability()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    machine = f"{platform.machine()} with {instructions}, {threads} thread(s) on {cores} core(s){gpu}"
    return f"{machine}; {', '.join(found)}; {time.strftime('%Y-%m-%d')}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the views.", allow_abbrev=False)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-small", type=int, default=256, help="batch at 32 px")
    parser.add_argument("--batch-large", type=int, default=64, help="batch at 224 px; 256 on a GPU")
    parser.add_argument("--batch-multi", type=int, default=16, help="batch of the multi-crop")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--chart", help="PNG to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    batches = {"small": options.batch_small, "large": options.batch_large, "multi": options.batch_multi}
    results = {}
    print(f"{setting(options.threads)}\n")
    print("| case | contender | ms a batch | speed, kornia = 1 |\n|---|---|---:|---:|")
    for case in cases(batches):
        if options.only not in case.name:
            continue
        name = f"{case.name}, batch {case.batch}"
        results[name] = measure(case, device, options.rounds)
        for contender, (seconds, ratio) in results[name].items():
            print(f"| {name} | {contender} | {seconds * 1e3:.1f} | {ratio:.2f} |", flush=True)
        met = results[name]["ours, exact colour"][1]
        if (target := case.targets.get(device.type)) is not None:
            print(f"<!-- target {target}: {'met' if met >= target else 'missed'} ({met:.2f}) -->")
        if device.type == "cuda":
            print("\n".join(device_report(device, case, results[name]["ours, exact colour"][0])))
    if options.chart:
        chart(options.chart, results, f"{device.type}, {options.threads} thread(s)")


if __name__ == "__main__":
    main()
