"""The examples in docstrings and in the documentation run."""

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
PYTHON_PAGE = Path(__file__).parent.parent / "docs" / "python.md"


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("ssl_toolkit"):
            raise
        pytest.skip(f"needs {error.name}, an extra")
    assert doctest.testmod(module).failed == 0


def test_there_are_examples() -> None:
    assert any(doctest.DocTestFinder().find(importlib.import_module("ssl_toolkit.contrastive.losses")))
    assert {"ssl_toolkit.eval.search.index", "ssl_toolkit.pretext.rotation"} <= set(MODULES)


def run_of_page(words: str) -> dict[str, Any]:
    """What the Python of the page that has these words defines."""
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", PYTHON_PAGE.read_text(), re.DOTALL) if words in block
    )
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "python.md", "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore")
def test_the_pages_own_objects_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_of_page("TensorDataset")
    assert capsys.readouterr().out.count("tensor(") == 2  # the callback, an epoch each
    assert names["encoder"].sha256 == names["run"].encoder.sha256
    assert names["encoder"].feature_dim == 64
    assert 0 <= names["scores"]["results"]["trained"]["knn"]["top1"] <= 1
    assert names["run"].config["views"] == "<torch.nn.modules.container.Sequential of 3>"


def test_the_pages_method_trains(small_encoder: Encoder) -> None:
    names = run_of_page("class Agree")
    method = names["Agree"](small_encoder, names["Agree"].default_views(16), OptimizerConfig(), spread=2.0)
    image = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    scalars = method.step(method.views(image), Batch(image, torch.full((8,), -1), torch.arange(8)))
    scalars["loss"].backward()
    assert small_encoder.backbone.features[0].weight.grad.abs().sum() > 0
