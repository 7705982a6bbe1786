"""The examples in docstrings and in the README run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ssl_toolkit
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.optim import OptimizerConfig

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ssl_toolkit.__path__, "ssl_toolkit.")
    if "__main__" not in module.name
)
README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert any(doctest.DocTestFinder().find(importlib.import_module("ssl_toolkit.contrastive.losses")))
    assert {"ssl_toolkit.eval.search", "ssl_toolkit.pretext.rotation"} <= set(MODULES)


def test_the_readmes_method_trains(small_encoder: Encoder) -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "class" in block)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    method = names["Agree"](small_encoder, names["Agree"].default_views(16), OptimizerConfig(), spread=2.0)
    image = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    scalars = method.step(method.views(image), Batch(image, torch.full((8,), -1), torch.arange(8)))
    scalars["loss"].backward()
    assert small_encoder.backbone.features[0].weight.grad.abs().sum() > 0
