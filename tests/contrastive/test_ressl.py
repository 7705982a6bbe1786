"""ReSSL: the queue is compared with before it moves on, the weak view teaches, and only the strong one learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import ColourJitter, GaussianBlur, ressl_views
from ssl_toolkit.contrastive.losses import relational
from ssl_toolkit.contrastive.ressl import ReSSL
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


def made(encoder: Encoder, **options: Any) -> ReSSL:
    options = {"hidden_dim": 8, "projection_dim": 4, "queue_size": 16, **options}
    return ReSSL(encoder, ReSSL.default_views(16), **options)


def pair() -> list[Tensor]:
    return list(torch.rand(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def step(method: ReSSL, views: list[Tensor]) -> Tensor:
    return method.step(views, Batch(views[0], torch.zeros(6), torch.arange(6)))["loss"]


def test_views_are_compared_with_the_queue_as_it_was_before_them(small_encoder: Encoder) -> None:
    method = made(small_encoder).eval()
    before = method.queue.vectors.clone()
    q = method.projector(method.encoder(pair()[0]))
    k = method.key_projector(method.key_encoder(pair()[1]))
    assert step(method, pair()).item() == pytest.approx(relational(q, k, before, 0.1, 0.04).item(), abs=1e-5)
    torch.testing.assert_close(method.queue.vectors[:6], F.normalize(k, dim=1))
    assert torch.equal(method.queue.vectors[6:], before[6:])


def test_only_the_strong_view_has_a_gradient(small_encoder: Encoder) -> None:
    method, views = made(small_encoder).eval(), [view.requires_grad_() for view in pair()]
    step(method, views).backward()
    assert views[0].grad is not None
    assert views[0].grad.abs().sum() > 0
    assert views[1].grad is None
    assert all(p.grad is None for p in [*method.key_encoder.parameters(), *method.key_projector.parameters()])


def test_the_momentum_network_follows(small_encoder: Encoder) -> None:
    method = made(small_encoder, momentum=0.9)
    before = method.key_projector[0].weight.clone()
    with torch.no_grad():
        method.projector[0].weight += 1
    method.after_update()
    torch.testing.assert_close(method.key_projector[0].weight, before + 0.1)


def test_the_first_view_is_strong_and_the_second_weak() -> None:
    strong, weak = ressl_views(16).transforms
    kinds = [{type(step) for step in view.modules()} for view in (strong, weak)]
    assert {ColourJitter, GaussianBlur} <= kinds[0]
    assert not {ColourJitter, GaussianBlur} & kinds[1]


@pytest.mark.parametrize("name", ["student_temperature", "teacher_temperature", "queue_size"])
def test_options_that_are_not_above_zero_are_refused(small_encoder: Encoder, name: str) -> None:
    with pytest.raises(UsageError, match=rf"--method.{name.replace('_', '-')} is 0: it must be above 0"):
        made(small_encoder, **{name: 0})
