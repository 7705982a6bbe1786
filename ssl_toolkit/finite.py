"""Steps whose loss or gradient is not finite are left out, before a weight has seen them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.files import write_atomic
from ssl_toolkit.logs import is_logged
from ssl_toolkit.progress import say


class OnlyFinite(pl.Callback):
    """Leaves out optimiser steps whose loss or gradient is not finite, and ends a run that has many of them in a row.

    Weights and the optimiser's state stay as they are, as if their gradient were missing; so do buffers, running
    statistics and queues among them. The batches of the first such steps are kept.

    Of several processes, each sees the gradient of all, but the loss of its part alone: there, the gradient decides.

    On an accelerator, which would be waited for, only logged steps are looked at, and the first that is not finite ends
    the run: the weights may be spoilt since the last look.

    Args:
        folder: Where batches go, as ``step-00000120-0.npz``, with the number of the process.
    """

    IN_A_ROW = 5

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._batch: Batch | None = None
        self._loss: Tensor | None = None  # the sum over the batches of a step
        self._buffers: list[Tensor] = []  # as they were before the step
        self._row = self._kept = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the batch and, at the beginning of a step, all buffers."""
        self._batch = batch
        if self._loss is None and not _waits(trainer):
            own = list(pl_module.buffers())
            if [each.shape for each in self._buffers] != [each.shape for each in own]:
                self._buffers = [torch.empty_like(each) for each in own]
            if own:
                torch._foreach_copy_(self._buffers, own)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add up the loss."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at gradient and loss, and take the gradient away if they are not finite.

        Raises:
            ToolkitError: If that is so for the last of many steps in a row.
        """
        if _waits(trainer) and not is_logged(trainer):
            self._loss = None
            return
        value = float(self._measured(trainer, optimizer))
        self._loss = None
        if math.isfinite(value):
            self._row = 0
            return
        optimizer.zero_grad(set_to_none=True)  # what has none is left alone, and so is its state
        if self._buffers:
            with torch.no_grad():
                torch._foreach_copy_(list(pl_module.buffers()), self._buffers)
        self._row += 1
        self._keep(trainer, value)
        if self._row >= self.IN_A_ROW or _waits(trainer):
            before = f", as in the {self._row - 1} before" if self._row > 1 else ""
            raise ToolkitError(
                f"loss or gradient is {value} at step {trainer.global_step + 1}{before}: lower --optimizer.lr, "
                f"lengthen --optimizer.warmup, or set --clip-gradient 1; batches of such steps are in {self.folder}"
            )

    def _measured(self, trainer: pl.Trainer, optimizer: Optimizer) -> Tensor:
        """The norm of the gradient, not finite if one of its parts is not; with the loss, where that may decide."""
        assert self._loss is not None
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return self._loss  # the scaler of float16 looks for the scale at which gradients are finite
        every = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm(every)
        return norm if trainer.world_size > 1 else norm + self._loss

    def _keep(self, trainer: pl.Trainer, value: float) -> None:
        if self._kept == self.IN_A_ROW:
            return
        self._kept += 1
        assert self._batch is not None
        parts = {"image": self._batch.image, "index": self._batch.index, "box": self._batch.box}
        arrays: dict[str, Any] = {name: part.cpu().numpy() for name, part in parts.items() if part is not None}
        self.folder.mkdir(exist_ok=True)
        file = self.folder / f"step-{trainer.global_step + 1:08d}-{trainer.global_rank}.npz"
        write_atomic(file, lambda temporary: np.savez_compressed(temporary, **arrays))
        if trainer.is_global_zero:
            say(f"step {trainer.global_step + 1} is left out, its loss or gradient is {value}: its batch is in {file}")


def _waits(trainer: pl.Trainer) -> bool:
    """Whether looking at a value makes the host wait for the device."""
    return trainer.strategy.root_device.type != "cpu"
