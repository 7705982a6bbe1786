"""The whole export: a run to a file, loaded by the lines that were printed, and nothing kept of what went wrong."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_toolkit.cli import dispatch
from ssl_toolkit.encoders import Encoder, EncoderConfig, formats, load_encoder, save_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.tasks.exporting import export
from ssl_toolkit.tasks.pretraining import pretrain


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    pretrain(
        method="simclr", data="shapes:train:32", encoder="test_resnet", image_size=32, epochs=1, batch_size=16,
        workers=0, progress=False, doctor=False, out=out,
    )  # fmt: skip
    return out


def test_the_printed_lines_work_without_this_package(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.safetensors"
    dispatch(["export", str(run), "--format", "timm", "--out", str(file)])
    lines, _, said = capsys.readouterr().out.rpartition("\n\n")
    assert said.startswith(f"{file}: features of 16 images of shapes:train:32 differ by ")
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(images, tmp_path / "images.pt")
    program = (
        f"import sys; sys.modules['ssl_toolkit'] = None\nimport torch\nimages = torch.load('images.pt')\n{lines}\n"
        "torch.save(features.detach(), 'features.pt')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = load_encoder(run)(images)
    torch.testing.assert_close(torch.load(tmp_path / "features.pt"), expected, rtol=1e-4, atol=1e-5)


def test_what_is_there_stays_unless_it_may_go(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "a", format="hf")
    (tmp_path / "a" / "notes").touch()
    with pytest.raises(UsageError, match="exists: name another one, or give --overwrite"):
        export(run, tmp_path / "a", format="hf")
    assert (tmp_path / "a" / "notes").exists()
    exported = export(run, tmp_path / "a", format="hf", overwrite=True)
    assert sorted(os.listdir(exported.path)) == ["README.md", "config.json", "model.safetensors"]
    assert os.listdir(tmp_path) == ["a"]


def test_other_features_are_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(encoder: Encoder, path: Path, method: str) -> None:
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.mul_(1.001)
        formats.FORMATS["torch"].write(encoder, path, method)

    def broken(encoder: Encoder, path: Path, method: str) -> None:
        path.touch()
        raise RuntimeError("no such operator\nand more")

    for write, error in (
        (lambda encoder, path, method: scaled(load_encoder(run), path, method), r"differ by .* more than 1e-05"),
        (broken, r"failed on this encoder: no such operator$"),
    ):
        monkeypatch.setitem(formats.FORMATS, "onnx", dataclasses.replace(formats.FORMATS["torch"], write=write))
        with pytest.raises(ToolkitError, match=error):
            export(run, tmp_path / "a.pt", format="onnx")
        assert not os.listdir(tmp_path)


def test_images_are_the_runs_own_or_rendered(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    save_encoder(load_encoder(run), file)
    options: dict[str, Any] = {"format": "torch", "overwrite": True}
    assert export(run, tmp_path / "a.pt", **options).compared_on == "16 images of shapes:train:32"
    assert export(file, tmp_path / "a.pt", **options).compared_on == "16 images of shapes:test"
    assert export(load_encoder(run), tmp_path / "a.pt", **options).compared_on == "16 images of shapes:test"
    config = (run / "config.yaml").read_text()
    try:  # as if copied to another machine
        (run / "config.yaml").write_text(config.replace("data: shapes:train:32", "data: /nowhere/images"))
        assert export(run, tmp_path / "a.pt", **options).compared_on == "16 images of shapes:test"
    finally:
        (run / "config.yaml").write_text(config)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"out": "a.pth"}, r"--out .*a\.pth: what --format timm writes ends in \.safetensors"),
        ({"data": "/nowhere/images"}, "/nowhere/images"),
        ({"run": "/nowhere/run"}, "no encoder at /nowhere/run"),
    ],
)
def test_bad_input_is_one_line(run: Path, tmp_path: Path, options: dict[str, Any], error: str) -> None:
    given = {"run": run, "out": "a.safetensors", **options}
    given["out"] = tmp_path / given["out"]
    with pytest.raises(UsageError, match=error):
        export(**given)
    assert not os.listdir(tmp_path)


def test_channels_that_no_rendered_image_has_ask_for_data(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig("convnet", channels=5, image_size=16, load_size=16)).eval()
    with pytest.raises(UsageError, match="channels"):
        export(encoder, tmp_path / "a.pt", format="torch")
