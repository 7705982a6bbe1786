"""data2vec 2.0: several masks share a target, which is averaged over normalised blocks of a teacher that sees all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_toolkit.contrastive import data2vec2
from ssl_toolkit.contrastive.data2vec2 import ConvDecoder, Data2Vec2, averaged_layers
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.encoders.tokens import mlp_outputs
from ssl_toolkit.errors import UsageError
from ssl_toolkit.masking import inverse_block_masking

N = 3


def made(name: str = "test_vit", **options: Any) -> Data2Vec2:
    """In eval mode, with a teacher that is not the student's copy any more."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name, image_size=32, load_size=32, patch_size=4, pool=Data2Vec2.encoder_pool))
    sizes = {"masks": 2, "decoder_dim": 16, "decoder_depth": 2}
    method = Data2Vec2(encoder, Data2Vec2.default_views(32), **{**sizes, **options}).eval()
    with torch.no_grad():
        for p in method.teacher_encoder.parameters():
            p += 0.05 * torch.randn_like(p)
    return method


def step(method: Data2Vec2, image: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return method.step([image], Batch(image, torch.zeros(N), torch.arange(N)))


def hidden(method: Data2Vec2) -> Tensor:
    """Of the next step, (N M, L)."""
    torch.manual_seed(1)
    return inverse_block_masking(N * method.masks, (8, 8), method.mask_ratio, method.mask_patches)[1]


def flow(method: Data2Vec2, image: Tensor) -> dict[str, Tensor]:
    """What the decoder is given and gives, and the last tokens, in the next step."""
    found: dict[str, Tensor] = {}
    hooks = [
        method.decoder.register_forward_hook(lambda module, args, out: found.update(given=args[0], predicted=out)),
        method.encoder.backbone.norm.register_forward_hook(lambda module, args, out: found.update(tokens=out)),
    ]
    step(method, image)
    for hook in hooks:
        hook.remove()
    return found


def averaged_numpy(outputs: np.ndarray) -> np.ndarray:
    """``make_targets`` of the authors' code, image by image: (K, N, L, D) to (N, L, D)."""
    mean = np.mean([(x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) for x in outputs], axis=0)
    return (mean - mean.mean(2, keepdims=True)) / np.sqrt(mean.var(2, keepdims=True) + 1e-5)


def test_targets_are_normalised_before_and_after_they_are_averaged() -> None:
    outputs = np.random.default_rng(0).normal(size=(4, 2, 9, 6)) * np.array([1, 10, 0.1, 3])[:, None, None, None]
    found = averaged_layers([torch.from_numpy(each) for each in outputs])
    np.testing.assert_allclose(found.numpy(), averaged_numpy(outputs), atol=1e-3)


@pytest.mark.parametrize("layers", [2, 10])
def test_targets_are_what_the_teachers_mlps_give_of_the_whole_image(layers: int) -> None:
    method, image = made(layers=layers), torch.rand(N, 3, 32, 32)
    backbone, expected = method.teacher_encoder.backbone, []
    tokens = backbone._pos_embed(backbone.patch_embed(method.encoder.normalize(image)))
    for block in backbone.blocks:
        attended = tokens + block.ls1(block.attn(block.norm1(tokens)))
        expected.append(block.mlp(block.norm2(attended)))
        tokens = attended + block.ls2(expected[-1])
    found = mlp_outputs(method.teacher_encoder, image, layers)
    assert len(found) == min(layers, len(backbone.blocks))
    for ours, theirs in zip(found, expected[-layers:], strict=True):
        torch.testing.assert_close(ours, theirs[:, 1:])
    assert not any(block.mlp._forward_hooks for block in backbone.blocks)


def test_the_loss_is_of_hidden_patches_and_of_the_class_token() -> None:
    method, image = made(class_weight=0.5), torch.rand(N, 3, 32, 32)
    seen, mask = flow(method, image), hidden(method)
    target = averaged_layers(mlp_outputs(method.teacher_encoder, image, 10)).repeat_interleave(2, 0)
    patches = (seen["predicted"] - target)[mask].square().sum(1).mean() / 8  # the root of 64
    token = (seen["tokens"][:, 0] - target.mean(1)).square().sum(1).mean() / 8
    assert step(method, image)["loss"].item() == pytest.approx((patches + 0.5 * token).item(), rel=1e-4)
    own = averaged_layers(mlp_outputs(method.encoder, image, 10)).repeat_interleave(2, 0)
    assert not torch.allclose(own, target, atol=1e-2)


def test_nothing_of_a_hidden_patch_reaches_what_predicts_it() -> None:
    method, (image, other) = made(masks=1), torch.rand(2, N, 3, 32, 32)
    mask = hidden(method)
    pixels = mask.view(N, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    ours, theirs = flow(method, image), flow(method, torch.where(pixels, other, image))
    assert torch.equal(ours["predicted"], theirs["predicted"])
    changed = flow(method, torch.where(pixels, image, other))
    assert not torch.equal(ours["predicted"], changed["predicted"])


def test_visible_patches_are_no_target() -> None:
    method, image = made(class_weight=0.0), torch.rand(N, 3, 32, 32)
    out: list[Tensor] = []
    method.decoder.register_forward_hook(lambda module, args, found: (out.append(found), found.retain_grad())[-1])
    step(method, image)["loss"].backward()
    assert out[0].grad is not None
    assert torch.equal(out[0].grad.abs().sum(2) > 0, hidden(method))


def test_masks_of_an_image_differ_and_share_one_pass_of_the_teacher() -> None:
    method, rows = made(masks=4), []
    method.teacher_encoder.backbone.blocks[0].register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    method.encoder.backbone.blocks[0].register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[:2]))
    step(method, torch.rand(N, 3, 32, 32))
    assert rows == [N, (4 * N, 1 + 13)]  # a fifth of 64 patches
    assert len(hidden(method).unique(dim=0)) > 3 * N


