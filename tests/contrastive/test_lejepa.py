"""LeJEPA: no gradient is stopped, and the directions are the same in every process and new at every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_toolkit.contrastive import token_losses
from ssl_toolkit.contrastive.lejepa import LeJEPA
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError


def made(encoder: Encoder, **options: Any) -> LeJEPA:
    sizes = {"hidden_dim": 8, "projection_dim": 4, "slices": 16}
    return LeJEPA(encoder, LeJEPA.default_views(16, local_count=1), **{**sizes, **options}).eval()


def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(6, 3, side, side, generator=generator) for side in (16, 16, 8)]


def step(method: LeJEPA, views: list[Tensor]) -> dict[str, Tensor]:
    return method.step(views, Batch(views[0], torch.zeros(6), torch.arange(6)))


@pytest.mark.parametrize("regularization", [0.05, 0.5])
def test_the_loss_is_algorithm_2(small_encoder: Encoder, regularization: float) -> None:
    method, views = made(small_encoder, regularization=regularization), crops()
    z = [method.projector(method.encoder(view)) for view in views]
    centre = (z[0] + z[1]) / 2
    distance = torch.stack([(each - centre).square().mean() for each in z]).mean()
    directions = method._directions(torch.stack(z))
    gaussian = sum(token_losses.sigreg(each, directions) for each in z) / 3
    expected = (1 - regularization) * distance + regularization * gaussian
    assert step(method, views)["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_gradient_flows_through_every_view(small_encoder: Encoder) -> None:
    views = [view.requires_grad_() for view in crops()]
    step(made(small_encoder, regularization=0.0), views)["loss"].backward()
    assert all(view.grad is not None and view.grad.abs().sum() > 0 for view in views)


def test_directions_are_units_of_the_step_whatever_was_drawn(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, z = made(small_encoder), torch.zeros(3, 6, 4)
    first = method._directions(z)
    torch.rand(7)
    assert torch.equal(method._directions(z), first)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(16))
    monkeypatch.setattr(LeJEPA, "global_step", property(lambda self: 1))
    assert not torch.equal(method._directions(z), first)


def test_one_head_over_all_crops(small_encoder: Encoder) -> None:
    method, seen = made(small_encoder), []
    method.projector.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    step(method, crops())
    assert seen == [18]


def test_a_vit_learns_from_local_crops_too() -> None:
    torch.manual_seed(0)
    method = made(Encoder(EncoderConfig("test_vit", image_size=16, load_size=16, patch_size=4)))
    step(method, crops())["loss"].backward()
    assert [name for name, p in method.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": 0}, r"--method.slices is 0: it must be above 0"),
        ({"regularization": 2.0}, r"--method.regularization is 2.0: it must be from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(small_encoder: Encoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(small_encoder, **options)
