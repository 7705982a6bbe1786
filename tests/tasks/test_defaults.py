"""What is left open is chosen, said and stored; what is given wins; a resumed run keeps what it began with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ssl_toolkit import Run, pretrain
from ssl_toolkit.cli.pretrain import make_parser
from ssl_toolkit.tasks.assembly import assemble
from ssl_toolkit.tasks.pretraining import settings_of

IMAGES = np.random.default_rng(0).integers(0, 256, (80, 20, 20, 3), dtype=np.uint8)
OPEN: dict[str, Any] = {
    "method": "simclr", "data": IMAGES, "workers": 0, "progress": False, "doctor": False, "logger": "csv",
    "accelerator": "cpu", "out": "unused",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_toolkit.tasks.defaults.DEFAULT_MINUTES", 0.0)


def settled(**given: Any) -> dict[str, Any]:
    """The settings of a training once all is decided."""
    settings = settings_of(OPEN | given)
    assemble(settings)
    return settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run of which nothing was said, and what it said."""
    import contextlib
    import io

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr("ssl_toolkit.tasks.defaults.DEFAULT_MINUTES", 0.0)
        patch.setattr("ssl_toolkit.logs.JUDGED_STEPS", 1)
        patch.setattr("ssl_toolkit.logs.JUDGED_SECONDS", 0.0)
        return pretrain(**OPEN | {"out": tmp_path_factory.mktemp("open") / "run"}), said.getvalue()


def test_a_run_of_which_nothing_is_said_says_what_it_chose(run: tuple[Run, str]) -> None:
    said = run[1]
    chosen = (
        r"cores and no GPU: --encoder convnet --image-size 20 --batch-size 16 --epochs 1: some \d+ s\. .* --epochs 3 "
    )
    assert len(re.findall(chosen, said)) == 1
    views = r"for images of 20 px: --views.size 16 --views.crop-scale '\[0.3, 1.0\]' .* --views.blur-p 0.0\n"
    assert len(re.findall(views, said)) == 1
    assert re.findall(r"\d+ images a second: the (\d+) steps that are left take some 0 s", said) == ["3"]


def test_the_choice_is_stored_and_makes_the_same_run_again(run: tuple[Run, str], tmp_path: Path) -> None:
    config = run[0].config
    assert (config["encoder"]["name"], config["epochs"], config["batch_size"]) == ("convnet", 1, 16)
    assert (config["views"]["blur_p"], config["views"]["jitter"]) == (0.0, [0.2, 0.2, 0.2, 0.05])
    assert config["views"]["flip_p"] == 0.5  # what fits anyway
    again = pretrain(**config | OPEN | {"method": config["method"], "out": tmp_path / "again"})
    assert again.encoder.sha256 == run[0].encoder.sha256


def test_what_is_given_wins(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"views": {"blur_p": 0.5, "size": 20}, "epochs": 7, "batch_size": 8, "encoder": "test_resnet"}
    config = settled(**given)
    assert (config["views"]["blur_p"], config["views"]["size"]) == (0.5, 20)  # the recipe's own default, but asked for
    assert (config["epochs"], config["batch_size"], config["encoder"]["name"]) == (7, 8, "test_resnet")
    assert config["views"]["crop_scale"] == (0.08, 1.0)
    assert capsys.readouterr().err == "chosen for 2 cores and no GPU: --image-size 20\n"


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_toolkit.tasks.defaults.available_cores", lambda: 2)


def test_options_of_one_kind_of_encoder_take_that_kind() -> None:
    assert settled(encoder={"stem": "small"})["encoder"]["name"] == "resnet18"
    assert settled(encoder={"norm": "layer"})["encoder"]["name"] == "convnet"


def test_a_gpu_keeps_the_usual(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ssl_toolkit.tasks.defaults.gpu_name", lambda accelerator: "nvidia a100")
    config = settled(image_size=16)
    assert (config["encoder"]["name"], config["epochs"], config["views"]["jitter"]) == (
        "resnet18",
        100,
        (0.8, 0.8, 0.8, 0.2),
    )
    assert "chosen for the GPU (nvidia a100): --encoder resnet18" in capsys.readouterr().err


def test_a_resumed_run_keeps_what_it_began_with(
    run: tuple[Run, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssl_toolkit.tasks.defaults.DEFAULT_MINUTES", 20.0)
    monkeypatch.setattr("ssl_toolkit.tasks.defaults.gpu_name", lambda accelerator: "nvidia a100")
    again = pretrain(**OPEN | {"out": run[0].path, "resume": True})
    assert again.config == run[0].config
    assert "chosen" not in capsys.readouterr().err


def test_on_the_command_line_only_what_is_given_is_a_view(tmp_path: Path) -> None:
    parser = make_parser("simclr")
    argv = ["--method", "simclr", "--data", "x", "--out", "y"]
    settings = parser.parse(argv)
    assert settings is not None
    assert (settings["views"], settings["epochs"], settings["encoder"]["name"]) == ({}, None, None)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"views": {"flip-p": 0.5, "blur_p": 0.1}}))
    settings = make_parser("simclr").parse([*argv, "--config", str(tmp_path / "a.yaml"), "--views.blur-p", "0.5"])
    assert settings is not None
    assert settings["views"] == {"flip_p": 0.5, "blur_p": 0.5}
