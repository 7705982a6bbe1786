"""PixPro: what lies at one place of the image agrees, flips and sizes of the crops notwithstanding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import byol_views
from ssl_toolkit.contrastive.pixpro import PixPro, near
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.health.collapse import effective_rank
from ssl_toolkit.optim import OptimizerConfig
from tests.conftest import Arrays


def made(**options: Any) -> PixPro:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
    return PixPro(encoder, PixPro.default_views(32), **{"hidden_dim": 8, "projection_dim": 4, **options}).eval()


def pair() -> list[Tensor]:
    """Two views and where they lie: the same place, half of it, and nowhere near."""
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0, 32, 32]] * 3), torch.tensor([[0.0, 0, 32, 32], [0, 32, 32, 0], [90, 90, 99, 99]])
    return [*torch.rand(2, 3, 3, 32, 32, generator=generator), *places]


def step(method: PixPro, views: list[Tensor]) -> dict[str, Tensor]:
    return method.step(views, Batch(views[0], torch.zeros(3), torch.arange(3)))


def near_by_hand(place: list[float], other: list[float], height: int, width: int, distance: float) -> list[list[bool]]:
    def centres(at: list[float]) -> list[tuple[float, float]]:
        y, x = (at[2] - at[0]) / height, (at[3] - at[1]) / width
        return [(at[0] + (i + 0.5) * y, at[1] + (j + 0.5) * x) for i in range(height) for j in range(width)]

    diagonal = max(math.hypot((at[2] - at[0]) / height, (at[3] - at[1]) / width) for at in (place, other))
    return [[math.dist(a, b) < distance * diagonal for b in centres(other)] for a in centres(place)]


def test_near_is_the_papers_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    places, others = (torch.rand(20, 4, generator=generator) * 40 for _ in range(2))  # flipped ones among them
    for height, width in ((3, 2), (4, 4)):
        found = near(places, others, height, width, 0.7)
        expected = [
            near_by_hand(a.tolist(), b.tolist(), height, width, 0.7) for a, b in zip(places, others, strict=True)
        ]
        assert found.tolist() == expected
        assert torch.equal(found.mT, near(others, places, height, width, 0.7))


def test_a_flipped_view_is_near_its_mirror_image() -> None:
    whole, flipped = torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[0.0, 8, 8, 0]])
    assert torch.equal(near(whole, whole, 2, 2)[0], torch.eye(4, dtype=torch.bool))
    assert near(whole, flipped, 2, 2)[0].int().argmax(1).tolist() == [1, 0, 3, 2]
    assert not near(whole, whole + 50, 2, 2).any()


def test_step_mixes_like_positions_and_compares_near_ones_both_ways() -> None:
    method, views = made().train(), pair()  # batch statistics, lest all positions look alike
    maps = [method.encoder.feature_map(view).flatten(2).mT for view in views[:2]]
    keys = [method.key_encoder.feature_map(view).flatten(2).mT for view in views[:2]]
    total, mixed = 0.0, []
    for feature in maps:
        x = method.projector(feature.flatten(0, 1)).view(3, 16, 4)
        value = F.normalize(method.value(x), dim=-1)
        like = F.cosine_similarity(x[:, :, None], x[:, None], dim=-1).clamp_min(0) ** 2
        mixed.append(torch.einsum("nij,njd->nid", like, value))
    for one, other in ((0, 1), (1, 0)):
        k = method.key_projector(keys[other].flatten(0, 1)).view(3, 16, 4)
        for n in (0, 1):
            close = torch.tensor(near_by_hand(views[2 + one][n].tolist(), views[2 + other][n].tolist(), 4, 4, 0.7))
            cosine = F.cosine_similarity(mixed[one][n][:, None], k[n][None], dim=-1)
            total -= cosine[close].mean().item() / 3
    found = step(method, views)
    assert found["loss"].item() == pytest.approx(total, abs=1e-5)
    assert found["near"].item() == pytest.approx(2 / 3)


def test_views_that_do_not_meet_have_no_gradient_and_others_only_through_the_online_network() -> None:
    method, views = made(), pair()
    step(method, [view.requires_grad_() for view in views[:2]] + views[2:])["loss"].backward()
    for view in views[:2]:
        assert view.grad is not None
        assert [bool(each.any()) for each in view.grad] == [True, True, False]
    assert all(p.grad is None for p in [*method.key_encoder.parameters(), *method.key_projector.parameters()])


def test_views_that_do_not_say_where_they_lie_are_refused() -> None:
    encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
    with pytest.raises(UsageError, match=r"pixpro must know where its views lie"):
        PixPro(encoder, byol_views(32))
    for name, value in {"distance": 0, "sharpness": 0, "momentum": 2}.items():
        with pytest.raises(UsageError, match=rf"--method.{name} is {value}: it must be"):
            made(**{name: value})


def blocks(count: int, seed: int) -> Arrays:
    """Blocks of random colours, 32 px."""
    rng = np.random.default_rng(seed)
    return Arrays(rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8).repeat(4, 2).repeat(4, 3))


@torch.no_grad()
def agreement(method: PixPro) -> tuple[float, float]:
    """Loss on 50 new images, and effective rank of their positions' projections."""
    images = torch.from_numpy(blocks(50, seed=1).pixels)
    torch.manual_seed(0)
    views = method.train().views(images)
    loss = method.step(views, Batch(images, torch.full((50,), -1), torch.arange(50)))["loss"].item()
    return loss, effective_rank(method._positions(method.encoder, method.projector, views[0])[0].flatten(0, 1).numpy())


def test_agreement_on_new_images_begins_without_collapse(train_quickly: Callable[..., Any]) -> None:
    """A beginning: most of it is a direction that all positions share (docs/methods.md)."""
    options: dict[str, Any] = {"hidden_dim": 256, "projection_dim": 64}
    views = {"crop_scale": (0.3, 1.0), "blur_p": (0.0, 0.0)}
    method = train_quickly(
        PixPro, blocks(300, seed=0), size=32, epochs=3, batch_size=50, optimizer=OptimizerConfig(lr=1e-3), views=views,
        method=options,
    )  # fmt: skip
    untrained = PixPro(method.encoder.reinitialized(0), method.views, **options)
    assert agreement(untrained)[0] == pytest.approx(0, abs=0.4)
    loss, rank = agreement(method)
    assert loss < -0.7
    assert rank > 10
