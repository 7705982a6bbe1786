"""Encoders as files: rebuilt to the last bit, and what is no such file refused by name."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ssl_toolkit.encoders import Encoder, EncoderConfig, check_weights, encoder_file, load_encoder, save_encoder
from ssl_toolkit.encoders.saving import FORMAT
from ssl_toolkit.encoders.weights_file import plain_state, save_weights
from ssl_toolkit.errors import ToolkitError, UsageError


def build(name: str, size: int = 32, **options: object) -> Encoder:
    return Encoder(EncoderConfig(name, image_size=size, load_size=size, **options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vit_tiny_patch16_224"])
def test_saved_and_rebuilt(name: str, tmp_path: Path) -> None:
    encoder = build(name, 32)
    sha256 = save_encoder(encoder, tmp_path / "encoder.safetensors", method="SimCLR")
    image = torch.rand(2, 3, 32, 32)
    for path in (tmp_path, tmp_path / "encoder.safetensors"):
        rebuilt = load_encoder(path)
        assert not rebuilt.training
        assert rebuilt.config == encoder.config
        assert rebuilt.sha256 == sha256
        assert torch.equal(rebuilt(image), encoder(image))
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["method"] == "SimCLR"
    assert json.loads(metadata["config"])["name"] == name
    assert json.loads(metadata["versions"])["torch"] == torch.__version__


def test_keys_load_into_plain_timm(tmp_path: Path) -> None:
    encoder = build("resnet18", 64)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    plain = timm.create_model("resnet18", num_classes=0)
    plain.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(plain.eval()(encoder.normalize(image)), encoder(image))


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    weights = build("convnet").backbone.state_dict()
    missing = {k: v for k, v in weights.items() if k != "features.0.weight"}
    with pytest.raises(ToolkitError, match=r"weight 'features.0.weight' of convnet is missing"):
        check_weights(build("convnet"), missing, "here")
    with pytest.raises(ToolkitError, match=r"weight 'extra' does not belong to convnet"):
        check_weights(build("convnet"), {**weights, "extra": torch.zeros(1)}, "here")
    with pytest.raises(
        ToolkitError, match=r"'features.0.weight' has shape \(32, 3, 3, 3\), convnet needs \(32, 1, 3, 3\)"
    ):
        check_weights(build("convnet", channels=1), weights, "here")


def test_no_encoder_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no encoder at"):
        encoder_file(tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes(b"garbage")
    with pytest.raises(ToolkitError, match="not a readable safetensors file"):
        load_encoder(tmp_path)


def test_load_at_another_size(tmp_path: Path) -> None:
    save_encoder(build("resnet18", 32), tmp_path / "encoder.safetensors")
    larger = load_encoder(tmp_path, image_size=64, load_size=72)
    assert (larger.config.image_size, larger.config.load_size, larger.config.stem) == (64, 72, "small")


@pytest.mark.parametrize("name", ["convnet", "test_efficientnet"])
def test_layer_norm_is_saved_and_rebuilt(name: str, tmp_path: Path) -> None:
    encoder = build(name, norm="layer")
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    sha256 = save_encoder(encoder, tmp_path / "encoder.safetensors")
    rebuilt, image = load_encoder(tmp_path), torch.rand(2, 3, 32, 32)
    assert rebuilt.config.norm == "layer"
    assert rebuilt.sha256 == sha256
    assert torch.equal(rebuilt(image), encoder(image))
    assert rebuilt.reinitialized(0).config == rebuilt.config


def test_a_tag_in_the_name_of_a_saved_encoder_asks_for_no_weights_but_its_own(tmp_path: Path) -> None:
    described = asdict(build("test_resnet").config) | {"name": "test_resnet.r160_in1k"}
    save_weights(plain_state(build("test_resnet").backbone), described, tmp_path / "encoder.safetensors", FORMAT)
    assert load_encoder(tmp_path).config.name == "test_resnet"


def test_an_encoder_of_lightness_is_saved_as_such(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig("resnet18", image_size=32, load_size=32, colours="lightness")).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    assert loaded.config == encoder.config
    assert loaded.backbone.conv1.weight.shape[1] == 1
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(image), encoder(image))


def test_patches_of_another_size(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig("test_vit", image_size=32, load_size=32, patch_size=4)).eval()
    assert encoder.feature_map(torch.rand(1, 3, 32, 32)).shape[-2:] == (8, 8)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    assert load_encoder(tmp_path / "encoder.safetensors").config.patch_size == 4
