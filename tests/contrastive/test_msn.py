"""MSN: patches are left out of the global anchors alone, and the target network sees another, whole view."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_toolkit.contrastive import token_losses
from ssl_toolkit.contrastive.msn import MSN
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.encoders.tokens import pool, visible_tokens
from ssl_toolkit.errors import UsageError
from ssl_toolkit.masking import random_masking

N = 6


def made(**options: Any) -> MSN:
    """In eval mode, with a target network that is not the trained one's copy any more."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("test_vit", image_size=16, load_size=16, patch_size=4))
    sizes = {"hidden_dim": 8, "projection_dim": 4, "prototypes": 8}
    method = MSN(encoder, MSN.default_views(16, local_count=2), **{**sizes, **options}).eval()
    with torch.no_grad():
        for key, p in method.named_parameters():
            if key.startswith("teacher_"):
                p += 0.05 * torch.randn_like(p)
    return method


def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(N, 3, side, side, generator=generator) for side in (16, 16, 8, 8)]


def step(method: MSN, views: list[Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return method.step(views, Batch(views[0], torch.zeros(N), torch.arange(N)))


def visible(ratio: float) -> Tensor:
    """Places of the next step's patches."""
    torch.manual_seed(1)
    return random_masking(N, 16, ratio)[0]


@pytest.mark.parametrize("balance", [True, False])
def test_the_loss_is_of_the_masked_anchor_and_the_whole_local_ones(balance: bool) -> None:
    method, views = made(mask_ratio=0.5, balance=balance), crops()
    masked = pool(method.encoder, visible_tokens(method.encoder, views[1], visible(0.5)))
    features = [masked, method.encoder(views[2]), method.encoder(views[3])]
    anchors = [method.prototypes(method.head(each)) for each in features]
    target = method.prototypes(method.teacher_head(method.teacher_encoder(views[0])))
    expected = token_losses.msn(anchors, target, balance=balance).item()
    assert step(method, views)["loss"].item() == pytest.approx(expected, rel=1e-5)
    whole = [method.prototypes(method.head(method.encoder(view))) for view in views[1:]]
    assert token_losses.msn(whole, target, balance=balance).item() != pytest.approx(expected, rel=3e-5)


def test_what_is_left_out_reaches_no_anchor() -> None:
    method, views, other = made(mask_ratio=0.5), crops(), torch.rand(N, 3, 16, 16)
    shown = torch.zeros(N, 16, dtype=torch.bool).scatter(1, visible(0.5), True).view(N, 1, 4, 4)
    pixels = shown.repeat_interleave(4, 2).repeat_interleave(4, 3)
    mixed = [views[0], torch.where(pixels, views[1], other), *views[2:]]
    assert step(method, mixed)["loss"].item() == step(method, views)["loss"].item()


def test_only_the_anchors_have_a_gradient() -> None:
    method, views = made(), [view.requires_grad_() for view in crops()]
    step(method, views)["loss"].backward()
    assert views[0].grad is None
    assert all(view.grad is not None and view.grad.abs().sum() > 0 for view in views[1:])
    for name, p in method.named_parameters():
        assert (p.grad is None) == name.startswith("teacher_"), name


def test_without_local_crops_and_with_more_global_ones() -> None:
    method, views = made(), crops()
    rows: list[int] = []
    method.head.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    assert step(method, views[:2])["loss"].isfinite()
    assert step(method, [views[0], *views[:2], *views[2:]])["loss"].isfinite()
    assert rows == [N, 2 * N, 2 * N]  # what a batch norm sees together


def test_the_target_network_follows() -> None:
    method = made(momentum=0.9)
    for name in ("encoder", "head"):
        follower, leader = (list(method.get_submodule(each).parameters()) for each in (f"teacher_{name}", name))
        before = [p.clone() for p in follower]
        method.after_update()
        assert any(not torch.equal(a, b) for a, b in zip(before, leader, strict=True))
        for p, old, new in zip(follower, before, leader, strict=True):
            torch.testing.assert_close(p, 0.9 * old + 0.1 * new)
        method = made(momentum=0.9)
    assert method.kept_encoder is method.teacher_encoder


def test_prototypes_that_are_all_alike_are_chance() -> None:
    method = made()
    with torch.no_grad():
        method.prototypes.weight.copy_(method.prototypes.weight[:1].expand(8, -1))
    assert step(method, crops())["loss"].item() == pytest.approx(math.log(8), rel=1e-4)
    assert method.chance_loss(N) == math.log(8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, r"--method.mask-ratio is 1.0: it must be above 0 and below 1"),
        ({"temperature": 0}, r"--method.temperature is 0: it must be above 0"),
        ({"momentum": -1.0}, r"--method.momentum is -1.0: it must be from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**options)
