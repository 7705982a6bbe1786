"""SimSiam: nothing but the stopped gradient keeps it from collapse, so the gradient is looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.contrastive.simsiam import SimSiam
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


def simsiam(encoder: Encoder, **options: Any) -> SimSiam:
    return SimSiam(encoder, SimSiam.default_views(16), **{"hidden_dim": 4, "projection_dim": 16, **options})


def some_batch() -> Batch:
    image = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.zeros(6), torch.arange(6))


def loss_by_hand(method: SimSiam, views: list[Tensor], stop: bool) -> Tensor:
    z = [method.projector(method.encoder(view)) for view in views]
    p = [F.normalize(method.predictor(each), dim=1) for each in z]
    target = [F.normalize(each.detach() if stop else each, dim=1) for each in z]
    return -((p[0] * target[1]).sum(1).mean() + (p[1] * target[0]).sum(1).mean()) / 2


def test_gradient_stops_at_the_targets(small_encoder: Encoder) -> None:
    method = simsiam(small_encoder).eval()
    views, weights = method.views(some_batch().image), list(method.parameters())
    loss = method.step(views, some_batch())["loss"]
    stopped, leaking = loss_by_hand(method, views, stop=True), loss_by_hand(method, views, stop=False)
    assert loss.item() == pytest.approx(stopped.item(), abs=1e-5) == leaking.item()
    gradient, expected, wrong = (
        torch.cat([g.flatten() for g in torch.autograd.grad(each, weights)]) for each in (loss, stopped, leaking)
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert (gradient - wrong).norm() > 0.1 * gradient.norm()


def test_both_views_take_both_parts(small_encoder: Encoder) -> None:
    method = simsiam(small_encoder).eval()
    views = method.views(some_batch().image)
    there, back = (method.step(each, some_batch())["loss"].item() for each in (views, views[::-1]))
    assert there == pytest.approx(back, abs=1e-6)
    assert -1 <= there <= 1


def test_heads_are_the_papers(small_encoder: Encoder) -> None:
    method = simsiam(small_encoder)
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in method.projector] == [*hidden, *hidden, nn.Linear, nn.BatchNorm1d]
    assert not method.projector[-1].affine
    assert [type(layer) for layer in method.predictor] == [*hidden, nn.Linear]
    assert [method.predictor[i].out_features for i in (0, 3)] == [4, 16]


@pytest.mark.parametrize(("option", "value"), [("hidden_dim", 0), ("projection_dim", -1)])
def test_options_that_must_be_above_zero(small_encoder: Encoder, option: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"^--method.{option.replace('_', '-')} is {value}: it must be above 0$"):
        simsiam(small_encoder, **{option: value})
