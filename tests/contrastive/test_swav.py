from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, simclr_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.swav import SwAV
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

SMALL: dict[str, Any] = {"prototypes": 6, "hidden_dim": 16, "projection_dim": 4, "queue_size": 7}


def make(encoder: Encoder, **options: Any) -> SwAV:
    torch.manual_seed(0)
    method = SwAV(encoder, SwAV.default_views(16), **{**SMALL, **options})
    for module in method.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of these images, lest all look alike
        method.projector(method.encoder(torch.cat(crops()[:2])))
    return method.eval()


def crops(count: int = 5) -> list[Tensor]:
    """Two global and two local views."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(count, 3, side, side, generator=generator) for side in (16, 16, 8, 8)]


def step(method: SwAV, views: list[Tensor]) -> Tensor:
    n = len(views[0])
    return method.step(views, Batch(views[0], torch.zeros(n), torch.arange(n)))["loss"]


def filled(method: SwAV) -> SwAV:
    """With past embeddings in its queue."""
    assert method.queue is not None
    halves = torch.randn(7, 8, generator=torch.Generator().manual_seed(2)).chunk(2, dim=1)
    method.queue.vectors.copy_(torch.cat([F.normalize(half, dim=1) for half in halves], dim=1))
    return method


def at(progress: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SwAV, "first_progress", property(lambda self: progress))


def by_hand(method: SwAV, views: list[Tensor], past: list[Tensor] | None = None) -> Tensor:
    """Algorithm 1, term by term: the codes of two crops, predicted by all others."""
    z = [F.normalize(method.projector(method.encoder(view)), dim=1) for view in views]
    scores = [each @ method.prototypes.weight.T for each in z]
    terms = []
    for t in range(2):
        assigned = scores[t] if past is None else torch.cat([scores[t], past[t] @ method.prototypes.weight.T])
        codes = losses.sinkhorn(assigned.detach(), method.epsilon, method.iterations)[: len(scores[t])]
        for s in range(len(views)):
            if s != t:
                terms.append(-(codes * (scores[s] / method.temperature).log_softmax(1)).sum(1).mean())
    return torch.stack(terms).mean()


def test_step_is_the_papers_loss_of_all_crops_and_the_codes_of_the_global_ones(small_encoder: Encoder) -> None:
    method = make(small_encoder, temperature=0.3, epsilon=0.2, iterations=2)
    assert step(method, crops()).item() == pytest.approx(by_hand(method, crops()).item(), abs=1e-5)


def test_codes_carry_no_gradient(small_encoder: Encoder) -> None:
    method = make(small_encoder, epsilon=0.5)
    weights = [method.projector[0].weight, method.prototypes.weight]
    found, expected = (torch.autograd.grad(of(method, crops()), weights) for of in (step, by_hand))
    for ours, constant_codes in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, constant_codes, atol=1e-6, rtol=1e-3)


def test_a_full_queue_is_assigned_with_the_batch_and_filled_afterwards(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(0.5, monkeypatch)
    method, views = filled(make(small_encoder, queue_start=0.5)), crops()
    assert method.queue is not None
    past = [half.clone() for half in method.queue.vectors.chunk(2, dim=1)]
    with torch.no_grad():
        assert step(method, views).item() == pytest.approx(by_hand(method, views, past).item(), abs=1e-5)
        z = [F.normalize(method.projector(method.encoder(view)), dim=1) for view in views[:2]]
    torch.testing.assert_close(method.queue.vectors[:5], torch.cat(z, dim=1))
    torch.testing.assert_close(method.queue.vectors[5:], torch.cat(past, dim=1)[5:])


def test_the_queue_is_filled_but_not_used_before_its_time(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(0.49, monkeypatch)
    method = filled(make(small_encoder, queue_start=0.5))
    assert method.queue is not None
    before = method.queue.vectors.clone()
    assert step(method, crops()).item() == pytest.approx(by_hand(method, crops()).item(), abs=1e-5)
    assert not torch.equal(method.queue.vectors, before)


def test_a_queue_that_is_not_full_is_not_used(small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    at(1.0, monkeypatch)
    method = make(small_encoder, queue_start=0.0)
    used = [step(method, crops()).item() != pytest.approx(by_hand(method, crops()).item(), abs=1e-5) for _ in range(3)]
    assert used == [False, False, True]  # it holds 7, and gets 5 a step


def test_the_queue_is_saved(small_encoder: Encoder) -> None:
    method, other = filled(make(small_encoder)), make(small_encoder)
    assert method.queue is not None
    assert other.queue is not None
    step(method, crops())
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(other.queue.vectors, method.queue.vectors)
    assert other.queue.position == method.queue.position == 5


def test_no_queue(small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    at(1.0, monkeypatch)
    method = make(small_encoder, queue_size=0)
    assert not any("queue" in name for name in method.state_dict())
    assert step(method, crops()).item() == pytest.approx(by_hand(method, crops()).item(), abs=1e-5)


def test_prototypes_are_unit_vectors_from_the_start(small_encoder: Encoder) -> None:
    norms = make(small_encoder).prototypes.weight.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(6))


class Prototypes(pl.Callback):
    """The prototypes at the start, and after each epoch."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(pl_module.prototypes.weight.detach().clone())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_start(trainer, pl_module)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_prototypes_stay_for_the_first_epochs_then_move_on_the_sphere(
    train_quickly: Callable[..., Any], noise_images: Callable[..., Any], frozen: int
) -> None:
    prototypes = Prototypes()
    train_quickly(
        SwAV, noise_images(16), epochs=3, callbacks=[prototypes], views={"local_count": 1},
        method={**SMALL, "freeze_prototypes": frozen},
    )  # fmt: skip
    moved = [(after - before).abs().max().item() > 1e-5 for before, after in pairwise(prototypes.seen)]
    assert moved == [epoch >= frozen for epoch in range(3)]
    for each in prototypes.seen:
        torch.testing.assert_close(each.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_global_views_are_refused(small_encoder: Encoder, count: int) -> None:
    with pytest.raises(UsageError, match=rf"--views.global-count is {count}.* at least 2"):
        SwAV.default_views(16, global_count=count)
    with pytest.raises(UsageError, match=rf"2 global views, got {count}: give --views.global-count 2"):
        SwAV(small_encoder, Views([*simclr_views(16, count=count).transforms]))


def test_options_out_of_range_are_refused(small_encoder: Encoder) -> None:
    for name, value in {"temperature": 0, "epsilon": 0, "iterations": 0, "queue_size": -1, "queue_start": 1.5}.items():
        with pytest.raises(UsageError, match=rf"--method.{name.replace('_', '-')} is {value}"):
            make(small_encoder, **{name: value})
