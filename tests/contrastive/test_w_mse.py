"""W-MSE: all pairs of views count, slices are drawn anew in each step, batches too small to whiten are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_toolkit.augment import simclr_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.w_mse import WMSE
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


def made(encoder: Encoder, count: int = 2, **options: Any) -> WMSE:
    torch.manual_seed(0)
    options = {"hidden_dim": 8, "projection_dim": 3, "eps": 0.05, **options}
    return WMSE(encoder, simclr_views(16, count=count), **options).eval()


def step(method: WMSE, views: list[Tensor]) -> float:
    n = len(views[0])
    return method.step(views, Batch(views[0], torch.zeros(n), torch.arange(n)))["loss"].item()


@pytest.mark.parametrize("count", [2, 4])
def test_step_is_the_papers_loss_of_all_pairs_of_views(small_encoder: Encoder, count: int) -> None:
    method, views = made(small_encoder, count), list(torch.rand(count, 10, 3, 16, 16))
    z = [method.projector(method.encoder(view)) for view in views]
    pairs = [losses.w_mse([z[a], z[b]], eps=0.05).item() for a in range(count) for b in range(a)]
    assert step(method, views) == pytest.approx(sum(pairs) / len(pairs), abs=1e-4)


def test_slices_are_others_in_each_step_and_seed_and_the_mean_is_over_slicings(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, found = list(torch.rand(2, 12, 3, 16, 16)), []
    for seed, number in ((0, 0), (0, 0), (0, 1), (1, 0)):
        monkeypatch.setattr(WMSE, "global_step", number)
        method = made(small_encoder, slice_size=6)
        method.seed = seed
        found.append(step(method, views))
    assert found[0] == found[1]
    assert len(set(found)) == 3
    many = step(made(small_encoder, slice_size=6, slicings=50), views)
    assert min(found) - 0.2 < many < max(found) + 0.2
    assert many not in found


def test_a_batch_that_does_not_span_the_features_is_refused(
    train_quickly: Callable[..., Any], noise_images: Callable[..., Any]
) -> None:
    for number, options in {8: {"projection_dim": 8}, 4: {"projection_dim": 4, "slice_size": 4}}.items():
        with pytest.raises(UsageError, match=rf"{number} images do not span the {number} features .* --batch-size"):
            train_quickly(WMSE, noise_images(16), out=f"{number}", method={"hidden_dim": 8, **options})


def test_options_out_of_range_are_refused(small_encoder: Encoder) -> None:
    for name, value in {"slice_size": 0, "slicings": 0, "eps": 0, "projection_dim": 0}.items():
        with pytest.raises(UsageError, match=rf"--method.{name.replace('_', '-')} is 0: it must be above 0"):
            made(small_encoder, **{name: value})
    with pytest.raises(UsageError, match=r"--method.eps is 2: it must be at most 1"):
        made(small_encoder, eps=2)
    with pytest.raises(UsageError, match=r"got 1: give --views.count 2 or more"):
        made(small_encoder, count=1)
