"""Every recipe at full size does what its own comment tells the user to type."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssl_toolkit.configs
from ssl_toolkit.cli.parser import normalize
from ssl_toolkit.cli.pretrain import GROUPS, chosen_method, make_parser
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig, build_optimizer
from ssl_toolkit.tasks.assembly import assemble
from ssl_toolkit.tasks.pretraining import settings_of

FOLDER = Path(ssl_toolkit.configs.__file__).parent
METHODS = ("simclr", "moco", "byol", "simsiam", "dino", "swav", "barlow_twins", "vicreg", "nnclr", "rotation")
FULL_SIZE = [f"{method}_{data}_r18" for data in ("cifar10", "imagenette") for method in METHODS]

# Of each paper: images a step, peak learning rate, weight decay of weights, and of norms and biases.
PAPERS: dict[str, tuple[int, float, float, float]] = {
    "simclr": (4096, 4.8, 1e-6, 0),
    "moco_v1": (256, 0.03, 1e-4, 1e-4),
    "moco_v2": (256, 0.03, 1e-4, 1e-4),
    "moco_v3": (4096, 0.0024, 0.1, 0.1),
    "byol": (4096, 3.2, 1.5e-6, 0),
    "simsiam": (512, 0.1, 1e-4, 1e-4),
    "barlow_twins": (2048, 1.6, 1e-6, 0),
    "vicreg": (2048, 1.6, 1e-6, 0),
    "swav": (4096, 4.8, 1e-6, 1e-6),
    "nnclr": (4096, 4.8, 1e-6, 0),
    "dino": (1024, 0.002, 0.04, 0),
    "masked_autoencoder": (4096, 0.0024, 0.05, 0),
    "i_jepa": (2048, 0.001, 0.04, 0),
    "ibot": (1024, 0.002, 0.04, 0),
    "dinov2": (2048, 0.002 * 8**0.5, 0.04, 0),
    "lejepa": (512, 0.0005, 0.05, 0),
    "msn": (1024, 0.001, 0.04, 0),
    "data2vec2": (256, 0.001, 0.05, 0),
    "simmim": (2048, 0.0004, 0.05, 0),
    "cpc_v2": (512, 0.0004, 0, 0),
}
# Heads of 150 million weights, and ViTs of 300 and more, are built with fewer.
NARROWER = dict.fromkeys(("barlow_twins", "vicreg"), ("--method.projection-dim", "1024"))
NARROWER |= dict.fromkeys(("i_jepa", "lejepa", "simmim", "data2vec2"), ("--encoder.name", "vit_tiny_patch16_224"))
NARROWER |= {"dinov2": ("--encoder.name", "vit_tiny_patch16_224", "--method.prototypes", "256")}
WIDTHS = {
    **dict.fromkeys(("moco_v3", "dino", "ibot", "msn"), 384),
    "masked_autoencoder": 768,
    **dict.fromkeys(("i_jepa", "lejepa", "dinov2", "simmim", "data2vec2"), 192),
}


def test_there_is_a_test_of_every_recipe_at_full_size() -> None:
    assert {path.stem for path in FOLDER.glob("*_r18.yaml")} == set(FULL_SIZE)
    assert {path.stem for path in FOLDER.glob("*_imagenet.yaml")} == {f"{name}_imagenet" for name in PAPERS}


def settings_by_command(name: str, *given: str) -> dict[str, Any]:
    """Settings of a recipe by the command in its comment, and what is given in addition."""
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= 15
    command = next(line for line in lines if line.startswith("#   ssl-toolkit pretrain "))
    assert f"--config {name} " in command
    argv = normalize([*shlex.split(command)[3:], *given], GROUPS)
    settings = make_parser(chosen_method(argv)).parse(argv)
    assert settings is not None
    return settings_of(settings)


def after_a_step(folder: Path, name: str, side: int, count: int, *given: str) -> tuple[dict[str, Any], Method]:
    """A recipe's settings and method, which has made one step on a few images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    few = ["--data", str(folder / "images.npy"), "--batch-size", str(count), "--load-size", str(side)]
    settings = settings_by_command(name, *few, "--workers", "0", "--devices", "1", *given)
    _, method = assemble(settings)
    optimizer = method.configure_optimizers()["optimizer"]
    batch = Batch(torch.from_numpy(pixels), torch.full((count,), -1), torch.arange(count))
    before = [p.clone() for p in method.encoder.parameters()]
    loss = method.step(method.views(batch.image), batch)["loss"]
    loss.backward()
    optimizer.step()
    method.after_update()
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in method.parameters())
    assert any(not p.equal(old) for p, old in zip(method.encoder.parameters(), before, strict=True))
    return settings, method


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_recipe_is_short_and_makes_a_step(name: str, tmp_path: Path) -> None:
    side = 32 if "cifar10" in name else 128
    settings, method = after_a_step(tmp_path, name, side, 4)
    assert (settings["encoder"]["name"], settings["image_size"]) == ("resnet18", side)
    assert method.encoder.feature_dim == 512


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_of_a_paper_has_its_figures(name: str) -> None:
    settings = settings_by_command(f"{name}_imagenet")
    assert settings["image_size"] == 224
    config = OptimizerConfig(**settings["optimizer"])
    images = settings["batch_size"] * settings["accumulate"] * settings["devices"]
    weights, others = build_optimizer(torch.nn.BatchNorm1d(1), config, images).param_groups
    found = (images, weights["lr"], weights["weight_decay"], others["weight_decay"])
    assert found == pytest.approx(PAPERS[name])


@pytest.mark.parametrize("name", [name for name in PAPERS if name != "cpc_v2"])
def test_a_recipe_of_a_paper_makes_a_step(name: str, tmp_path: Path) -> None:
    width, own = WIDTHS.get(name, 2048), NARROWER.get(name, ())
    few, own = (2, ("--encoder.patch-size", "16", *own)) if width < 2048 else (4, own)
    _, method = after_a_step(tmp_path, f"{name}_imagenet", 64, few, "--image-size", "64", *own)
    assert method.encoder.feature_dim == width
    vit = method.encoder.backbone
    if name in ("moco_v3", "masked_autoencoder"):
        assert (vit.blocks[0].attn.num_heads, vit.pos_embed.requires_grad) == (12, False)
        assert vit.patch_embed.proj.weight.requires_grad == (name == "masked_autoencoder")


@pytest.mark.slow
def test_the_recipe_of_cpc_makes_a_step(tmp_path: Path) -> None:
    """Its patches are so many pixels: images cannot be tiny."""
    _, method = after_a_step(tmp_path, "cpc_v2_imagenet", 300, 2)
    assert method.encoder.feature_dim == 2048
