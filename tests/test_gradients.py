from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.gradients import clip_gradients
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.rotation import Rotation


def gradients(*norms: float) -> list[nn.Parameter]:
    """Parameters whose gradients have these norms; the last has none."""
    made = [nn.Parameter(torch.zeros(3, 4, dtype=torch.float64)) for _ in norms]
    for number, (p, norm) in enumerate(zip(made, norms, strict=True)):
        g = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        p.grad = g * norm / g.norm()
    return [*made, nn.Parameter(torch.zeros(2))]


def test_each_gradient_is_clipped_to_its_own_norm_as_in_dino() -> None:
    parameters = gradients(5.0, 3.0000001, 2.9, 0.0)
    expected = []
    for p in parameters[:-1]:
        assert p.grad is not None
        coefficient = 3.0 / (p.grad.norm() + 1e-6)
        expected.append(p.grad * coefficient if coefficient < 1 else p.grad.clone())
    clip_gradients(parameters, 3.0, "parameter")
    for p, g in zip(parameters[:-1], expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-14, atol=0)
    assert parameters[-1].grad is None


@pytest.mark.parametrize("norms", [(5.0, 3.0, 0.0), (0.5, 0.1, 0.0)])
def test_gradients_together_are_clipped_as_torch_does(norms: tuple[float, ...]) -> None:
    parameters, others = gradients(*norms), gradients(*norms)
    clip_gradients(parameters, 3.0)
    nn.utils.clip_grad_norm_(others, 3.0)
    torch.testing.assert_close([p.grad for p in parameters[:-1]], [p.grad for p in others[:-1]], rtol=1e-14, atol=0)


def test_zero_clips_nothing() -> None:
    parameters = gradients(5.0)
    clip_gradients(parameters, 0.0, "parameter")
    assert parameters[0].grad is not None
    assert parameters[0].grad.norm().item() == pytest.approx(5)


class Clipped(Rotation):
    """Remembers the norm of each gradient when it is about to be used, and leaves the head's out."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.norms: list[list[float]] = []

    def before_update(self) -> None:
        self.norms.append([p.grad.norm().item() for p in self.parameters() if p.grad is not None])
        self.head.zero_grad()


def test_gradients_are_clipped_before_some_are_left_out(train_quickly: Callable, noise_images: Callable) -> None:
    """DINO's order: what is frozen counts in the norm of all."""
    common = {"epochs": 1, "clip_gradient": 0.01, "optimizer": OptimizerConfig(weight_decay=0.1)}
    torch.manual_seed(0)
    together = train_quickly(Clipped, noise_images(16), out="a", **common)
    assert [np.linalg.norm(norms) for norms in together.norms] == pytest.approx([0.01, 0.01], rel=1e-3)
    apart = train_quickly(Clipped, noise_images(16), out="b", clip_mode="parameter", **common)
    assert all(max(norms) == pytest.approx(0.01, rel=1e-3) for norms in apart.norms)
    assert all(sum(norm > 0.009 for norm in norms) > 2 for norms in apart.norms)
    untouched = train_quickly(Clipped, noise_images(16), out="c", epochs=1, optimizer=OptimizerConfig(lr=1e-12))
    assert torch.equal(apart.head.weight, untouched.head.weight)  # left out, so that it is not even decayed


def test_a_trainer_of_the_users_own_clips_too(small_encoder: Encoder) -> None:
    method = Clipped(small_encoder, Rotation.default_views(16))
    loader = DataLoader(torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8), batch_size=8)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pl.Trainer(max_epochs=1, gradient_clip_val=0.01, enable_model_summary=False, **quiet).fit(method, loader)
    assert [np.linalg.norm(norms) for norms in method.norms] == pytest.approx([0.01], rel=1e-3)
