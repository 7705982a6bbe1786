"""MoCo v1, v2 and v3: a key is scored before it is queued, the heads are the papers', a ViT's patches stay random."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.contrastive.losses import info_nce
from ssl_toolkit.contrastive.moco import MoCo, MoCoV3
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.optim import OptimizerConfig


def moco(encoder: Encoder, **options: Any) -> MoCo:
    options = {"hidden_dim": 8, "projection_dim": 4, "queue_size": 16, **options}
    return MoCo(encoder, MoCo.default_views(16), **options)


def moco_v3(encoder: Encoder, size: int = 16, **options: Any) -> MoCoV3:
    options = {"hidden_dim": 8, "projection_dim": 4, **options}
    return MoCoV3(encoder, MoCoV3.default_views(size), OptimizerConfig(lr=0.01), **options)


def some_batch(size: int = 16, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return Batch(image, torch.zeros(count), torch.arange(count))


def by_hand(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> float:
    """Equation 1 of the paper, its sum written out."""
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    total = 0.0
    for query, key in zip(q, k, strict=True):
        scores = torch.stack([query @ key, *(query @ past for past in queue)]) / temperature
        total -= scores.log_softmax(0)[0].item()
    return total / len(q)


def test_keys_are_scored_against_the_queue_as_it_was_before_them(small_encoder: Encoder) -> None:
    method = moco(small_encoder, temperature=0.3).eval()
    views, before = method.views(some_batch().image), method.queue.vectors.clone()
    q = method.projector(method.encoder(views[0]))
    k = method.key_projector(method.key_encoder(views[1]))
    loss = method.step(views, some_batch())["loss"]
    assert loss.item() == pytest.approx(by_hand(q, k, before, 0.3), abs=1e-5)
    torch.testing.assert_close(method.queue.vectors[:6], F.normalize(k, dim=1))
    assert torch.equal(method.queue.vectors[6:], before[6:])
    assert method.queue.position == 6


def test_gradient_is_that_of_the_queue_before_the_step(small_encoder: Encoder) -> None:
    # The queue is overwritten before the backward pass, which must not notice.
    method = moco(small_encoder, queue_size=6).eval()
    views, before = method.views(some_batch().image), method.queue.vectors.clone()
    weight = method.projector[0].weight
    loss = method.step(views, some_batch())["loss"]
    q = F.normalize(method.projector(method.encoder(views[0])), dim=1)
    k = F.normalize(method.key_projector(method.key_encoder(views[1])), dim=1)
    scores = torch.cat([(q * k).sum(1, keepdim=True), q @ before.T], dim=1) / 0.2
    expected = torch.autograd.grad(F.cross_entropy(scores, torch.zeros(6, dtype=torch.int64)), weight)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], expected, rtol=1e-4, atol=1e-6)


def test_no_gradient_through_the_keys(small_encoder: Encoder) -> None:
    method = moco(small_encoder)
    views = [view.requires_grad_() for view in method.views(some_batch().image)]
    method.step(views, some_batch())["loss"].backward()
    assert views[0].grad is not None
    assert views[1].grad is None


def test_a_batch_may_be_larger_than_the_queue(small_encoder: Encoder) -> None:
    method = moco(small_encoder, queue_size=4).eval()
    views = method.views(some_batch().image)
    k = F.normalize(method.key_projector(method.key_encoder(views[1])), dim=1)
    assert torch.isfinite(method.step(views, some_batch())["loss"])
    torch.testing.assert_close(method.queue.vectors, k[-4:])


def test_the_queue_is_saved_and_not_trained(small_encoder: Encoder) -> None:
    method = moco(small_encoder)
    assert {"queue.vectors", "queue.position"} <= method.state_dict().keys()
    assert not list(method.queue.parameters())


def test_v1_has_a_linear_head_and_v2_an_mlp(small_encoder: Encoder) -> None:
    linear, mlp = moco(small_encoder, head="linear").projector, moco(small_encoder).projector
    assert [type(layer) for layer in linear] == [nn.Linear]
    assert [type(layer) for layer in mlp] == [nn.Linear, nn.ReLU, nn.Linear]
    assert (linear[0].in_features, linear[0].out_features) == (256, 4)
    assert (mlp[0].in_features, mlp[0].out_features, mlp[2].out_features) == (256, 8, 4)


def test_v3_is_symmetric_among_the_keys_of_the_batch(small_encoder: Encoder) -> None:
    method = moco_v3(small_encoder, temperature=0.3).eval()
    views = method.views(some_batch().image)
    q = [F.normalize(method.predictor(method.projector(method.encoder(view))), dim=1) for view in views]
    k = [F.normalize(method.key_projector(method.key_encoder(view)), dim=1) for view in views]
    one_way = [F.cross_entropy(q[a] @ k[b].T / 0.3, torch.arange(6)).item() for a, b in ((0, 1), (1, 0))]
    loss = method.step(views, some_batch())["loss"].item()
    assert loss == pytest.approx(2 * 0.3 * sum(one_way), abs=1e-5)
    assert method.step(views[::-1], some_batch())["loss"].item() == pytest.approx(loss, abs=1e-5)


def test_v3_predicts_on_the_side_of_the_queries_alone(small_encoder: Encoder) -> None:
    method = moco_v3(small_encoder)
    seen: list[bool] = []
    method.predictor.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    method.step(method.views(some_batch().image), some_batch())
    assert seen == [True, True]
    assert not hasattr(method, "queue")


def vit() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig("test_vit", image_size=32, load_size=32))


def after_a_step(method: MoCoV3) -> None:
    optimizer = method.configure_optimizers()["optimizer"]
    method.step(method.views(some_batch(32).image), some_batch(32))["loss"].backward()
    optimizer.step()
    method.after_update()


def test_v3_leaves_the_patch_embedding_of_a_vit_alone() -> None:
    method = moco_v3(vit(), size=32, momentum=0.5)
    before = {name: p.detach().clone() for name, p in method.encoder.backbone.named_parameters()}
    after_a_step(method)
    for encoder in (method.encoder, method.key_encoder):
        same = {name for name, p in encoder.backbone.named_parameters() if torch.equal(p, before[name])}
        assert same == {"patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_v3_trains_the_patch_embedding_if_asked_to() -> None:
    method = moco_v3(vit(), size=32, freeze_patch_embed=False)
    before = method.encoder.backbone.patch_embed.proj.weight.detach().clone()
    after_a_step(method)
    assert not torch.equal(method.encoder.backbone.patch_embed.proj.weight, before)


def test_v3_trains_all_of_a_cnn(small_encoder: Encoder) -> None:
    assert all(p.requires_grad for p in moco_v3(small_encoder).encoder.parameters())


def test_v3_heads(small_encoder: Encoder) -> None:
    hidden, last = [nn.Linear, nn.BatchNorm1d, nn.ReLU], [nn.Linear, nn.BatchNorm1d]
    for encoder, depth, predicted in ((small_encoder, 1, last[:1]), (vit(), 2, last)):
        method = moco_v3(encoder)
        assert [type(layer) for layer in method.projector] == hidden * depth + last
        assert [type(layer) for layer in method.predictor] == hidden + predicted
        linear = [layer for layer in (*method.projector, *method.predictor) if isinstance(layer, nn.Linear)]
        assert all(layer.bias is None for layer in linear)  # as the authors' ``_build_mlp``


def test_hard_negatives_are_off_unless_asked_for(small_encoder: Encoder) -> None:
    views = list(torch.rand(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    first = moco(small_encoder).eval()
    q = first.projector(first.encoder(views[0]))
    k = first.key_projector(first.key_encoder(views[1]))
    plain, hard = (info_nce(q, k, first.queue.vectors, 0.2, *options).item() for options in ((), (1.0, 0.05)))
    assert plain != pytest.approx(hard, abs=1e-3)
    assert first.step(views, some_batch())["loss"].item() == pytest.approx(plain, abs=1e-5)
    torch.manual_seed(0)
    second = moco(small_encoder, hardness=1.0, false_negatives=0.05).eval()
    assert second.step(views, some_batch())["loss"].item() == pytest.approx(hard, abs=1e-5)
    for name, value in (("hardness", -1), ("hardness", float("inf")), ("false_negatives", 1.0)):
        with pytest.raises(UsageError, match=rf"--method.{name.replace('_', '-')} is {value}: it must be at least 0"):
            moco(small_encoder, **{name: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", 0), ("temperature", -0.1), ("queue_size", 0), ("hidden_dim", 0), ("projection_dim", -1)],
)
def test_options_that_must_be_above_zero(small_encoder: Encoder, option: str, value: float) -> None:
    message = rf"^--method.{option.replace('_', '-')} is {value}: it must be above 0$"
    with pytest.raises(UsageError, match=message):
        moco(small_encoder, **{option: value})
    if option != "queue_size":
        with pytest.raises(UsageError, match=message):
            moco_v3(small_encoder, **{option: value})
