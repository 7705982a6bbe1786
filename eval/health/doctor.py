"""The doctor: watches a training for signs of a collapse, and tells of each once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import evaluating
from ssl_toolkit.eval.health.findings import Finding, established
from ssl_toolkit.eval.health.measures import LOOKED_AT, MEASURES, beside_a_guess, measure, views_of, watch


class CollapseDoctor(pl.Callback):
    """Measures the embeddings of the training batch every so often, logs the measures and tells of each finding once.

    It looks at what the loss sees, the output of the submodule that `Method.embedding` names; of a method without one,
    at the encoder's features. Training goes on as if nothing had happened: random state, modes and gradients are as
    before. Each process looks at its own part of the batch; the first one tells.

    Args:
        every: Optimiser steps between looks; None takes 50, or a tenth of a shorter epoch.
        tell: Called with the text of each finding.

    Raises:
        UsageError: `every` is below 1.
    """

    def __init__(self, every: int | None = None, tell: Callable[[str], object] = print) -> None:
        if every is not None and every < 1:
            raise UsageError(f"every must be at least 1, got {every}")
        self.every, self.tell = every, tell
        self.findings: list[Finding] = []
        self._rows: list[dict[str, float]] = []
        self._seen: list[Tensor] = []
        self._hook: Any = None
        self._looking, self._period, self._done, self._grad_norm = False, 1, 0, math.nan

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look only at steps that are logged."""
        epoch = int(trainer.num_training_batches) // trainer.accumulate_grad_batches
        logged = max(1, getattr(trainer, "log_every_n_steps", 1))
        self._period = -(-(self.every or max(1, min(50, epoch // 10))) // logged) * logged

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Before a step that is looked at, watch its embeddings."""
        self._done = trainer.global_step
        self._looking = (self._done + 1) % self._period == 0
        if self._looking:
            self._seen.clear()
            self._hook = watch(pl_module, self._seen)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """The norm of the gradient, before it is clipped."""
        if self._looking:
            gradients = [each.grad for each in pl_module.parameters() if each.grad is not None]
            self._grad_norm = float(nn.utils.get_total_norm(gradients))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Measure, log, tell."""
        self._unhook()
        if not self._looking or trainer.global_step == self._done:
            return  # in the middle of accumulation
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        measures = self._measures(pl_module, batch, loss)
        # Not by `log_dict`, which would repeat the measures at the steps that are not looked at.
        for logger in trainer.loggers:
            logger.log_metrics({**measures, "epoch": trainer.current_epoch}, step=trainer.global_step - 1)
        own = {key: float(value) for key, value in trainer.callback_metrics.items() if key in MEASURES}
        self._rows = [*self._rows, {**own, **measures, "step": trainer.global_step}][-50:]
        known = {finding.name for finding in self.findings}
        for finding in established(self._rows):
            if finding.name not in known:
                self.findings.append(finding._replace(step=trainer.global_step))
                if trainer.is_global_zero:
                    self.tell(f"doctor: {self.findings[-1]}")

    def _measures(self, method: Any, batch: Batch, loss: float) -> dict[str, float]:
        measures = {"grad_norm": self._grad_norm}
        if self._seen:
            z = views_of(self._seen, len(batch.image), len(method.views))
            self._seen.clear()
        else:
            encoder, box = method.kept_encoder, None if batch.box is None else batch.box[:LOOKED_AT]
            with isolate_rng(), evaluating(encoder), torch.no_grad():
                z = [method(encoder.eval_view()(batch.image[:LOOKED_AT], box)).float().cpu().numpy()]
        if np.isfinite(z).all() and len(z[0]) > 1:
            measures |= measure(*z)
        return measures | beside_a_guess(method, loss, len(batch.image))

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave nothing behind."""
        self._unhook()

    def state_dict(self) -> dict[str, Any]:
        """The looks and findings so far, for a checkpoint."""
        return {"rows": self._rows, "findings": [tuple(finding) for finding in self.findings]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there: what was told is not told again."""
        self._rows = state_dict["rows"]
        self.findings = [Finding(*finding) for finding in state_dict["findings"]]
