"""Evaluation on the side: it logs what kNN says, and the training never notices."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import extract
from ssl_toolkit.eval.health.callbacks import OnlineKNN
from ssl_toolkit.eval.scores.knn import knn

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|in eval mode at the start)")


class Loader:
    """Labelled images, in an order drawn from every global generator there is."""

    def __init__(self, count: int, seed: int, classes: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.label = torch.arange(count) % classes
        noise = torch.randint(0, 80, (count, 1, 4, 4), generator=generator)
        self.image = (noise + 60 * self.label[:, None, None, None]).to(torch.uint8)

    def __iter__(self) -> Iterator[Batch]:
        random.random()
        np.random.rand()
        for rows in torch.randperm(len(self.label)).split(16):
            yield Batch(self.image[rows], self.label[rows], rows)


class Net(pl.LightningModule):
    """Uses all that evaluation could disturb: batch norm, dropout, draws of its own, accumulated gradients, modes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.frozen = nn.BatchNorm1d(8).eval()
        self.modes: list[list[bool]] = []

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.frozen(self.body(image))
        return out

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        self.modes.append([part.training for part in self.modules()])
        noise = torch.rand_like(batch[0]) + float(np.random.rand()) + random.random()
        return self(batch[0] + 0.01 * noise).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Scores(pl.Callback):
    """What was logged at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[float | None] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get("knn_top1")
        self.seen.append(None if value is None else float(value))


def train(*callbacks: pl.Callback, epochs: int = 2) -> Net:
    pl.seed_everything(0, verbose=False)
    net = Net()
    loader: DataLoader[Any] = DataLoader(TensorDataset(torch.rand(50, 1, 4, 4)), batch_size=8, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        accumulate_grad_batches=4,  # 7 batches an epoch
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(net, loader)
    return net


def test_training_never_notices() -> None:
    plain, watched = train(), train(OnlineKNN(Loader(60, 1), Loader(30, 2), every_n_epochs=1, k=5))
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in watched.state_dict().items())
    assert watched.modes == plain.modes
    assert not any(modes[-1] for modes in watched.modes)  # the frozen part stays as it was put
    assert all(modes[0] for modes in watched.modes)


def test_the_score_is_that_of_the_features_at_that_epoch() -> None:
    bank, queries = Loader(60, 1), Loader(30, 2)
    scores = Scores()
    net = train(OnlineKNN(bank, queries, every_n_epochs=1, k=5), scores)
    expected = knn(extract(net, bank), extract(net, queries), k=5)["top1"]
    assert scores.seen[-1] == pytest.approx(expected)
    assert 0.4 < expected < 1


def test_every_n_th_epoch() -> None:
    calls: list[int] = []

    class Counting(Loader):
        def __iter__(self) -> Iterator[Batch]:
            calls.append(1)
            return super().__iter__()

    scores = Scores()
    train(OnlineKNN(Counting(60, 1), Loader(30, 2), every_n_epochs=2), scores, epochs=5)
    assert len(calls) == 2
    assert [value is None for value in scores.seen] == [True, False, False, False, False]  # Lightning keeps the last


def test_a_class_that_nobody_votes_for_does_not_end_the_training() -> None:
    scores = Scores()
    train(OnlineKNN(Loader(60, 1, classes=3), Loader(30, 2, classes=4)), scores)
    assert all(value is not None for value in scores.seen)


def test_the_view_is_used() -> None:
    seen: list[torch.dtype] = []

    def view(image: Tensor) -> Tensor:
        seen.append(image.dtype)
        return image.float() / 255

    train(OnlineKNN(Loader(60, 1), Loader(30, 2), view=view), epochs=1)
    assert set(seen) == {torch.uint8}


def test_a_period_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="every_n_epochs must be at least 1, got 0"):
        OnlineKNN(Loader(4, 1), Loader(4, 2), every_n_epochs=0)
