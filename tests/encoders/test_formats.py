"""Encoders for elsewhere: each kind of file gives the same features, and what it cannot hold is refused."""

from __future__ import annotations

import importlib.util
import json
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.encoders.formats import FORMATS, difference
from ssl_toolkit.errors import UsageError

CONFIGS = {
    "small stem": EncoderConfig("resnet18", image_size=32, load_size=32),
    "resnet": EncoderConfig("test_resnet", channels=5, image_size=64, load_size=64),
    "vit": EncoderConfig(
        "test_vit", image_size=32, load_size=32, patch_size=4, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    ),
    "convnet": EncoderConfig("convnet", image_size=16, load_size=16),
    "split": EncoderConfig("convnet", image_size=16, load_size=16, colours="split"),
    "layer": EncoderConfig("test_resnet", image_size=32, load_size=32, norm="layer"),
}
HOLDS = {
    "timm": {"small stem", "resnet", "vit"},
    "hf": {"resnet", "vit"},
    "torch": {"small stem", "resnet", "vit", "convnet", "layer"},
    "torch-export": {"vit", "convnet", "split"},
    "onnx": {"split"},
}
REFUSED = {"timm": {"convnet", "split", "layer"}, "hf": {"small stem", "convnet", "split", "layer"}, "torch": {"split"}}


def build(kind: str) -> Encoder:
    """With running averages that are not those of a network nobody trained."""
    torch.manual_seed(0)
    encoder = Encoder(CONFIGS[kind])
    encoder(images_of(encoder))
    return encoder.eval()


def images_of(encoder: Encoder, count: int = 3) -> torch.Tensor:
    config = encoder.config
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, config.channels, config.image_size, config.image_size, generator=generator)


@pytest.mark.parametrize(("format", "kind"), sorted((format, kind) for format, held in HOLDS.items() for kind in held))
def test_what_is_loaded_again_gives_the_same_features(format: str, kind: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    encoder, found = build(kind), FORMATS[format]
    path = tmp_path / f"a{found.suffix}"
    found.write(encoder, path, "simclr")
    encode = found.load(encoder, path)
    assert difference(encoder, encode, images_of(encoder)) <= found.tolerance
    assert difference(encoder, encode, images_of(encoder, 1)) <= found.tolerance  # any number of images
    other = build(kind)
    with torch.no_grad():
        for weight in other.backbone.parameters():
            weight.mul_(1.01)
    assert difference(other, encode, images_of(encoder)) > found.tolerance


@pytest.mark.parametrize(
    ("format", "kind"), sorted((format, kind) for format, kinds in REFUSED.items() for kind in kinds)
)
def test_what_does_not_fit_is_refused_with_what_does(format: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"--format {format} does not fit this encoder: .*; give (--format )?t"):
        FORMATS[format].write(build(kind), tmp_path / "a", "")
    assert not list(tmp_path.iterdir())


def test_a_module_file_holds_no_class_but_of_common_libraries(tmp_path: Path) -> None:
    encoder = build("convnet")
    torch.save(nn.Sequential(encoder), tmp_path / "a.pt")
    with pytest.raises(UsageError, match=r"ssl_toolkit\..* is needed to load it"):
        FORMATS["torch"].load(encoder, tmp_path / "a.pt")
    FORMATS["torch"].write(encoder, tmp_path / "b.pt", "")
    found = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "b.pt")
    assert found
    assert {name.split(".")[0] for name in found} <= {"torch", "torchvision", "timm"}


def test_a_module_of_the_users_own_is_traced_only(tmp_path: Path) -> None:
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())  # a map, pooled by the encoder
    encoder = Encoder(EncoderConfig("", image_size=16, load_size=16), own).eval()
    for format in ("timm", "hf", "torch"):
        with pytest.raises(UsageError, match="does not fit this encoder"):
            FORMATS[format].write(encoder, tmp_path / "a", "")
    found = FORMATS["torch-export"]
    found.write(encoder, tmp_path / "a.pt2", "")
    assert difference(encoder, found.load(encoder, tmp_path / "a.pt2"), images_of(encoder)) <= found.tolerance


def test_a_folder_for_the_hub_says_what_it_is(tmp_path: Path) -> None:
    encoder = build("vit")
    FORMATS["hf"].write(encoder, tmp_path / "a", "dino")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["architecture"] == "test_vit"
    assert config["num_classes"] == 0
    assert config["model_args"]["patch_size"] == 4
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["pretrained_cfg"]["mean"] == [0.1, 0.2, 0.3]
    assert config["pretrained_cfg"]["std"] == [0.4, 0.5, 0.6]
    card = (tmp_path / "a" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\npipeline_tag: image-feature-extraction\n")
    assert "pretrained with dino" in card
    assert encoder.sha256 in card
    others = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "a").iterdir()}
    assert len(others) == 1  # nothing private among them


def test_what_is_exported_is_not_touched(tmp_path: Path) -> None:
    encoder = build("vit")
    before = encoder.sha256
    for format in ("timm", "torch", "hf"):
        FORMATS[format].write(encoder, tmp_path / f"a{FORMATS[format].suffix}", "")
    assert encoder.sha256 == before
    assert encoder.checks_range


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is not None, reason="needs onnxruntime to be absent")
def test_without_the_extra_onnx_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--format onnx needs .*pip install '\.\[onnx\]'"):
        FORMATS["onnx"].write(build("convnet"), tmp_path / "a.onnx", "")
