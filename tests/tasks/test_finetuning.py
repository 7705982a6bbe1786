"""`finetune` in Python: a module, a data set, and what is left of them in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from ssl_toolkit import finetune
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.optim import OptimizerConfig

LABELS = torch.arange(40) % 2
IMAGES = (torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 100).to(torch.uint8)
IMAGES[LABELS == 1] += 150
DATA = torch.utils.data.TensorDataset(IMAGES, LABELS)
QUICK: dict[str, Any] = {
    "epochs": 2, "batch_size": 8, "workers": 0, "progress": False, "device": "cpu", "layer_decay": 1.0,
}  # fmt: skip


def test_a_module_learns_from_a_data_set_and_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    before = module[0].weight.detach().clone()
    given: dict[str, Any] = {"out": tmp_path / "run", "test": DATA, "optimizer": {"lr": 0.01}, **QUICK}
    found = finetune(module, DATA, **given)
    assert found["results"]["trained"]["finetune"]["top1"] > 0.9
    assert torch.equal(module[0].weight, before)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["run"] == "<torch.nn.modules.container.Sequential of 2>"
    assert config["train"] == "<torch.utils.data.dataset.TensorDataset of 40>"
    assert (config["out"], config["optimizer"]["lr"], config["architecture"]) == (str(tmp_path / "run"), 0.01, None)
    assert config["precision"] == "32-true"
    again = finetune(module, DATA, **given, resume=True)
    assert again["results"] == found["results"]
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["fine-tuned,", "trained"]
    assert found.rows[0]["start"] == "trained"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run": 3}, r"^run is <int>"),
        ({"train": 7}, r"^train is <int>"),
        ({"train": IMAGES}, r"^'<torch.Tensor .*' has no labels"),
        ({"test": [1, 2]}, r"^test: item 0 of <list of 2>"),
        ({"optimizer": {"lrr": 1}}, r"'optimizer.lrr': did you mean optimizer.lr"),
        ({"optimizer": 3}, r"^optimizer is <int>: give an OptimizerConfig, or a dictionary"),
        ({"optimizer": OptimizerConfig(lr=-1.0)}, r"^--optimizer.lr is -1"),
        ({"epochs": "many"}, r"^--epochs is 'many': it must be a whole number"),
        ({"train": "<torch.Tensor (3, 2) uint8>"}, r"^train was an object of Python"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    with pytest.raises(UsageError, match=message) as error:
        finetune(**{"run": encoder, "train": DATA, "out": tmp_path / "run", **QUICK, **given})
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()
