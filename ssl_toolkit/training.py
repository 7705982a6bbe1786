"""Training a method in a run folder: Lightning's loop, our checkpoints, the same weights however often stopped."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from timm.layers import convert_sync_batchnorm

from ssl_toolkit.checkpoints import AtomicCheckpointIO, Checkpoints, latest_checkpoint, signals_given_back
from ssl_toolkit.companions import Together, environment
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.image_set import Subset
from ssl_toolkit.data.loader import ImageLoader, readers_watched
from ssl_toolkit.data.statistics import MEASURED
from ssl_toolkit.distributed import synchronize_batch_norm
from ssl_toolkit.encoders import save_encoder, save_text
from ssl_toolkit.encoders.weights_file import plain_state
from ssl_toolkit.finite import OnlyFinite
from ssl_toolkit.gradients import ClipMode
from ssl_toolkit.launch import nodes
from ssl_toolkit.logs import CsvLog, Progress, make_loggers
from ssl_toolkit.method import Method
from ssl_toolkit.randomness import numpy_generator, seed_device
from ssl_toolkit.runs import RunFolder, launched_rank
from ssl_toolkit.sharding import Sharded

BEFORE_TRAINING = -1  # the step of these draws

# Optimiser steps that are worth the compilation of an encoder and its views on a GPU, some minute or two.
WORTH_COMPILING = 2000

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
StrategyName = Literal["ddp", "fsdp"]


def native_bf16(accelerator: str = "auto") -> bool:
    """Whether the device computes in bfloat16 itself; in software it is tens of times slower than float32."""
    if on_cuda(accelerator):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return accelerator in ("auto", "cpu") and any(getattr(torch.cpu, name, bool)() for name in names)


def automatic_precision(accelerator: str = "auto") -> str:
    """What ``precision: auto`` means: bf16-mixed on a GPU that computes in it itself, 32-true elsewhere."""
    return "bf16-mixed" if on_cuda(accelerator) and native_bf16(accelerator) else "32-true"


@readers_watched()
def fit(
    method: Method,
    loader: ImageLoader,
    run: RunFolder,
    *,
    epochs: int,
    first_epochs: int | None = None,
    seed: int = 0,
    precision: Precision = "32-true",
    accumulate: int = 1,
    clip_gradient: float = 0.0,
    clip_mode: ClipMode = "norm",
    accelerator: str = "auto",
    devices: int = 1,
    strategy: StrategyName = "ddp",
    sync_batch_norm: bool = True,
    compile: bool = False,
    checkpoint_every: int | None = None,
    requeue: bool = True,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[pl.Callback] = (),
    logger: Any = "auto",
) -> None:
    """Train `method` on `loader` and leave everything in `run`.

    Args:
        method: What is trained.
        loader: Shuffling loader of the images.
        run: Where configuration, metrics, checkpoints and encoder go.
        epochs: Passes over the images.
        first_epochs: How many there were to be before the run was extended: warm-ups are shares of these.
        seed: Decides every draw on the device, with step and rank.
        precision: Lightning's name of the arithmetic.
        accumulate: Batches an optimiser step.
        clip_gradient: Largest norm of the gradient; 0 leaves it alone.
        clip_mode: Whose norm that is, see `clip_gradients`.
        accelerator: Lightning's name of the device type.
        devices: Processes that train together on each machine, a device each; `loader` must be that of this process.
        strategy: Whether each process holds all weights (``ddp``), or its share of them (``fsdp``, see `shard`).
        sync_batch_norm: Whether batch norm is over the batches of all processes.
        compile: Whether ``torch.compile`` is applied to the encoder, and on CUDA to the views.
        checkpoint_every: Optimiser steps between checkpoints; None takes one every five minutes.
        requeue: Whether SIGUSR1 also puts a SLURM job back into the queue.
        resume: Whether to go on from the newest checkpoint that loads.
        progress: Whether a progress bar is shown.
        callbacks: More Lightning callbacks.
        logger: Where metrics go besides ``metrics.csv``, see `check_logger`.

    Raises:
        Interrupted: If a signal asked the run to stop; everything is saved.
        ToolkitError: If the loss is not finite in many steps in a row, or too many images cannot be read.
    """
    cuda, first = on_cuda(accelerator), launched_rank() == 0
    together = devices * nodes()
    checkpoint = latest_checkpoint(run.checkpoints, launched_rank()) if resume else None
    tell(method, loader, epochs, first_epochs, seed, accumulate, together)
    method.clip_gradient, method.clip_mode = clip_gradient, clip_mode
    let_compile(method, compile)
    if checkpoint is None and type(method).prepare is not Method.prepare:
        prepare(method, loader, seed)
    if together > 1 and sync_batch_norm:
        (convert_sync_batchnorm if cuda else synchronize_batch_norm)(method)
    save = functools.partial(save_kept_encoder, method, run, type(method).__name__)  # which sharding changes
    checkpoints = Checkpoints(run.checkpoints, checkpoint_every, also=save, requeue=requeue)
    with _quiet(), signals_given_back(), fast_arithmetic(cuda), collector_spared():
        trainer = _trainer(
            method, cuda, strategy, max_epochs=epochs, accelerator=accelerator, devices=devices, num_nodes=nodes(),
            precision=precision, logger=_loggers(logger, run, checkpoint) if first else False,
            callbacks=[
                Progress(len(loader) * epochs, show=progress and first), Extension(loader), OnlyFinite(run.bad_batches),
                *callbacks, checkpoints,
            ],
        )  # fmt: skip
        checkpoints.listen()
        try:
            trainer.fit(method, loader, ckpt_path=str(checkpoint) if checkpoint else None)
        finally:
            loader.close()
    save()  # a run that was killed right after its last checkpoint had nothing left to train


def tell(
    method: Method,
    loader: ImageLoader,
    epochs: int,
    first_epochs: int | None,
    seed: int,
    accumulate: int,
    devices: int,
) -> None:
    """Let a method know how it will be trained; arguments as of `fit`."""
    method.seed = seed
    steps_per_epoch = math.ceil(len(loader) / accumulate)
    method.total_steps = steps_per_epoch * epochs
    method.first_steps = None if first_epochs is None else steps_per_epoch * first_epochs
    method.images_per_step = loader.batch_size * accumulate * devices
    method.accumulate = accumulate


class Extension(pl.Callback):
    """What is different where a run goes on that was over, and has been extended; in others it is so already.

    Args:
        loader: Of the images.
    """

    def __init__(self, loader: ImageLoader) -> None:
        self.loader = loader

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the loader where it was: Lightning only does so in the middle of an epoch."""
        for state in checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]:
            self.loader.load_state_dict(state)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the learning rates of the longer schedule: those in the checkpoint are of the shorter one."""
        for each in trainer.lr_scheduler_configs:
            schedule: Any = each.scheduler
            groups = schedule.optimizer.param_groups
            for group, rate, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                group["lr"] = rate * factor(schedule.last_epoch)


def let_compile(method: Method, wanted: bool) -> None:
    """Whether ``torch.compile`` is applied to the encoder and, on CUDA, to the views."""
    method.views.compiled = wanted
    if wanted:
        method.compile_encoder()


def save_kept_encoder(method: Method, run: RunFolder, name: str) -> None:
    """Write what a method of that name keeps to its place in a run; all processes gather it, the first one writes."""
    weights = plain_state(method.kept_encoder.backbone)
    if launched_rank() == 0:
        save_encoder(method.kept_encoder, run.encoder_file, name, weights)
        if method.kept_text is not None:
            save_text(method.kept_text, run.text_file, name)


def _trainer(method: Method, cuda: bool, strategy: StrategyName, **options: Any) -> pl.Trainer:
    """Lightning's loop without what is done here: checkpoints, bar, order of images, clipping, optimising by hand."""
    by_hand, processes = not method.automatic_optimization, options["devices"] * options["num_nodes"]
    return pl.Trainer(
        strategy=_together(cuda, strategy, processes) if processes > 1 else "auto",
        accumulate_grad_batches=1 if by_hand else method.accumulate,
        # Short runs are logged more often, to have a curve; a GPU is waited for whenever one looks.
        log_every_n_steps=max(1, min(50 if cuda else 10, method.total_steps // 50)),
        benchmark=cuda or None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=[AtomicCheckpointIO(), environment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def _loggers(asked: Any, run: RunFolder, checkpoint: Path | None) -> list[Logger]:
    """``metrics.csv`` from where a checkpoint goes on, and those that are asked for."""
    resumed = int(checkpoint.stem.split("-")[1]) if checkpoint else 0
    return [CsvLog(run.metrics_file, resumed), *make_loggers(asked, run.path)]


def prepare(method: Method, loader: ImageLoader, seed: int) -> None:
    """Let a method that is not trained yet measure some of the images, the same ones in every process."""
    images = loader.images.few()
    rows = numpy_generator(seed, "prepare").permutation(len(images))[:MEASURED]
    some = Subset(images, np.sort(rows))
    bad = BadImages(some, max_rate=1.0)  # the training itself judges how many are too many
    size = min(loader.batch_size, len(rows))
    batches = ImageLoader(some, loader.size, batch_size=size, shuffle=True, workers=loader.workers, bad=bad)
    seed_device(seed, BEFORE_TRAINING, 0)
    with torch.no_grad():
        method.prepare(method.views(batch.image, batch.box) for batch in batches)


@contextlib.contextmanager
def fast_arithmetic(cuda: bool) -> Iterator[None]:
    """TF32 for what stays in float32 on a GPU, while it lasts."""
    before = torch.get_float32_matmul_precision()
    if cuda:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def collector_spared() -> Iterator[None]:
    """Let Python's garbage collector leave out what is there already, while it lasts.

    Torch and its companions are a million objects, and a full collection, every few hundred steps, stops the host for a
    third of a second to look at them.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def on_cuda(accelerator: str) -> bool:
    """Whether Lightning's name of a device type means CUDA on this machine."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _together(cuda: bool, strategy: StrategyName, processes: int) -> Together | Sharded:
    backend = "nccl" if cuda else "gloo"
    if strategy == "fsdp":
        return Sharded(processes, backend)
    # Buffers need not be sent: queues and centres gather what they are made of, batch norm is synchronised or, where
    # that is not wanted, the first process's is kept.
    return Together(process_group_backend=backend, broadcast_buffers=False)


class _quiet(warnings.catch_warnings):  # noqa: N801 - reads as a verb
    """Silences what Lightning says to its own developers; what concerns the user is ours to say."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*(does not have many workers|smaller than the logging interval).*")
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated")  # its successor is too new
        return entered
