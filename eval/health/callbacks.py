"""Evaluation while training goes on, which it must not disturb."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.utilities.seed import isolate_rng

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import world_size
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Encode, Features, extract
from ssl_toolkit.eval.scores.knn import knn


class OnlineKNN(pl.Callback):
    """Logs the kNN accuracy of the module's features as ``knn_top1`` at the end of every n-th epoch.

    Training goes on as if nothing had happened: random state, modes and gradients are as before. Of several processes,
    each encodes its part of the images, and all compute the same score.

    Args:
        train_loader: Labelled batches that vote; of several processes, as many in each, and others.
        test_loader: Labelled batches that are scored; likewise.
        every_n_epochs: Epochs between scores, at least 1.
        k: Number of neighbours.
        temperature: Of the weighted vote, see `knn`.
        view: uint8 images to images in [0, 1], see `extract`.

    Raises:
        UsageError: `every_n_epochs` is below 1.
    """

    def __init__(
        self,
        train_loader: Iterable[Batch],
        test_loader: Iterable[Batch],
        every_n_epochs: int = 1,
        k: int = 20,
        temperature: float = 0.1,
        view: Encode | None = None,
    ) -> None:
        if every_n_epochs < 1:
            raise UsageError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.loaders = (train_loader, test_loader)
        self.every_n_epochs = every_n_epochs
        self.k = k
        self.temperature = temperature
        self.view = view

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the module as it is now."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        with isolate_rng():
            train, test = (
                of_all_processes(extract(pl_module, loader, device=pl_module.device, view=self.view))
                for loader in self.loaders
            )
            # A class may have landed in the small test part alone: no reason to end a training.
            test = test.select(np.flatnonzero(np.isin(test.label, train.label)))
            score = knn(train, test, self.k, self.temperature)["top1"]
        pl_module.log("knn_top1", score)


def of_all_processes(found: Features) -> Features:
    """The features of all processes, one after another; in a single process those given."""
    if world_size() == 1:
        return found
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, found)
    x, label, index = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "label", "index"))
    return Features(x, label, index)
