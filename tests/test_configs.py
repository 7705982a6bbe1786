"""Every recipe at full size does what its own comment tells the user to type."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_toolkit.configs
from ssl_toolkit.cli.parser import normalize
from ssl_toolkit.cli.pretrain import GROUPS, chosen_method, make_parser
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.tasks.assembly import assemble
from ssl_toolkit.tasks.pretraining import settings_of

FOLDER = Path(ssl_toolkit.configs.__file__).parent
METHODS = ("simclr", "moco", "byol", "simsiam", "dino", "swav", "barlow_twins", "vicreg", "nnclr", "rotation")
FULL_SIZE = [f"{method}_{data}_r18" for data in ("cifar10", "imagenette") for method in METHODS]


def test_there_is_a_test_of_every_recipe_at_full_size() -> None:
    assert {path.stem for path in FOLDER.glob("*_r18.yaml")} == set(FULL_SIZE)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_recipe_is_short_and_makes_a_step(name: str, tmp_path: Path) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= 15
    command = next(line for line in lines if line.startswith("#   ssl-toolkit pretrain "))
    assert f"--config {name} " in command
    side = 32 if "cifar10" in name else 128
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, side, side), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    given = ["--data", str(tmp_path / "images.npy"), "--batch-size", "4", "--load-size", str(side), "--workers", "0"]
    argv = normalize([*shlex.split(command)[3:], *given], GROUPS)
    settings = make_parser(chosen_method(argv)).parse(argv)
    assert settings is not None
    assert (settings["encoder"]["name"], settings["image_size"]) == ("resnet18", side)
    _, method = assemble(settings_of(settings))
    assert method.encoder.feature_dim == 512
    optimizer = method.configure_optimizers()["optimizer"]
    batch = Batch(torch.from_numpy(pixels), torch.full((4,), -1), torch.arange(4))
    before = [p.clone() for p in method.encoder.parameters()]
    loss = method.step(method.views(batch.image), batch)["loss"]
    loss.backward()
    optimizer.step()
    method.after_update()
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in method.parameters())
    assert any(not p.equal(old) for p, old in zip(method.encoder.parameters(), before, strict=True))
