"""A step that is not finite changes nothing but the count of steps, and its batch is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_toolkit.contrastive.moco import MoCo
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.finite import OnlyFinite
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.inpainting import Inpainting
from ssl_toolkit.pretext.rotation import Rotation
from tests.conftest import tiny_heads


class Sick(pl.Callback):
    """Spoils the loss, the gradient or the activations in some batches; notes what each step has changed."""

    def __init__(self, where: str, batches: set[int], value: float = float("nan")) -> None:
        self.where, self.batches, self.value = where, batches, value
        self.changed: list[set[str]] = []

    def state(self, trainer: pl.Trainer, module: Any) -> dict[str, Tensor]:
        inner = trainer.optimizers[0].state_dict()["state"]
        slots = {
            f"{place}.{name}": t for place, slot in inner.items() for name, t in slot.items() if torch.is_tensor(t)
        }
        return copy.deepcopy(module.state_dict() | slots)

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.before = self.state(trainer, module)
        self.now = trainer.fit_loop.epoch_loop.total_batch_idx in self.batches
        if self.now and self.where == "activations":
            first = next(m for m in module.encoder.modules() if isinstance(m, torch.nn.Conv2d))
            self.hook = first.register_forward_hook(lambda _, __, out: out * self.value)

    def on_before_backward(self, trainer: pl.Trainer, module: Any, loss: Tensor) -> None:
        if self.now and self.where == "loss":
            loss.data.mul_(self.value)

    def on_after_backward(self, trainer: pl.Trainer, module: Any) -> None:
        if self.now and self.where == "gradient":
            gradient = next(p.grad for p in module.encoder.parameters() if p.grad is not None)
            gradient[(0,) * gradient.ndim] = self.value

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if self.now and self.where == "activations":
            self.hook.remove()
        after = self.state(trainer, module)
        self.changed.append(
            {name for name in after if name not in self.before or not torch.equal(after[name], self.before[name])}
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient", "activations"])
@pytest.mark.parametrize("found", [Rotation, MoCo, Inpainting])
def test_a_sick_step_changes_nothing(
    train_quickly: Callable, noise_images: Callable, tmp_path: Path, found: type[Method], where: str, value: float
) -> None:
    sick = Sick(where, {3}, value)
    options = {"method": tiny_heads(found), "optimizer": OptimizerConfig("adamw")}
    method = train_quickly(found, noise_images(26), callbacks=[sick], epochs=2, **options)
    # A follower goes on, and so does an adversary whose own gradient is finite.
    assert not {name for name in sick.changed[3] if not name.startswith(("key_", "discriminator."))}
    assert all(len(changed) > 5 for step, changed in enumerate(sick.changed) if step != 3)
    assert all(p.isfinite().all() for p in method.state_dict().values())
    (file,) = (tmp_path / "run" / "bad_batches").iterdir()
    assert file.name == "step-00000004-0.npz"
    kept = np.load(file)
    assert kept["image"].dtype == np.uint8
    assert kept["image"][:, 0, 0, 0].tolist() == kept["index"].tolist()


def test_a_sick_batch_spoils_its_whole_step(train_quickly: Callable, noise_images: Callable, tmp_path: Path) -> None:
    sick = Sick("loss", {2})  # the first batch of the second step
    method = train_quickly(Rotation, noise_images(50), callbacks=[sick], epochs=1, accumulate=2)
    weights = {name for name, _ in method.named_parameters()}
    assert [bool(changed & weights) for changed in sick.changed] == [False, True, False, False, False, True]
    assert [file.name for file in (tmp_path / "run" / "bad_batches").iterdir()] == ["step-00000002-0.npz"]


def test_many_in_a_row_end_the_run(train_quickly: Callable, noise_images: Callable, tmp_path: Path) -> None:
    images = noise_images(50)  # six batches an epoch
    with pytest.raises(ToolkitError, match=r"gradient is nan at step 7, as in the 4 before: lower .*bad_batches$"):
        train_quickly(Rotation, images, callbacks=[Sick("gradient", {2, 3, 4, 5, 6, 7})], epochs=3)
    assert len(list((tmp_path / "run" / "bad_batches").iterdir())) == OnlyFinite.IN_A_ROW
    sick = Sick("gradient", {0, 1, 2, 3, 5, 6, 7, 8})
    train_quickly(Rotation, images, out="scattered", callbacks=[sick], epochs=3)
    assert len(list((tmp_path / "scattered" / "bad_batches").iterdir())) == OnlyFinite.IN_A_ROW


def test_a_device_that_would_be_waited_for_is_looked_at_in_logged_steps_alone(
    train_quickly: Callable, noise_images: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_toolkit.finite._waits", lambda trainer: True)
    monkeypatch.setattr("ssl_toolkit.finite.is_logged", lambda trainer: trainer.global_step == 4)
    looked = []
    measured = OnlyFinite._measured
    monkeypatch.setattr(
        OnlyFinite, "_measured", lambda self, trainer, *args: looked.append(0) or measured(self, trainer, *args)
    )
    with pytest.raises(ToolkitError, match=r"gradient is nan at step 5: lower"):
        train_quickly(Rotation, noise_images(50), callbacks=[Sick("activations", {4})], epochs=3)
    assert len(looked) == 1
