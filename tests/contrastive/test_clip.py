from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssl_toolkit.augment import eval_view
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.clip import CLIP
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder, load_text, text_beside
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.health.collapse import effective_rank
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.tasks.pretraining import pretrain
from tests.conftest import Arrays, some_noise

TINY = {"text_dim": 16, "text_layers": 1}
CAPTIONS = ["a house", "a red car", "", "ein Baum über einem Haus", "a mug", "a boat"]


def made(encoder: Encoder, **options: Any) -> CLIP:
    torch.manual_seed(0)
    return CLIP(encoder, CLIP.default_views(16), **{**TINY, **options})


def batch(captions: list[str] | None = CAPTIONS) -> Batch:
    image = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.full((6,), -1), torch.arange(6), caption=captions)


def step(method: CLIP, given: Batch) -> dict[str, Tensor]:
    return method.step([given.image], given)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_step_compares_the_encoders_own_features_with_the_captions(small_encoder: Encoder, loss: str) -> None:
    method = made(small_encoder, loss=loss, temperature=0.1).eval()
    image, text = small_encoder(batch().image), method.text(CAPTIONS)
    scalars = step(method, batch())
    expected = losses.clip(image, text, torch.tensor(10.0))
    if loss == "sigmoid":
        expected = losses.siglip(image, text, torch.tensor(10.0), torch.tensor(-10.0))
    assert scalars["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert scalars["scale"].item() == pytest.approx(10, rel=1e-6)
    nearest = (F.normalize(image) @ F.normalize(text).T).argmax(1)
    assert scalars["accuracy"].item() == pytest.approx((nearest == torch.arange(6)).float().mean().item())


def test_both_towers_and_the_temperature_learn(small_encoder: Encoder) -> None:
    for loss in ("softmax", "sigmoid"):
        method = made(small_encoder, loss=loss)
        step(method, batch())["loss"].backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in method.parameters())
        assert ("bias" in dict(method.named_parameters())) == (loss == "sigmoid")


def test_the_scale_is_limited_but_not_stuck(small_encoder: Encoder) -> None:
    """A limit within the step would let no gradient lead back from it."""
    method = made(small_encoder, temperature=0.01)
    step(method, batch())["loss"].backward()
    assert method.log_scale.grad != 0
    with torch.no_grad():
        method.log_scale += 1
    method.after_update()
    assert method.log_scale.exp().item() == pytest.approx(100, rel=1e-5)
    with torch.no_grad():
        method.log_scale -= 3
    method.after_update()
    assert method.log_scale.exp().item() == pytest.approx(100 / math.exp(3), rel=1e-5)


def test_each_caption_stays_with_its_image(small_encoder: Encoder) -> None:
    """Shuffled captions are another batch, and the same shuffle of both is the same one."""
    method, given, order = made(small_encoder).eval(), batch(), [3, 1, 5, 0, 4, 2]
    loss = step(method, given)["loss"].item()
    captions = [CAPTIONS[n] for n in order]
    assert step(method, batch(captions))["loss"].item() != pytest.approx(loss, abs=1e-3)
    assert step(method, given._replace(image=given.image[order], caption=captions))["loss"].item() == pytest.approx(
        loss, abs=1e-5
    )


def test_the_recipe_never_flips() -> None:
    """After a flip, what was left of something is right of it."""
    ramp = torch.linspace(0, 1, 32).expand(64, 3, 32, 32)
    (view,) = CLIP.default_views(32)(ramp)
    assert (view[..., 24:].mean((1, 2, 3)) > view[..., :8].mean((1, 2, 3)) + 0.5).all()


def test_images_without_captions_are_refused_before_the_run_has_a_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((16, 3, 16, 16), np.uint8))
    with pytest.raises(UsageError, match=r"clip learns from captions, and these .* none: give a \.csv"):
        pretrain("clip", data=tmp_path / "images.npy", out=tmp_path / "run", encoder="convnet", batch_size=8, epochs=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.001}, r"--method.temperature is 0.001: it must be at least 0.01"),
        ({"text_layers": 0}, r"--method.text-layers is 0: it must be above 0"),
        ({"text_dim": 10, "text_heads": 4}, r"width 10 cannot have 4 heads"),
    ],
)
def test_options_out_of_range_are_refused(small_encoder: Encoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(small_encoder, **options)


def test_a_run_on_a_manifest_keeps_the_text_tower_beside_the_encoder(tmp_path: Path) -> None:
    rows = ["path,caption"]
    for number, pixels in enumerate(some_noise(16).pixels):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
        rows.append(f'{number}.png,"picture, number {number}"')
    (tmp_path / "list.csv").write_text("\n".join(rows))
    run = pretrain(
        {"name": "clip", **TINY}, data=tmp_path / "list.csv", out=tmp_path / "run", encoder="convnet", batch_size=8,
        epochs=1, image_size=16, progress=False,
    )  # fmt: skip
    tower = load_text(text_beside(run.path))
    assert tower.encode(["picture, number 3"]).shape == (1, run.encoder.feature_dim)
    assert (tmp_path / "run/text.safetensors").stat().st_mode & 0o044  # as the encoder


class Captioned(Arrays):
    """Blocks of random brightness in pale tints, each with the tint's name in its caption."""

    TINTS: tuple[tuple[str, tuple[float, float, float]], ...] = (
        ("red", (1, 0.7, 0.7)), ("green", (0.7, 1, 0.7)), ("blue", (0.7, 0.7, 1)), ("yellow", (1, 1, 0.7)),
        ("purple", (1, 0.7, 1)), ("grey", (0.85, 0.85, 0.85)),
    )  # fmt: skip

    def __init__(self, count: int, seed: int) -> None:
        rng, label = np.random.default_rng(seed), np.arange(count) % len(self.TINTS)
        tint = np.array([each for _, each in self.TINTS])[label]
        block = rng.uniform(20, 255, (count, 1, 4, 4)).repeat(4, 2).repeat(4, 3)
        pixels = block * tint[:, :, None, None] + rng.normal(0, 10, (count, 3, 16, 16))
        super().__init__(pixels.clip(0, 255).astype(np.uint8), label)
        self.classes = [name for name, _ in self.TINTS]

    def caption(self, index: int) -> str:
        return f"{('it is', 'something')[index // 7 % 2]} {self.classes[self.labels[index]]}"


@pytest.mark.parametrize(("loss", "epochs", "enough"), [("softmax", 2, 0.6), ("sigmoid", 3, 0.4)])
def test_learns_to_name_what_new_images_show(train_quickly: Callable, loss: str, epochs: int, enough: float) -> None:
    method = train_quickly(
        CLIP, Captioned(768, 0), epochs=epochs, batch_size=32, optimizer=OptimizerConfig(lr=3e-3),
        method={"text_dim": 32, "text_layers": 1, "loss": loss, "temperature": 0.1},
    ).eval()  # fmt: skip
    test = Captioned(300, 1)
    with torch.no_grad():
        x = torch.cat([method(eval_view(16)(each.image)) for each in ImageLoader(test, 16)])
    named = method.text.encode([f"it is {name}" for name in test.classes])
    accuracy = ((x @ named.T).argmax(1).numpy() == test.labels).mean()
    assert accuracy > enough  # chance: 1 in 6
    assert effective_rank(x.numpy()) > 3