def test_in_the_place_of_hidden_patches_is_a_little_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    method, image = made(), torch.rand(N, 3, 32, 32)
    mask = hidden(method)
    given = flow(method, image)["given"]
    assert given[mask].std().item() == pytest.approx(0.01, rel=0.1)
    monkeypatch.setattr(data2vec2, "NOISE", 0.0)
    assert torch.equal(flow(method, image)["given"][~mask], given[~mask])


def test_the_decoder_sees_neighbours_alone() -> None:
    torch.manual_seed(0)
    decoder = ConvDecoder(32, 16, 1)
    tokens = torch.rand(1, 25, 32)
    changed = tokens.clone()
    changed[0, 12] += 1  # the middle of five by five
    moved = (decoder(tokens, (5, 5)) - decoder(changed, (5, 5))).abs().sum(2).view(5, 5) > 1e-6
    assert moved.sum() == 9
    assert moved[1:4, 1:4].all()


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_only_the_student_is_trained_and_kept(name: str) -> None:
    method = made(name)
    step(method, torch.rand(N, 3, 32, 32))["loss"].backward()
    for key, p in method.named_parameters():
        assert (p.grad is None) == key.startswith("teacher_"), key
    assert method.kept_encoder is method.encoder


@pytest.mark.parametrize(("done", "momentum"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_the_teacher_follows_ever_more_slowly(done: float, momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    method = made(momentum=0.9)
    monkeypatch.setattr(Data2Vec2, "progress", property(lambda self: done))
    before, target = method.teacher_encoder.backbone.norm.weight.clone(), method.encoder.backbone.norm.weight
    method.after_update()
    torch.testing.assert_close(method.teacher_encoder.backbone.norm.weight, before.lerp(target, 1 - momentum))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.0}, r"--method.mask-ratio is 0.0: it must be above 0 and below 1"),
        ({"masks": 0}, r"--method.masks is 0: it must be above 0"),
        ({"class_weight": -1.0}, r"--method.class-weight is -1.0: it must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**options)
