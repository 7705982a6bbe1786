"""The memory bank: rows by number, zeros for what was not seen, as large as what was saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_toolkit.contrastive.memory import MemoryBank
from ssl_toolkit.contrastive.pirl import PIRL
from ssl_toolkit.errors import UsageError


def test_what_was_not_seen_is_recalled_as_what_it_is_now() -> None:
    bank, now = MemoryBank(3), torch.rand(2, 3, requires_grad=True)
    assert torch.equal(bank.recall(torch.tensor([4, 1]), now), now)
    bank.update(torch.tensor([4, 1]), 2 * now)
    bank.update(torch.tensor([4]), torch.tensor([[1.0, 2.0, 3.0]]))
    found = bank.recall(torch.tensor([4, 1, 0, 7]), torch.full((4, 3), 9.0))
    torch.testing.assert_close(
        found, torch.stack([torch.tensor([1.0, 2, 3]), 2 * now[1].detach(), *2 * [torch.full((3,), 9.0)]])
    )
    assert not found.requires_grad
    assert bank.vectors.shape == (8, 3)


def test_a_bank_is_loaded_as_large_as_it_was_saved() -> None:
    bank, other = MemoryBank(3), MemoryBank(3)
    bank.hold(5)
    bank.update(torch.tensor([3]), torch.ones(1, 3))
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.vectors, bank.vectors)
    bank.hold(2)
    assert bank.vectors.shape == (5, 3)


def test_images_without_a_number_are_refused() -> None:
    with pytest.raises(UsageError, match=r"this loader does not say which they are: give data to pretrain"):
        MemoryBank(3).recall(torch.tensor([-1, -1]), torch.ones(2, 3))


class Watch(pl.Callback):
    """What is remembered when the first batch begins, and how often the network was asked before."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(pl_module.memory.vectors.clone())


def test_all_images_are_remembered_before_the_first_step_and_each_seen_one_moves_on(
    train_quickly: Callable[..., Any], noise_images: Callable[..., Any]
) -> None:
    watch = Watch()
    method = train_quickly(PIRL, noise_images(26), epochs=1, callbacks=[watch], method={"projection_dim": 8})
    first, second = watch.seen[:2]
    assert first.shape == (26, 8)
    assert first.any(1).sum() == 24  # three batches of eight
    torch.testing.assert_close(first.norm(dim=1).sort().values[2:], torch.ones(24))
    assert (first != second).any(1).sum() == 8
    assert method.memory.complete
