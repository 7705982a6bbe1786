from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_toolkit.data.image_set import read_some
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.recalibration import batch_norms, recalibrate
from ssl_toolkit.tasks.pretraining import pretrain
from tests.conftest import Arrays, small_shapes


def inputs_of(encoder: Encoder, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance over what each batch norm gets from one batch in training mode, channel by channel."""
    found: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Tensor]) -> None:
        flat = args[0].transpose(0, 1).flatten(1).double()
        found.append((flat.mean(1), flat.var(1)))

    hooks = [norm.register_forward_pre_hook(note) for norm in batch_norms(encoder)]
    encoder.train()
    with torch.no_grad():
        encoder(encoder.eval_view()(images))
    for hook in hooks:
        hook.remove()
    encoder.eval()
    return found


def test_statistics_are_those_of_whole_images(small_encoder: Encoder) -> None:
    images, _ = small_shapes(16, train=40, test=1)
    momenta = [norm.momentum for norm in batch_norms(small_encoder)]
    weights = {name: p.clone() for name, p in small_encoder.named_parameters()}
    recalibrate(small_encoder, images, 40, batch_size=40)
    every = torch.from_numpy(np.stack(list(read_some(images, np.arange(40), 40, 16))))
    norms = batch_norms(small_encoder)
    assert len(norms) > 2
    statistics = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]  # type: ignore[union-attr]
    for (mean, var), (own_mean, own_var) in zip(inputs_of(small_encoder, every), statistics, strict=True):
        torch.testing.assert_close(own_mean.double(), mean, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(own_var.double(), var, rtol=1e-3, atol=1e-5)
    assert [norm.momentum for norm in norms] == momenta
    assert not any(module.training for module in small_encoder.modules())
    assert all(torch.equal(p, weights[name]) for name, p in small_encoder.named_parameters())


def test_batches_count_alike_and_the_same_images_are_drawn(small_encoder: Encoder) -> None:
    images, _ = small_shapes(16, train=60, test=1)
    found = []
    for _ in range(2):
        recalibrate(small_encoder, images, 40, batch_size=10)
        found.append(batch_norms(small_encoder)[-1].running_mean.clone())  # type: ignore[union-attr]
    assert torch.equal(*found)
    assert batch_norms(small_encoder)[0].num_batches_tracked == 4
    recalibrate(small_encoder, images, 40, batch_size=10, seed=1)
    assert not torch.equal(found[0], batch_norms(small_encoder)[-1].running_mean)  # type: ignore[arg-type]


def test_images_that_cannot_be_read_are_passed_over(small_encoder: Encoder, noise_images: type[Arrays]) -> None:
    recalibrate(small_encoder, noise_images(20, broken=(3, 4)), 20, batch_size=5)  # type: ignore[call-arg, arg-type]
    assert batch_norms(small_encoder)[0].num_batches_tracked == 4


def test_an_encoder_without_batch_norms_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--recalibrate is for batch norms, and convnet has none: leave it out"):
        batch_norms(Encoder(EncoderConfig("convnet", image_size=16, load_size=16, norm="layer")))
    options: dict[str, Any] = {
        "data": "shapes:train:32",
        "image_size": 16,
        "batch_size": 16,
        "epochs": 1,
        "progress": False,
    }
    with pytest.raises(UsageError, match="--recalibrate"):
        pretrain("simclr", out=tmp_path / "run", encoder={"name": "convnet", "norm": "layer"}, recalibrate=8, **options)
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_the_recalibrated_encoder_and_the_training_is_as_without(tmp_path: Path) -> None:
    runs = []
    for name, count in (("without", 0), ("with", 32)):
        run = pretrain(
            {"name": "dino", "prototypes": 32, "hidden_dim": 16}, data="shapes:train:64", out=tmp_path / name,
            encoder="convnet", image_size=16, batch_size=16, epochs=1, recalibrate=count, progress=False,
        )  # fmt: skip
        runs.append(run)
    plain, again = (load_encoder(run) for run in runs)
    states = [dict(each.named_buffers()) for each in (plain, again)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0] if "running" in name)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), again.parameters(), strict=True))
    checkpoints = [sorted((Path(run) / "checkpoints").glob("*.ckpt"))[-1] for run in runs]
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in checkpoints)
    assert all(torch.equal(one[name], other[name]) for name in one)
