"""DINO: who sees which crops, what is centred and when, what stays frozen, and that the teacher is what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_toolkit.contrastive.dino import DINO
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder
from ssl_toolkit.errors import UsageError

SMALL = {"hidden_dim": 8, "bottleneck_dim": 4, "prototypes": 8}


class SmallDINO(DINO):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **SMALL | options)


def dino(encoder: Encoder, size: int = 16, local_size: int = 8, local_count: int = 3, **options: Any) -> DINO:
    return SmallDINO(encoder, DINO.default_views(size, local_size=local_size, local_count=local_count), **options)


def some_batch(size: int = 16) -> Batch:
    image = torch.randint(0, 256, (6, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.zeros(6), torch.arange(6))


def scores(method: DINO, views: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Of the student for all crops and of the teacher, by now another network, for the global ones."""
    student = [method.head(method.encoder(view)).detach() for view in views]
    return student, [method.teacher_head(method.teacher_encoder(view)) for view in views[:2]]


def parted(method: DINO) -> DINO:
    """With a teacher that is not the student's copy any more, in eval mode, so that crops do not hear of each other."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in (*method.teacher_encoder.parameters(), *method.teacher_head.parameters()):
            p += 0.1 * torch.randn_like(p)
    return method.eval()


def by_hand(student: list[Tensor], teacher: list[Tensor], center: Tensor, temperature: float) -> float:
    """Algorithm 1, for any number of crops."""
    total, pairs = 0.0, 0
    for t, target in enumerate(teacher):
        for s, prediction in enumerate(student):
            if t != s:
                p = ((target - center) / temperature).softmax(1)
                total -= (p * (prediction / 0.1).log_softmax(1)).sum(1).mean().item()
                pairs += 1
    return total / pairs


def test_the_centre_is_the_teachers_alone_and_as_it_was_before(small_encoder: Encoder) -> None:
    # Soft targets, else the largest score is all that counts, centred or not.
    soft = {"first_teacher_temperature": 0.5, "teacher_temperature": 0.5, "center_momentum": 0.1}
    method = parted(dino(small_encoder, **soft))
    method.center.copy_(torch.linspace(-0.5, 0.5, 8))
    views, before = method.views(some_batch().image), method.center.clone()
    student, teacher = scores(method, views)
    loss = method.step(views, some_batch())["loss"].item()
    assert loss == pytest.approx(by_hand(student, teacher, before, 0.5), rel=1e-4)
    # What the classic faults would give.
    assert loss != pytest.approx(by_hand([s - before for s in student], teacher, before, 0.5), rel=1e-2)
    assert loss != pytest.approx(by_hand(student, teacher, method.center, 0.5), rel=1e-2)


def test_one_head_over_all_crops(small_encoder: Encoder) -> None:
    method = dino(small_encoder, head_norm=True)
    views, seen = method.views(some_batch().image), []
    method.head.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    method.step(views, some_batch())
    assert [len(features) for features in seen] == [sum(map(len, views))]


def test_the_centre_moves_by_the_mean_of_the_teachers_scores(small_encoder: Encoder) -> None:
    method = parted(dino(small_encoder, center_momentum=0.7))
    method.center.copy_(torch.linspace(-0.2, 0.2, 8))
    views, before = method.views(some_batch().image), method.center.clone()
    _, teacher = scores(method, views)
    method.step(views, some_batch())
    torch.testing.assert_close(method.center, 0.7 * before + 0.3 * torch.cat(teacher).mean(0))
    assert "center" in method.state_dict()


def test_the_teacher_sees_the_global_crops_and_the_student_all(small_encoder: Encoder) -> None:
    method = dino(small_encoder)
    seen: dict[str, list[tuple[int, int]]] = {"encoder": [], "teacher_encoder": []}
    for name, shapes in seen.items():
        method.get_submodule(name).register_forward_pre_hook(
            lambda module, args, shapes=shapes: shapes.append((len(args[0]), args[0].shape[-1]))
        )
    method.step(method.views(some_batch().image), some_batch())
    assert seen == {"encoder": [(12, 16), (18, 8)], "teacher_encoder": [(12, 16)]}


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(("step", "temperature"), [(0, 0.2), (20, 0.4), (40, 0.6), (90, 0.6)])
def test_the_teachers_temperature_warms_up_once(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, step: int, temperature: float, extended: bool
) -> None:
    options = {"first_teacher_temperature": 0.2, "teacher_temperature": 0.6, "teacher_warmup": 0.4}
    method = parted(dino(small_encoder, **options))
    method.total_steps, method.first_steps = (1000, 100) if extended else (100, None)
    monkeypatch.setattr(DINO, "global_step", property(lambda self: step))
    views = method.views(some_batch().image)
    student, teacher = scores(method, views)
    loss = method.step(views, some_batch())["loss"].item()
    assert loss == pytest.approx(by_hand(student, teacher, torch.zeros(8), temperature), rel=1e-4)


class LastLayer(pl.Callback):
    """Directions of the prototypes at the start and at the end of each epoch, and of the layer before them."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.seen.append((pl_module.head[-1].weight.detach().clone(), pl_module.head[0][0].weight.detach().clone()))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.on_train_start(trainer, pl_module)


