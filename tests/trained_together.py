"""Runs of `pretrain` for `test_distributed`, in processes that torchrun has started, or that take it for granted.

`run` is the same training in any number of processes: one batch for all of them, and no draw.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_toolkit import pretrain
from ssl_toolkit.distributed import rank, world_size
from ssl_toolkit.errors import ToolkitError
from tests.test_training import StopAt

GLOBAL_BATCH, IMAGES, EPOCHS = 16, 48, 2
STEPS = EPOCHS * IMAGES // GLOBAL_BATCH
STOPPED = 5  # the batch in which runs are killed


def half(images: Tensor) -> Tensor:
    """A view without a draw."""
    return images / 2


def images() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, C, H, W) uint8 and labels."""
    label = np.arange(IMAGES) % 4
    noise = np.random.default_rng(0).integers(0, 128, (IMAGES, 3, 16, 16))
    return (noise + 40 * label[:, None, None, None]).astype(np.uint8), label


class Exchanges(pl.Callback):
    """Counts how often gradients are exchanged, all of them once."""

    def __init__(self) -> None:
        self.count = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        model: Any = trainer.strategy.model
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            model.register_comm_hook(None, lambda _, bucket: self._mean(bucket))

    def _mean(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        self.count += bucket.is_last()
        future = dist.all_reduce(bucket.buffer().div_(world_size()), async_op=True).get_future()
        return future.then(lambda done: done.value()[0])


class Scattered(TorchDispatchMode):
    """Counts how often processes add up gradients that are shared out among them."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "reduce_scatter" in func.name()
        return func(*args, **(kwargs or {}))


# Not Adam, to compare with one process: it turns the rounding of a gradient that should be 0 into a step.
SGD = {"name": "sgd", "lr": 0.05, "warmup": 0.0, "schedule": "constant", "lr_scaling": "linear"}
MOCO = {"name": "moco", "hidden_dim": 16, "projection_dim": 8, "queue_size": 12}


def run(out: Path, **options: Any) -> Any:
    """A short run of as many processes as there are, without a draw."""
    usual = {
        "method": {"name": "simclr", "hidden_dim": 16, "projection_dim": 8}, "encoder": "convnet", "image_size": 16,
        "batch_size": GLOBAL_BATCH // world_size(), "devices": int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        "views": half, "epochs": EPOCHS, "workers": 0, "logger": "csv", "accelerator": "cpu", "progress": False,
        "doctor": False, "optimizer": SGD,
    }  # fmt: skip
    pixels, label = images()
    data = torch.utils.data.TensorDataset(torch.from_numpy(pixels), torch.from_numpy(label))
    return pretrain(data=data, out=out, **{**usual, **options})


# 3 kinds of optimising: Lightning's, by hand, with weights shared out.
ACCUMULATED: dict[str, dict[str, Any]] = {
    "ddp": {},
    "by hand": {"method": {"name": "inpainting", "code_dim": 4, "discriminator_dim": 4}},
    "fsdp": {"strategy": "fsdp"},
}


def exchanges(folder: Path, kind: str, accumulate: int) -> int:
    """Of all gradients, in a run."""
    counted = Exchanges()
    options = {"batch_size": GLOBAL_BATCH // world_size() // accumulate, "accumulate": accumulate}
    with Scattered() as scattered:
        run(folder / f"{kind} {accumulate}", callbacks=counted, **options, **ACCUMULATED[kind])
    return scattered.count or counted.count


def refused(action: Callable[[], Any]) -> str:
    try:
        action()
    except ToolkitError as error:
        return str(error)
    return ""


def stopped_and_resumed(out: Path, **options: Any) -> None:
    """A run whose weights are shared out, killed between two checkpoints."""
    for batch in (STOPPED, 10**9):
        try:
            shared = {"method": MOCO, "strategy": "fsdp", "checkpoint_every": 2, **options}
            run(out, resume=batch > STOPPED, callbacks=StopAt(batch), **shared)
        except StopAt.Killed:
            assert batch == STOPPED


def train_together(folder: Path) -> None:
    """Runs that are tried whenever tests are."""
    run(folder / "together", knn_every=1)
    stopped_and_resumed(folder / "stopped")


def train_more(folder: Path) -> dict[str, Any]:
    """All others, and what this process saw of them."""
    adam: dict[str, Any] = {"method": MOCO, "optimizer": {}, "clip_gradient": 0.5}
    run(folder / "whole", strategy="fsdp", **adam)
    stopped_and_resumed(folder / "stopped adam", **adam)
    counts = {(kind, n): exchanges(folder, kind, n) for kind in ACCUMULATED for n in (1, 2)}
    options: dict[str, Any] = {"checkpoint_every": 2, "callbacks": StopAt(STOPPED)}
    try:
        run(folder / "seen", **options)
    except StopAt.Killed:
        out = folder / ("seen" if rank() == 0 else "unseen")
        return {"exchanges": counts, "unseen": refused(lambda: run(out, resume=True, **options))}
    raise AssertionError("it was not stopped")


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def as_by_torchrun(number: int, processes: int) -> None:
    """What torchrun sets for the only process of a machine."""
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": str(number), "GROUP_WORLD_SIZE": str(processes), "TORCHELASTIC_RUN_ID": "one",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
