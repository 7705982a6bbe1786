"""`recommend` on folders of a kind: what it chooses, and a command that works as it is."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ssl_toolkit import cli, recommend
from ssl_toolkit.errors import UsageError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of 40 small images of two classes, its name in need of quotes; where it lies is where commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ssl_toolkit.tasks.defaults.gpu_name", lambda accelerator: None)
    generator = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "my photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{number:02}.png")
    return "my photos"


def test_the_command_works_as_it_is(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recommend(photos, minutes=0.001, progress=False)
    words = shlex.split(found["command"])
    assert words[:2] == ["ssl-toolkit", "pretrain"]
    monkeypatch.setattr("ssl_toolkit.tasks.defaults.DEFAULT_MINUTES", 20.0)
    cli.dispatch([*words[1:], "--workers", "0", "--progress", "false", "--logger", "csv"])
    config = yaml.safe_load(Path("runs/my-photos-simclr/config.yaml").read_text())
    for choice in found["choices"]:
        value, *path = config, *choice["option"].split(".")
        for name in path:
            value = value[name]
        assert (value["name"] if choice["option"] == "method" else value) == choice["value"]
    again = recommend(photos, labels="none", progress=False)["command"]
    assert again.endswith("--out runs/my-photos-simclr-2")
    assert " --labels none " in again


def test_each_choice_has_a_reason_and_a_source(photos: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["recommend", "--data", photos, "--progress", "false"])
    text = capsys.readouterr().out
    for words in (
        "convnet", "no GPU: learns in minutes", "(Chen et al. 2020, appendix B.9)", "epochs of 40 images",
        "seen: 40 images, 3 channels, 20 px", "2 classes", "40 images are few: start from weights that exist",
    ):  # fmt: skip
        assert words in text
    assert text.rstrip().splitlines()[-1].startswith("ssl-toolkit pretrain --data 'my photos' --method simclr ")
    cli.dispatch(["recommend", "--data", photos, "--progress", "false", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["facts"]["images"], found["facts"]["grey"], found["epochs"]) == (40, 0.0, 200)
    assert all(choice["reason"] and choice["source"] for choice in found["choices"])


def test_a_gpu_that_is_planned(photos: str) -> None:
    known = recommend(photos, gpu="H100", progress=False)
    assert known["seconds"] == pytest.approx(known["epochs"] * 40 / 17_700 * (20 / 32) ** 2, rel=0.01)
    unknown = recommend(photos, gpu="A100", progress=False)
    assert (unknown["seconds"], unknown["epochs"]) == (None, 100)
    assert "how long it takes on 'a100' is not known" in str(unknown)
    assert recommend(photos, gpu="cpu", progress=False)["choices"][1]["value"] == "convnet"


def test_frames_that_repeat_and_grey_images_are_treated_as_such(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (20, 32, 32, 1), np.uint8).repeat(2, axis=0).repeat(3, axis=3)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number:02}.png")
    found = {choice["option"]: choice["value"] for choice in recommend(tmp_path, progress=False)["choices"]}
    assert (found["method"], found["channels"]) == ("vicreg", 1)


def test_no_time_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--minutes is 0: it must be above 0"):
        recommend("shapes:train:10", minutes=0)
