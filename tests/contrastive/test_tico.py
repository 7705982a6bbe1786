"""TiCo: the covariance has this batch in it, with its gradient, and is kept without; the momentum network teaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.contrastive.tico import TiCo
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


def made(encoder: Encoder, **options: Any) -> TiCo:
    torch.manual_seed(0)
    return TiCo(encoder, TiCo.default_views(16), **{"hidden_dim": 8, "projection_dim": 4, **options}).eval()


def pair() -> list[Tensor]:
    return list(torch.rand(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def step(method: TiCo, views: list[Tensor]) -> Tensor:
    return method.step(views, Batch(views[0], torch.zeros(6), torch.arange(6)))["loss"]


def by_hand(method: TiCo, views: list[Tensor], past: Tensor) -> tuple[Tensor, Tensor]:
    z1 = F.normalize(method.projector(method.encoder(views[0])), dim=1)
    z2 = F.normalize(method.key_projector(method.key_encoder(views[1])), dim=1).detach()
    c = 0.8 * past + 0.2 * sum(torch.outer(z, z) for z in z1) / 6
    return torch.stack([1 - a @ b + 8 * a @ c @ a for a, b in zip(z1, z2, strict=True)]).mean(), c


def test_the_covariance_of_a_step_holds_this_batch_and_the_past(small_encoder: Encoder) -> None:
    method = made(small_encoder, beta=0.8, rho=8.0)
    assert method.covariance.count_nonzero() == 0
    for _ in range(2):
        expected, c = by_hand(method, pair(), method.covariance.clone())
        assert step(method, pair()).item() == pytest.approx(expected.item(), abs=1e-5)
        torch.testing.assert_close(method.covariance, c.detach())
    assert not method.covariance.requires_grad
    assert "covariance" in method.state_dict()


def test_the_gradient_goes_through_this_batchs_covariance(small_encoder: Encoder) -> None:
    method = made(small_encoder, beta=0.8, rho=8.0)
    weight = method.projector[0].weight
    expected = torch.autograd.grad(by_hand(method, pair(), method.covariance.clone())[0], weight)[0]
    found = torch.autograd.grad(step(method, pair()), weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_only_the_first_view_has_a_gradient(small_encoder: Encoder) -> None:
    method, views = made(small_encoder), [view.requires_grad_() for view in pair()]
    step(method, views).backward()
    assert views[0].grad is not None
    assert views[0].grad.abs().sum() > 0
    assert views[1].grad is None


def test_the_momentum_network_follows_ever_more_slowly(small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for progress, share in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        monkeypatch.setattr(TiCo, "progress", property(lambda self, progress=progress: progress))
        method = made(small_encoder, momentum=0.9)
        before = method.key_projector[0].weight.clone()
        with torch.no_grad():
            method.projector[0].weight += 1
        method.after_update()
        torch.testing.assert_close(method.key_projector[0].weight, before + share)


@pytest.mark.parametrize(("name", "value"), [("rho", 0), ("beta", 1.5), ("momentum", -1)])
def test_options_out_of_range_are_refused(small_encoder: Encoder, name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"--method.{name} is {value}: it must be"):
        made(small_encoder, **{name: value})
