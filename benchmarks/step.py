"""Where a SimCLR step's time goes, and how much of it the encoder gets.

    python benchmarks/step.py --size 32 --batch 256 --threads 2

The first table times the parts of a step, forward and backward of each, in turns. The second trains with the loop of
``ssl-toolkit pretrain`` (loader over images in memory, views, head, loss, optimiser, logging, progress bar) and, every
few steps, stops to run the bare forward and backward of an equal encoder on ready tensors as often, so that a busy
machine slows both. Reading the images and checkpoints (one in five minutes) are not in it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_toolkit.contrastive.losses import nt_xent
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.cache import InMemory
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.optim import build_optimizer
from ssl_toolkit.runs import start_run
from ssl_toolkit.training import fit


def seconds(device: torch.device, function: Callable[[], Any]) -> float:
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare(encoder: Encoder, ready: Tensor, precision: str) -> None:
    """Forward and backward of the encoder, and nothing else."""
    with torch.autocast(ready.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        features = encoder(ready)
    features.float().square().mean().backward()
    encoder.zero_grad(set_to_none=True)


def median_ms(device: torch.device, contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each contender; they take turns, and each is called three times unseen.

    On a GPU a turn is five calls, and the device is waited for before the first and behind the last.
    """
    for call in contenders.values():
        for _ in range(3):
            call()
    repeats = 5 if device.type == "cuda" else 1
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            turn = [call] * repeats
            taken[name].append(seconds(device, lambda turn=turn: [call() for call in turn]) / repeats)
    return {name: 1e3 * statistics.median(each) for name, each in taken.items()}


def parts(method: SimCLR, image: Tensor, precision: str) -> dict[str, Callable[[], Any]]:
    """The parts of a step, each on what the parts before it made, to be called as often as wanted."""
    device = image.device
    twin = copy.deepcopy(method)  # with gradients that stay
    optimizer = build_optimizer(twin, method.optimizer_config, len(image))
    for weight in twin.parameters():
        weight.grad = torch.zeros_like(weight)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")

    ready = torch.cat(method.views(image))
    with autocast():
        features = method.encoder(ready).detach().requires_grad_()

    def head_and_loss() -> None:
        with autocast():
            loss = nt_xent(*method.projector(features).chunk(2), method.temperature)
        loss.backward()
        method.projector.zero_grad(set_to_none=True)
        features.grad = None

    return {
        "views": lambda: method.views(image),
        "encoder": lambda: bare(method.encoder, ready, precision),
        "head and loss": head_and_loss,
        "optimiser": optimizer.step,
    }


class Interleave(pl.Callback):
    """After every window of steps, as many bare ones; keeps the seconds of both."""

    def __init__(self, encoder: Encoder, ready: Tensor, precision: str, window: int = 8) -> None:
        self.encoder, self.ready, self.precision, self.window = encoder, ready, precision, window
        self.loop: list[float] = []
        self.bare: list[float] = []
        self.start = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Close a window, run the bare one, open the next."""
        if trainer.global_step % self.window:
            return
        device = self.ready.device
        wait(device)
        if self.start:
            self.loop.append(time.perf_counter() - self.start)
        run = [lambda: bare(self.encoder, self.ready, self.precision)] * self.window
        self.bare.append(seconds(device, lambda: [step() for step in run]))
        self.start = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description="Where a step's time goes.", allow_abbrev=False)
    parser.add_argument("--data", default="shapes:train:4096")
    parser.add_argument("--encoder", default="convnet")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)

    images = open_images(options.data)
    images = InMemory(images, options.size, BadImages(images))
    loader = ImageLoader(images, options.size, batch_size=options.batch, shuffle=True)
    encoder = Encoder(EncoderConfig(options.encoder, image_size=options.size, load_size=options.size))
    method = SimCLR(encoder, SimCLR.default_views(options.size)).to(device)
    image = next(iter(ImageLoader(images, options.size, batch_size=options.batch))).image.to(device)
    ready = torch.cat(method.views(image))
    twin = copy.deepcopy(encoder)

    found = median_ms(device, parts(method, image, options.precision), options.rounds)
    print("| part of a step | ms | share |\n|---|---:|---:|")
    for name, taken in found.items():
        print(f"| {name} | {taken:.1f} | {taken / sum(found.values()):.1%} |")

    interleave = Interleave(twin, ready, options.precision)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            method, loader, start_run(f"{folder}/run", {}), epochs=-(-options.steps // len(loader)),
            precision=options.precision, accelerator="cpu" if device.type == "cpu" else "gpu",
            callbacks=[interleave],
        )  # fmt: skip
    per_window = options.batch * interleave.window
    ratio = statistics.median(b / a for a, b in zip(interleave.loop, interleave.bare[1:], strict=True))
    print("\n| | images a second | speed, bare = 1 |\n|---|---:|---:|")
    print(f"| bare forward and backward | {per_window / statistics.median(interleave.bare):.0f} | 1 |")
    print(f"| the whole loop | {per_window / statistics.median(interleave.loop):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
