from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.vicreg import VICReg
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


def make(encoder: Encoder, **options: float) -> VICReg:
    torch.manual_seed(0)
    return VICReg(encoder, VICReg.default_views(16), projection_dim=12, **options)  # type: ignore[arg-type]


def test_step_is_the_papers_loss_of_the_embeddings(small_encoder: Encoder) -> None:
    method = make(small_encoder, invariance=2, variance=3, covariance=5).eval()
    views = list(torch.rand(2, 6, 3, 16, 16))
    z1, z2 = (method.projector(method.encoder(view)) for view in views)
    loss = method.step(views, Batch(views[0], torch.zeros(6), torch.arange(6)))["loss"]
    assert z1.shape == (6, 12)
    expected = losses.vicreg(z1, z2, invariance=2, variance=3, covariance=5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_expander_is_the_papers(small_encoder: Encoder) -> None:
    layers = list(make(small_encoder).projector)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert [layer.out_features for layer in layers if isinstance(layer, nn.Linear)] == [12, 12, 12]


def test_both_views_are_trained_on(small_encoder: Encoder) -> None:
    views = [view.requires_grad_() for view in torch.rand(2, 6, 3, 16, 16)]
    method = make(small_encoder).eval()  # no batch statistics, through which each view would reach the other
    method.step(views, Batch(views[0], torch.zeros(6), torch.arange(6)))["loss"].backward()
    for view in views:
        assert view.grad is not None
        assert view.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["invariance", "variance", "covariance"])
def test_a_weight_that_is_not_above_zero_is_refused(small_encoder: Encoder, name: str) -> None:
    with pytest.raises(UsageError, match=rf"--method.{name} is -1: it must be above 0"):
        make(small_encoder, **{name: -1})
