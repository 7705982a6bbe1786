"""iBOT and DINOv2: the teacher sees what the student does not, and hidden patches alone are compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_toolkit.contrastive import losses, token_losses
from ssl_toolkit.contrastive.ibot import IBOT, DINOv2
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError

BOTH = pytest.mark.parametrize("found", [IBOT, DINOv2])
N = 6


def made(found: type[IBOT] = IBOT, name: str = "test_vit", **options: Any) -> IBOT:
    """In eval mode, with a teacher that is not the student's copy any more."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name, image_size=16, load_size=16, patch_size=4, **options.pop("config", {})))
    sizes = {"hidden_dim": 8, "bottleneck_dim": 4, "prototypes": 8}
    method = found(encoder, found.default_views(16, local_count=2), **{**sizes, **options}).eval()
    with torch.no_grad():
        for key, p in method.named_parameters():
            if key.startswith("teacher_"):
                p += 0.1 * torch.randn_like(p)
        method.mask_token.normal_()
    return method


def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(N, 3, side, side, generator=generator) for side in (16, 16, 8, 8)]


def step(method: IBOT, views: list[Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return method.step(views, Batch(views[0], torch.zeros(N), torch.arange(N)))


def masks(method: IBOT, views: list[Tensor]) -> Tensor:
    """Hidden patches (2 N, L) of the next step."""
    torch.manual_seed(1)
    return method._masking(torch.cat(views[:2]))[0]


def hole(image: Tensor, other: Tensor, hidden: Tensor) -> Tensor:
    """Images with the hidden patches of another."""
    pixels = hidden.view(-1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.where(pixels, other, image)


def outputs(method: IBOT, views: list[Tensor]) -> dict[str, list[Tensor]]:
    """What goes through the networks in the next step, by their names."""
    found: dict[str, list[Tensor]] = {}
    hooks = [
        method.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: found.setdefault(name, []).append(out)
        )
        for name in ("encoder.backbone.norm", "teacher_encoder.backbone.norm", "head", "patch_head")
    ]
    step(method, views)
    for hook in hooks:
        hook.remove()
    return found


def by_hand(method: IBOT, views: list[Tensor], teacher_temperature: float = 0.04) -> tuple[float, float]:
    """Losses of images and of patches, pair by pair and patch by patch."""
    hidden = masks(method, views)
    before = None if method.centers is None else method.centers.clone()
    seen = outputs(method, views)
    if before is not None:
        method.centers.copy_(before)
    student = [*seen["encoder.backbone.norm"][0].chunk(2), *seen["encoder.backbone.norm"][1].chunk(2)]
    teacher = seen["teacher_encoder.backbone.norm"][0].chunk(2)

    def target(scores: Tensor, center: int) -> Tensor:
        if method.centers is None:
            return losses.sinkhorn(scores, teacher_temperature)
        return ((scores - method.centers[center]) / teacher_temperature).softmax(1)

    of_images = target(method.teacher_head(torch.cat([each[:, 0] for each in teacher])), 0).chunk(2)
    total, pairs = 0.0, 0
    for t, p in enumerate(of_images):
        for s, tokens in enumerate(student):
            if s != t:
                total -= (p * (method.head(tokens[:, 0]) / 0.1).log_softmax(1)).sum(1).mean().item()
                pairs += 1
    whole = torch.cat([each[:, 1:] for each in teacher])
    of_patches = target(method.teacher_patch_head(whole[hidden]), 1)
    answers = method.patch_head(torch.cat([each[:, 1:] for each in student[:2]])[hidden])
    cross = -(of_patches * (answers / 0.1).log_softmax(1)).sum(1)
    images = hidden.nonzero()[:, 0]
    patches = sum(cross[images == image].mean().item() for image in images.unique()) / (2 * N)
    return total / pairs, patches


@BOTH
def test_the_losses_are_those_of_crops_and_of_hidden_patches(found: type[IBOT]) -> None:
    method, views = made(found), crops()
    if method.centers is not None:
        method.centers.copy_(torch.randn(2, 8))
    images, patches = by_hand(method, views)
    scalars = step(method, views)
    assert scalars["image_loss"].item() == pytest.approx(images, rel=1e-4)
    assert scalars["patch_loss"].item() == pytest.approx(patches, rel=1e-4)
    koleo = 0.0
    if found is DINOv2:
        student = outputs(method, views)["encoder.backbone.norm"][0]
        koleo = sum(token_losses.koleo(each[:, 0]).item() for each in student.chunk(2))
    assert scalars["loss"].item() == pytest.approx(images + patches + 0.1 * koleo, rel=1e-4)


def test_the_student_sees_mask_tokens_and_the_teacher_does_not() -> None:
    method, views = made(), crops()
    hidden = masks(method, views)
    other = torch.rand(2 * N, 3, 16, 16)
    mixed = [*hole(torch.cat(views[:2]), other, hidden).chunk(2), *views[2:]]
    ours, theirs = outputs(method, views), outputs(method, mixed)
    assert torch.equal(ours["encoder.backbone.norm"][0], theirs["encoder.backbone.norm"][0])
    assert not torch.equal(ours["teacher_encoder.backbone.norm"][0], theirs["teacher_encoder.backbone.norm"][0])


def test_local_crops_are_whole() -> None:
    method, views = made(), crops()
    tokens = outputs(method, views)["encoder.backbone.norm"][1]
    torch.testing.assert_close(tokens[:N, 0], method.encoder(views[2]))


def test_visible_patches_are_not_compared() -> None:
    method, views = made(), crops()
    tokens: list[Tensor] = []
    method.encoder.backbone.norm.register_forward_hook(
        lambda module, args, out: (tokens.append(out), out.retain_grad())[-1]
    )
    step(method, views)["loss"].backward()
    assert tokens[0].grad is not None
    assert torch.equal(tokens[0].grad[:, 1:].abs().sum(2) > 0, masks(method, views))
    assert (tokens[0].grad[:, 0].abs().sum(1) > 0).all()


@BOTH
def test_only_the_student_is_trained(found: type[IBOT]) -> None:
    method = made(found)
    step(method, crops())["loss"].backward()
    for name, p in method.named_parameters():
        assert (p.grad is None) == name.startswith("teacher_"), name


def test_heads_are_shared_or_apart() -> None:
    shared, apart = made(), made(DINOv2)
    assert shared.patch_head is shared.head
    assert shared.teacher_patch_head is shared.teacher_head
    assert apart.patch_head is not apart.head
    assert apart.teacher_patch_head is not apart.teacher_head
    assert len(outputs(shared, crops())["head"]) == 2
    assert len(outputs(apart, crops())["head"]) == len(outputs(apart, crops())["patch_head"]) == 1


@BOTH
def test_the_teacher_follows_with_both_heads_and_is_kept(found: type[IBOT]) -> None:
    method = made(found, momentum=0.9)
    names = ("teacher_encoder", "teacher_head", "teacher_patch_head")
    before = {name: [p.clone() for p in method.get_submodule(name).parameters()] for name in names}
    method.after_update()
    for name in names:
        leader = method.get_submodule(name.removeprefix("teacher_"))
        for p, old, new in zip(method.get_submodule(name).parameters(), before[name], leader.parameters(), strict=True):
            torch.testing.assert_close(p, 0.9 * old + 0.1 * new)
    assert method.kept_encoder is method.teacher_encoder


def test_the_centres_move_after_the_loss_by_the_means_of_images_and_of_hidden_patches() -> None:
    method, views = made(center_momentum=0.7), crops()
    assert method.centers is not None
    method.centers.copy_(torch.randn(2, 8))
    before = method.centers.clone()
    teacher = outputs(method, views)["teacher_encoder.backbone.norm"][0]
    method.centers.copy_(before)
    step(method, views)
    means = [method.teacher_head(x).mean(0) for x in (teacher[:, 0], teacher[:, 1:][masks(method, views)])]
    torch.testing.assert_close(method.centers, 0.7 * before + 0.3 * torch.stack(means))
    assert "centers" in method.state_dict()
    assert "centers" not in made(DINOv2).state_dict()


@pytest.mark.parametrize(("share", "count"), [(0.5, N), (0.01, 1), (1.0, 2 * N)])
def test_patches_are_hidden_in_a_share_of_the_crops(share: float, count: int) -> None:
    method = made(mask_share=share, mask_ratio=(0.25, 0.5))
    hidden = masks(method, crops()).sum(1)
    assert (hidden > 0).sum() == count
    assert set(hidden.tolist()) <= {0, *range(4, 9)}
    rare = made(mask_ratio=(0.001, 0.002))
    assert masks(rare, crops()).sum(1).max() == 1


def test_prototypes_that_are_all_alike_are_chance() -> None:
    method = made()
    for head in (method.head, method.teacher_head):
        torch.nn.init.zeros_(head[0][-1].weight)
        torch.nn.init.zeros_(head[0][-1].bias)
    assert step(method, crops())["loss"].item() == pytest.approx(method.chance_loss(N), rel=1e-4)
    assert method.chance_loss(N) == pytest.approx(1.5 * math.log(8))
    assert made(DINOv2).chance_loss(N) is None


def test_registers_are_no_patches() -> None:
    method = made(DINOv2, config={"registers": 3})
    seen = outputs(method, crops())
    assert seen["encoder.backbone.norm"][0].shape[1] == 1 + 3 + 16
    assert len(seen["patch_head"][0]) == masks(method, crops()).sum()


def test_options_make_one_of_the_other() -> None:
    like = made(IBOT, centering="sinkhorn", shared_head=False, koleo_weight=0.1)
    like.load_state_dict(made(DINOv2).state_dict())
    assert step(like, crops())["loss"].item() == step(made(DINOv2), crops())["loss"].item()


def test_paths_are_dropped_in_the_student_alone() -> None:
    method = made(drop_path=0.5).train()
    image = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(method.teacher_encoder(image), method.teacher_encoder(image))
        assert not torch.equal(method.encoder(image), method.encoder(image))


@BOTH
def test_the_last_layers_are_frozen_in_the_first_epoch(
    found: type[IBOT], train_quickly: Callable, noise_images: Callable
) -> None:
    sizes = {"hidden_dim": 8, "bottleneck_dim": 4, "prototypes": 8}
    for epochs in (1, 2):
        method = train_quickly(found, noise_images(16), out=f"{epochs}", epochs=epochs, method=sizes, seed=0)
        weights = [head[-1].weight for head in (method.head, method.patch_head)]
        if epochs == 1:
            first = [weight.clone() for weight in weights]
    moved = [not torch.allclose(a, b) for a, b in zip(first, weights, strict=True)]
    assert moved == [True, True]
    untrained = train_quickly(found, noise_images(16), out="0", epochs=0, method=sizes, seed=0)
    assert all(
        torch.equal(a, head[-1].weight) for a, head in zip(first, (untrained.head, untrained.patch_head), strict=True)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": (0.5, 0.1)}, r"--method.mask-ratio is 0.5 0.1: it must be two shares"),
        ({"mask_share": 0.0}, r"--method.mask-share is 0.0: it must be above 0"),
        ({"mask_share": 1.5}, r"--method.mask-share is 1.5: it must be from 0 to 1"),
        ({"prototypes": 0}, r"--method.prototypes is 0: it must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**options)


def test_other_networks_are_refused_by_name() -> None:
    encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    with pytest.raises(UsageError, match="dinov2 hides patches, which convnet cannot"):
        DINOv2(encoder, DINOv2.default_views(16))
