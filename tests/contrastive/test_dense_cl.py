"""DenseCL: positions are matched by the features, compared by the projections, and queued as their mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.contrastive.dense_cl import DenseCL, corresponding
from ssl_toolkit.contrastive.losses import info_nce
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError


def made(**options: Any) -> DenseCL:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
    options = {"hidden_dim": 8, "projection_dim": 4, "queue_size": 16, **options}
    return DenseCL(encoder, DenseCL.default_views(32), **options).eval()


def pair() -> list[Tensor]:
    return list(torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


def step(method: DenseCL, views: list[Tensor]) -> dict[str, Tensor]:
    return method.step(views, Batch(views[0], torch.zeros(6), torch.arange(6)))


def test_positions_correspond_by_cosine_whatever_their_length() -> None:
    e = torch.eye(4)
    features = torch.stack([e[[2, 0, 1]], e[[3, 3, 0]]])
    others = torch.stack([e, 5 * e[[3, 0, 1, 2]]])
    assert corresponding(features, others).tolist() == [[2, 0, 1], [0, 0, 1]]
    near = torch.tensor([[[1.0, 0.001], [1.0, 0.0]]])
    with torch.autocast("cpu", torch.bfloat16):
        assert corresponding(near, near).tolist() == [[0, 1]]


def test_step_matches_by_features_and_compares_projections() -> None:
    method, views = made(dense_weight=0.3), pair()
    queues = method.queue.vectors.clone(), method.dense_queue.vectors.clone()
    feature_map, key_map = method.encoder.feature_map(views[0]), method.key_encoder.feature_map(views[1])
    positions = [(n, y, x) for n in range(6) for y in range(4) for x in range(4)]
    q, k = [], []
    for n, y, x in positions:
        here = feature_map[n, :, y, x]
        alike = F.cosine_similarity(here[:, None], key_map[n].flatten(1), dim=0)
        q.append(method.dense_projector(here))
        k.append(method.key_dense_projector(key_map[n].flatten(1)[:, alike.argmax()]))
    local = info_nce(torch.stack(q), torch.stack(k), queues[1], 0.2).item()
    whole = info_nce(
        method.projector(method.encoder(views[0])), method.key_projector(method.key_encoder(views[1])), queues[0], 0.2
    ).item()
    found = step(method, views)
    assert found["local_loss"].item() == pytest.approx(local, abs=1e-5)
    assert found["whole_loss"].item() == pytest.approx(whole, abs=1e-5)
    assert found["loss"].item() == pytest.approx(0.7 * whole + 0.3 * local, abs=1e-5)
    mean = method.key_dense_projector(key_map.flatten(2).mT).mean(1)
    torch.testing.assert_close(method.dense_queue.vectors[:6], F.normalize(mean, dim=1))
    assert torch.equal(method.dense_queue.vectors[6:], queues[1][6:])


def test_without_positions_it_is_moco() -> None:
    method, views = made(dense_weight=0.0), pair()
    q, k = method.projector(method.encoder(views[0])), method.key_projector(method.key_encoder(views[1]))
    expected = info_nce(q, k, method.queue.vectors, 0.2).item()
    assert step(method, views)["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_no_gradient_reaches_the_keys_and_both_key_heads_follow() -> None:
    method, views = made(momentum=0.9), [view.requires_grad_() for view in pair()]
    step(method, views)["loss"].backward()
    assert views[0].grad is not None
    assert views[1].grad is None
    for name in ("projector", "dense_projector"):
        follower, leader = getattr(method, f"key_{name}")[0].weight, getattr(method, name)[0].weight
        before = follower.clone()
        with torch.no_grad():
            leader += 1
        method.after_update()
        torch.testing.assert_close(follower, before + 0.1)
        with torch.no_grad():
            leader -= 1


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--method.dense-weight is 2: it must be from 0 to 1"):
        made(dense_weight=2)
