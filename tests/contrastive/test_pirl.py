"""PIRL: whole and tiles are compared with the memory before it moves on, and never with their own as a negative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.contrastive.pirl import PIRL
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

INDEX = torch.tensor([3, 0, 4, 1])


def made(encoder: Encoder, **options: Any) -> PIRL:
    torch.manual_seed(0)
    return PIRL(encoder, PIRL.default_views(16), **{"projection_dim": 4, **options}).eval()


def with_memory(encoder: Encoder, **options: Any) -> PIRL:
    method = made(encoder, **options)
    method.memory.hold(9)
    method.memory.vectors.copy_(F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(2)), dim=1))
    return method


def pair() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(4, 3, side, side, generator=generator) for side in (16, 36)]


def step(method: PIRL, views: list[Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return method.step(views, Batch(views[0], torch.zeros(4), INDEX))


def test_both_are_compared_with_all_memories_and_the_own_one_is_the_positive(small_encoder: Encoder) -> None:
    method, views = with_memory(small_encoder, temperature=0.3, jigsaw_weight=0.2), pair()
    before = method.memory.vectors.clone()
    f = F.normalize(method.projector(method.encoder(views[0])), dim=1)
    torch.manual_seed(5)
    g = method._jigsaw(views[1])
    whole, jigsaw = (F.cross_entropy(each @ before.T / 0.3, INDEX).item() for each in (f, g))
    found = step(method, views)
    assert found["whole_loss"].item() == pytest.approx(whole, abs=1e-5)
    assert found["jigsaw_loss"].item() == pytest.approx(jigsaw, abs=1e-5)
    assert found["loss"].item() == pytest.approx(0.8 * whole + 0.2 * jigsaw, abs=1e-5)
    expected = before.clone()
    expected[INDEX] = F.normalize(0.5 * before[INDEX] + 0.5 * f.detach(), dim=1)
    torch.testing.assert_close(method.memory.vectors, expected)


def test_an_image_is_never_its_own_negative_and_the_draw_is_of_the_step(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, drawn = with_memory(small_encoder, negatives=5), []
    for number in (0, 0, 1):
        monkeypatch.setattr(PIRL, "global_step", number)
        others, own = method._others(INDEX)
        assert others.shape == (5, 4)
        for n, place in zip(INDEX, own, strict=True):
            mine = (others == method.memory.vectors[n]).all(1)
            assert (place >= 0) == mine.any()
            assert place < 0 or mine[place]
        drawn.append(others)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_tiles_are_shuffled_by_image_and_hold_the_view(small_encoder: Encoder) -> None:
    method = made(small_encoder)
    cells = torch.arange(9.0).view(3, 3).repeat_interleave(12, 0).repeat_interleave(12, 1)
    tiles = method._tiles(cells.expand(6, 3, 36, 36))
    assert tiles.shape == (6, 9, 3, 9, 9)
    orders = tiles.flatten(2)
    assert (orders.amax(2) == orders.amin(2)).all()
    assert (orders[..., 0].sort(1).values == torch.arange(9.0)).all()
    assert len({tuple(order.tolist()) for order in orders[..., 0]}) == 6


def test_both_views_have_a_gradient(small_encoder: Encoder) -> None:
    method, views = with_memory(small_encoder), [view.requires_grad_() for view in pair()]
    step(method, views)["loss"].backward()
    for view in views:
        assert view.grad is not None
        assert view.grad.abs().sum() > 0
    assert not method.memory.vectors.requires_grad


def test_chance_is_that_of_the_memories(small_encoder: Encoder) -> None:
    assert made(small_encoder).chance_loss(4) is None
    assert with_memory(small_encoder).chance_loss(4) == pytest.approx(torch.tensor(9.0).log().item())
    assert with_memory(small_encoder, negatives=5).chance_loss(4) == pytest.approx(torch.tensor(6.0).log().item())


def test_options_out_of_range_are_refused(small_encoder: Encoder) -> None:
    for name, value in {"temperature": 0, "negatives": 0, "memory_momentum": 2, "jigsaw_weight": -1, "grid": 1}.items():
        with pytest.raises(UsageError, match=rf"--method.{name.replace('_', '-')} is {value}: it must be"):
            made(small_encoder, **{name: value})
