"""Distillation: the teacher stays as it is and is not saved, its features are standardised, only the student learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.contrastive.distill import Distill, load_teacher
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.tasks.pretraining import pretrain


def made(encoder: Encoder, side: int = 16, channels: int = 3, **options: Any) -> Distill:
    torch.manual_seed(1)
    teacher = Encoder(EncoderConfig("convnet", channels=channels, image_size=side, load_size=side))
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 0.1 * torch.randn_like(module.running_mean)  # type: ignore[operator, arg-type]
    method = Distill(encoder, Distill.default_views(16), teacher=teacher, **options)
    method.prepare(iter([[view] for view in images(4)]))
    return method


def images(batches: int = 1) -> Tensor:
    return torch.rand(batches, 12, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def step(method: Distill, view: Tensor) -> dict[str, Tensor]:
    return method.step([view], Batch(view, torch.zeros(len(view)), torch.arange(len(view))))


def test_the_loss_is_the_squared_distance_to_standardised_features(small_encoder: Encoder) -> None:
    method, view = made(small_encoder, local_weight=0.5).eval(), images()[0]
    with torch.no_grad():
        every = torch.cat(list(images(4)))
        whole, local = method.teacher(every), method.teacher.feature_map(every).transpose(0, 1).flatten(1)
        target = (method.teacher(view) - whole.mean(0)) / whole.std(0).maximum(0.1 * whole.std(0).mean())
        expected = (method.head(small_encoder(view)) - target).square().mean()
        shape = (1, -1, 1, 1)
        std = local.std(1).maximum(0.1 * local.std(1).mean())
        target = (method.teacher.feature_map(view) - local.mean(1).view(shape)) / std.view(shape)
        by_position = (method.local_head(small_encoder.feature_map(view)) - target).square().mean()
    found = step(method, view)
    assert found["loss"].item() == pytest.approx((expected + 0.5 * by_position).item(), rel=1e-4)
    assert found["explained"].item() == pytest.approx(1 - expected.item(), rel=1e-4)


def test_a_head_that_says_the_mean_has_a_loss_of_one_each(small_encoder: Encoder) -> None:
    method = made(small_encoder)
    for head in (method.head, method.local_head):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    moving = [(std > 1.01 * std.min()).float().mean().item() for std in (method.std, method.local_std)]
    losses = [step(method, view)["loss"].item() for view in images(4)]
    assert sum(losses) / 4 == pytest.approx(sum(moving), rel=0.05)


def test_a_student_that_is_its_teacher_explains_all(small_encoder: Encoder) -> None:
    method = Distill(small_encoder, Distill.default_views(16), teacher=small_encoder).eval()
    method.prepare(iter([[view] for view in images(4)]))
    with torch.no_grad():
        for head, mean, std in (
            (method.head, method.mean, method.std),
            (method.local_head, method.local_mean, method.local_std),
        ):
            head.weight.copy_((1 / std).diag().view_as(head.weight))
            head.bias.copy_(-mean / std)  # type: ignore[union-attr]
    assert step(method, images()[0])["loss"].item() == pytest.approx(0, abs=1e-6)


def test_only_the_student_learns_and_the_teacher_stays(small_encoder: Encoder) -> None:
    method = made(small_encoder).train()
    before = method.teacher.sha256
    step(method, images()[0])["loss"].backward()
    assert method.teacher.sha256 == before  # its batch norms too
    assert not any(module.training for module in method.teacher.modules())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters() if p.requires_grad)
    assert all(p.grad is None for p in method.teacher.parameters())


def test_the_teacher_is_neither_trained_nor_saved_with_the_run(small_encoder: Encoder) -> None:
    method = made(small_encoder)
    ours = {id(p) for p in method.parameters()}
    assert not ours & {id(p) for p in method.teacher.parameters()}
    assert {name.split(".")[0] for name in method.state_dict()} == {
        *("encoder", "head", "local_head", "mean", "std", "local_mean", "local_std"),
    }


@pytest.mark.parametrize("side", [8, 32])
def test_a_teacher_of_another_size_sees_the_view_at_its_own(small_encoder: Encoder, side: int) -> None:
    method, seen = made(small_encoder, side), []
    method.teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    method.local_weight, view = 0.0, images()[0]
    step(method, view)
    expected = F.interpolate(view, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("side", [8, 32])
def test_maps_of_other_sizes_are_compared_at_the_teachers(small_encoder: Encoder, side: int) -> None:
    loss = step(made(small_encoder, side), images()[0])["loss"]
    assert loss.isfinite()


def test_a_run_goes_on_with_its_own_teacher_only(tmp_path: Path) -> None:
    files = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        files.append(str(tmp_path / f"teacher{seed}.safetensors"))
        save_encoder(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), files[-1])
    options: dict[str, Any] = {"data": "shapes:train:32", "out": tmp_path / "run", "encoder": "convnet", "epochs": 2}
    options |= {"image_size": 16, "batch_size": 16, "checkpoint_every": 1, "progress": False}
    run = pretrain({"name": "distill", "teacher": files[0]}, **options)
    sorted((tmp_path / "run" / "checkpoints").glob("*.ckpt"))[-1].unlink()
    Path(files[0]).write_bytes(Path(files[1]).read_bytes())
    with pytest.raises(ToolkitError, match=r"--method.teacher is not the one that this run began with"):
        run.resume()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", r"--method.teacher is missing: give a run folder, an encoder file, or a name of timm's weights"),
        ("nowhere", r"--method.teacher is nowhere: give a run folder"),
    ],
)
def test_a_teacher_that_does_not_exist(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_teacher(given)


def test_a_teacher_of_other_channels_is_refused(small_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"--method.teacher takes images of 1 channels, the encoder of 3"):
        made(small_encoder, channels=1)
    with pytest.raises(UsageError, match=r"--method.local-weight is -1: it must be at least 0"):
        made(small_encoder, local_weight=-1)
