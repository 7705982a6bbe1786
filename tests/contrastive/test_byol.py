"""BYOL: the squared distance of unit vectors, and a predictor on one side only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_toolkit.contrastive.byol import BYOL
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


def byol(encoder: Encoder, **options: Any) -> BYOL:
    return BYOL(encoder, BYOL.default_views(16), **{"hidden_dim": 8, "projection_dim": 4, **options})


def some_batch() -> Batch:
    image = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.zeros(6), torch.arange(6))


def test_loss_is_the_squared_distance_of_unit_vectors_both_ways(small_encoder: Encoder) -> None:
    method = byol(small_encoder).eval()
    views = method.views(some_batch().image)
    q = [F.normalize(method.predictor(method.projector(method.encoder(view))), dim=1) for view in views]
    z = [F.normalize(method.target_projector(method.target_encoder(view)), dim=1) for view in views]
    expected = sum((q[a] - z[b]).square().sum(1).mean().item() for a, b in ((0, 1), (1, 0)))
    loss = method.step(views, some_batch())["loss"].item()
    assert loss == pytest.approx(expected, abs=1e-5)
    assert method.step(views[::-1], some_batch())["loss"].item() == pytest.approx(loss, abs=1e-5)


def test_loss_of_predictions_that_are_right_is_zero(small_encoder: Encoder) -> None:
    method = byol(small_encoder).eval()
    method.predictor = nn.Sequential()  # the target network is a copy still, and the views are the same
    view = method.views(some_batch().image)[0]
    assert method.step([view, view], some_batch())["loss"].item() == pytest.approx(0, abs=1e-5)


def test_predictor_is_on_the_online_side_alone(small_encoder: Encoder) -> None:
    method = byol(small_encoder)
    seen: list[bool] = []
    method.predictor.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    method.step(method.views(some_batch().image), some_batch())["loss"].backward()
    assert seen == [True, True]
    assert all(p.grad is not None for p in method.predictor.parameters())
    names = {name.split(".")[0] for name, _ in method.named_parameters()}
    assert names == {"encoder", "projector", "predictor", "target_encoder", "target_projector"}


def test_heads_are_the_papers(small_encoder: Encoder) -> None:
    method = byol(small_encoder)
    for head, width in ((method.projector, 256), (method.predictor, 4)):
        assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        assert (head[0].in_features, head[3].out_features) == (width, 4)


@pytest.mark.parametrize(("option", "value"), [("hidden_dim", 0), ("projection_dim", -1)])
def test_options_that_must_be_above_zero(small_encoder: Encoder, option: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"^--method.{option.replace('_', '-')} is {value}: it must be above 0$"):
        byol(small_encoder, **{option: value})
