"""A Lightning Trainer of the user's own: what `fit` does for a method, done in its place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_toolkit.data.batch import as_batch
from ssl_toolkit.data.statistics import MEASURED
from ssl_toolkit.errors import UsageError


class OwnTrainer(pl.Callback):
    """Tells a method how long its training is and how large its steps are, and lets it measure the data first.

    Under `fit`, which has told it, nothing is done.
    """

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """The length of the training.

        Raises:
            UsageError: If it has no end: schedules need one.
        """
        method = pl_module
        if stage != "fit" or (method.total_steps and not method.own_trainer):
            return
        method.own_trainer = True
        steps = trainer.estimated_stepping_batches
        if not 0 < steps < float("inf"):
            raise UsageError(f"the Trainer trains for {steps} steps, and schedules need an end: give it max_epochs")
        batch_size = getattr(trainer.train_dataloader, "batch_size", None) or method.images_per_step
        method.total_steps = int(steps)
        method.images_per_step = batch_size * trainer.accumulate_grad_batches * trainer.world_size

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """`Method.prepare`, on some of the images; not when a checkpoint goes on."""
        if pl_module.own_trainer and not trainer.ckpt_path:
            with torch.no_grad():
                pl_module.prepare(some_views(trainer, pl_module))


def some_views(trainer: pl.Trainer, method: Any) -> Iterator[list[Tensor]]:
    """Views of the first images that a Trainer gives, batch by batch; none is read before it is asked for."""
    loader: Any = trainer.train_dataloader
    for given in itertools.islice(loader, -(-MEASURED // method.images_per_step)):
        batch = as_batch(trainer.strategy.batch_to_device(given))
        yield method.views(batch.image, batch.box)