def test_the_last_layer_is_frozen_in_the_first_epoch(train_quickly: Callable, noise_images: Callable) -> None:
    last = LastLayer()
    method = train_quickly(SmallDINO, noise_images(16), epochs=2, accumulate=2, callbacks=[last])
    assert method.freeze_last_layer == 1
    (start, _), (first, body), (second, later) = last.seen
    assert torch.equal(first, start)
    assert not torch.equal(second, first)
    assert not torch.equal(body, last.seen[0][1])
    assert not torch.equal(later, body)


def test_the_teacher_is_what_is_kept(train_quickly: Callable, noise_images: Callable, tmp_path: Path) -> None:
    method = train_quickly(SmallDINO, noise_images(16), epochs=1).eval()
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(method(image), method.teacher_encoder(image))
    assert not torch.equal(method(image), method.encoder(image))
    saved = load_encoder(tmp_path / "run")
    assert saved.sha256 == method.teacher_encoder.sha256 != method.encoder.sha256
    torch.testing.assert_close(saved(image), method(image))


def test_a_vit_takes_local_crops_too() -> None:
    torch.manual_seed(0)
    vit = Encoder(EncoderConfig("vit_tiny_patch16_224", image_size=32, load_size=32))
    method = dino(vit, size=32, local_size=16)
    views = method.views(some_batch(32).image)
    assert [view.shape[-1] for view in views] == [32, 32, 16, 16, 16]
    method.step(views, some_batch(32))["loss"].backward()
    assert all(p.grad is not None for p in (*method.encoder.parameters(), *method.head.parameters()))
    # Of four positions, one: its embedding is made of all of them.
    method.encoder.zero_grad()
    method.encoder(views[2]).sum().backward()
    assert (method.encoder.backbone.pos_embed.grad[0, 1:].abs().sum(1) > 0).all()


def test_more_than_two_global_crops_or_no_local_ones(small_encoder: Encoder) -> None:
    for counts in ({"global_count": 3, "local_count": 1}, {"local_count": 0}):
        method = parted(SmallDINO(small_encoder, DINO.default_views(16, **counts)))
        views = method.views(some_batch().image)
        expected = by_hand(*scores(method, views), torch.zeros(8), 0.04)
        assert method.step(views, some_batch())["loss"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("option", "value", "least"), [("global_count", 1, 2), ("local_count", -1, 0)])
def test_counts_of_views_that_cannot_be(option: str, value: int, least: int) -> None:
    message = rf"^--views.{option.replace('_', '-')} is {value}: it must be at least {least}"
    with pytest.raises(UsageError, match=message):
        DINO.default_views(16, **{option: value})


@pytest.mark.parametrize(
    "option",
    [
        "student_temperature",
        "teacher_temperature",
        "first_teacher_temperature",
        "prototypes",
        "hidden_dim",
        "bottleneck_dim",
    ],
)
def test_options_that_must_be_above_zero(small_encoder: Encoder, option: str) -> None:
    with pytest.raises(UsageError, match=rf"^--method.{option.replace('_', '-')} is 0: it must be above 0$"):
        dino(small_encoder, **{option: 0})


@pytest.mark.parametrize("option", ["center_momentum", "teacher_warmup"])
def test_options_that_must_be_shares(small_encoder: Encoder, option: str) -> None:
    with pytest.raises(UsageError, match=rf"^--method.{option.replace('_', '-')} is 1.5: it must be from 0 to 1$"):
        dino(small_encoder, **{option: 1.5})


def small_vit() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig("test_vit", image_size=32, load_size=32, patch_size=8))


def test_paths_are_dropped_in_the_student_alone() -> None:
    method = dino(small_vit(), 32, 16, drop_path=0.5).train()
    image = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(method.teacher_encoder(image), method.teacher_encoder(image))
        assert not torch.equal(method.encoder(image), method.encoder(image))
        assert torch.equal(method.eval().encoder(image), method.teacher_encoder(image))
    assert method.kept_encoder.config == method.encoder.config


def test_paths_of_a_convnet_are_not_dropped(small_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"--method\.drop-path is for vision transformers .*, convnet is none"):
        dino(small_encoder, drop_path=0.1)


def test_lengths_of_the_last_layer_are_learned_where_it_is_not_normalised(
    train_quickly: Callable, noise_images: Callable
) -> None:
    common = {"views": {"local_count": 0}, "method": {"norm_last_layer": False}}
    frozen = train_quickly(SmallDINO, noise_images(16), out="a", epochs=1, **common)
    assert (frozen.head[-1].length == 1).all()  # in the first epoch it stays, as the directions do
    method = train_quickly(SmallDINO, noise_images(16), out="b", epochs=2, **common)
    assert (method.head[-1].length != 1).any()
    assert (method.teacher_head[-1].length != 1).any()
    decayed = [g for g in method.configure_optimizers()["optimizer"].param_groups if g["decayed"]]
    assert any(p is method.head[-1].length for group in decayed for p in group["params"])
    assert all(p.ndim > 1 for group in decayed for p in group["params"])
