"""I-JEPA: the context knows nothing of the blocks, the teacher sees all, and no gradient reaches it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.contrastive.i_jepa import IJEPA, Predictor
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError


def made(name: str = "test_vit", size: int = 32, patch: int = 4, **options: Any) -> IJEPA:
    torch.manual_seed(0)
    config = EncoderConfig(name, image_size=size, load_size=size, patch_size=patch, pool=IJEPA.encoder_pool)
    return parted(IJEPA(Encoder(config), IJEPA.default_views(size), **{"predictor_dim": 16, **options}))


def parted(method: IJEPA) -> IJEPA:
    """With a teacher that is not the student's copy any more, in eval mode."""
    with torch.no_grad():
        for p in method.teacher_encoder.parameters():
            p += 0.05 * torch.randn_like(p)
    return method.eval()


def step(method: IJEPA, image: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return method.step([image], Batch(image, torch.zeros(len(image)), torch.arange(len(image))))


def masks(method: IJEPA, image: Tensor) -> tuple[Tensor, Tensor]:
    """Of the next step."""
    torch.manual_seed(1)
    return method._masking(image)


def painted(image: Tensor, other: Tensor, places: Tensor) -> Tensor:
    """Images of 32 px with the patches (N, K) of another in their places, the slow and obvious way."""
    mixed = image.clone()
    for number, row in enumerate(places.tolist()):
        for place in row:
            y, x = 4 * (place // 8), 4 * (place % 8)
            mixed[number, :, y : y + 4, x : x + 4] = other[number, :, y : y + 4, x : x + 4]
    return mixed


def seen_and_predicted(method: IJEPA, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the predictor is given and gives, and the teacher's tokens of the whole image, in the next step."""
    found: list[Tensor] = []
    hooks = [
        method.predictor.register_forward_hook(lambda module, args, out: found.extend([args[0], out])),
        method.teacher_encoder.backbone.norm.register_forward_hook(lambda module, args, out: found.append(out)),
    ]
    step(method, image)
    for hook in hooks:
        hook.remove()
    teacher, seen, predicted = found
    return seen, predicted, teacher


def test_the_loss_is_the_smooth_error_of_the_blocks_that_the_teacher_makes_of_the_whole_image() -> None:
    method, image = made(), torch.rand(3, 3, 32, 32)
    _, predicted, _ = seen_and_predicted(method, image)
    _, blocks = masks(method, image)
    whole = method.teacher_encoder.tokens(image)
    expected = [
        F.smooth_l1_loss(predicted[n, m], F.layer_norm(whole[n, blocks[n, m]], (64,)))
        for n in range(3)
        for m in range(4)
    ]
    scalars = step(method, image)
    assert scalars["loss"].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    own = F.layer_norm(method.encoder.tokens(image), (64,))  # the classic fault: a teacher that is the student
    wrong = [F.smooth_l1_loss(predicted[n, m], own[n, blocks[n, m]]) for n in range(3) for m in range(4)]
    assert scalars["loss"].item() != pytest.approx(torch.stack(wrong).mean().item(), rel=1e-3)


def test_nothing_of_a_block_reaches_what_predicts_it_and_all_of_it_reaches_the_teacher() -> None:
    method, (image, other) = made(), torch.rand(2, 3, 3, 32, 32)
    context, blocks = masks(method, image)
    mixed = painted(image, other, blocks.flatten(1))
    for ours, theirs in zip(seen_and_predicted(method, image)[:2], seen_and_predicted(method, mixed)[:2], strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(seen_and_predicted(method, image)[2], seen_and_predicted(method, mixed)[2])
    assert not torch.equal(
        seen_and_predicted(method, image)[0], seen_and_predicted(method, painted(image, other, context))[0]
    )


def test_each_block_is_predicted_by_itself() -> None:
    torch.manual_seed(0)
    predictor = Predictor(8, 16, 2, 2).eval()
    tokens, context = torch.rand(2, 3, 8), torch.tensor([[0, 1, 5], [2, 3, 4]])
    blocks = torch.tensor([[[6, 7], [8, 9]], [[10, 11], [6, 7]]])
    both = predictor(tokens, context, blocks, (3, 4))
    for m in range(2):
        torch.testing.assert_close(predictor(tokens, context, blocks[:, m : m + 1], (3, 4))[:, 0], both[:, m])


def test_places_are_all_that_tells_what_is_asked_for() -> None:
    torch.manual_seed(0)
    predictor = Predictor(8, 16, 2, 2).eval()
    tokens, context = torch.rand(1, 2, 8), torch.tensor([[0, 1]])
    out = predictor(tokens, context, torch.tensor([[[6, 7], [7, 6]]]), (3, 4))
    torch.testing.assert_close(out[0, 0], out[0, 1].flip(0))
    assert not torch.allclose(out[0, 0, 0], out[0, 0, 1], atol=1e-4)
    moved = predictor(tokens, torch.tensor([[4, 1]]), torch.tensor([[[6, 7]]]), (3, 4))
    assert not torch.allclose(moved, out[:, :1], atol=1e-5)


def test_only_what_predicts_is_trained() -> None:
    method = made()
    step(method, torch.rand(3, 3, 32, 32))["loss"].backward()
    assert all(p.grad is None for p in method.teacher_encoder.parameters())
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_teacher_follows_and_is_what_is_kept() -> None:
    method = made(momentum=0.9)
    before, target = method.teacher_encoder.backbone.norm.weight.clone(), method.encoder.backbone.norm.weight
    method.after_update()
    torch.testing.assert_close(method.teacher_encoder.backbone.norm.weight, 0.9 * before + 0.1 * target)
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(method(image), method.teacher_encoder(image))
    torch.testing.assert_close(method(image), method.teacher_encoder.tokens(image).mean(1))


@pytest.mark.parametrize(("done", "momentum"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_the_momentum_rises_in_a_straight_line(done: float, momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    method = made(momentum=0.9)
    monkeypatch.setattr(IJEPA, "progress", property(lambda self: done))
    before, target = method.teacher_encoder.backbone.norm.weight.clone(), method.encoder.backbone.norm.weight
    method.after_update()
    torch.testing.assert_close(method.teacher_encoder.backbone.norm.weight, before.lerp(target, 1 - momentum))


def test_the_picture_shows_the_context_and_each_block() -> None:
    method, image = made(), torch.rand(2, 3, 32, 32)
    context, blocks = masks(method, image)
    torch.manual_seed(1)
    rows = method.task_picture([image]).rows
    assert list(rows) == ["view", "context", "block 1", "block 2", "block 3", "block 4"]
    grey = method.encoder.mean.expand_as(image)
    torch.testing.assert_close(rows["context"], painted(grey, image, context))
    torch.testing.assert_close(rows["block 3"], painted(grey, image, blocks[:, 2]))


def test_tiny_grids_and_networks_without_a_class_token() -> None:
    assert step(made(size=8), torch.rand(4, 3, 8, 8))["loss"].isfinite()
    method = made("test_vit2")
    step(method, torch.rand(4, 3, 32, 32))["loss"].backward()
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": 0}, r"--method.targets is 0: it must be above 0"),
        ({"momentum": 1.5}, r"--method.momentum is 1.5: it must be from 0 to 1"),
        ({"target_scale": (0.3, 0.2)}, r"--method.target-scale is 0.3 0.2: it must be two shares"),
        ({"predictor_dim": 18}, r"--method.predictor-dim is 18: it must be a multiple of 4 and of .*heads \(4\)"),
        ({"name": "convnet", "patch": 0}, r"i_jepa hides patches, which convnet cannot"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**options)
