"""Files of weights: their identity, and what is damaged or diverged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder, save_encoder
from ssl_toolkit.errors import ToolkitError


def build(name: str, size: int = 32, **options: object) -> Encoder:
    return Encoder(EncoderConfig(name, image_size=size, load_size=size, **options)).eval()  # type: ignore[arg-type]


def rewrite(path: Path, change: object) -> None:
    """Save the file at `path` again after `change(weights, metadata)`."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    weights = load_file(path)
    change(weights, metadata)  # type: ignore[operator]
    save_file(weights, path, metadata)


def test_hash_sees_weights_and_configuration() -> None:
    torch.manual_seed(0)
    encoder = build("convnet")
    torch.manual_seed(0)
    assert build("convnet").sha256 == encoder.sha256
    torch.manual_seed(0)
    assert build("convnet", mean=(0.4, 0.4, 0.4)).sha256 != encoder.sha256
    with torch.no_grad():
        next(encoder.backbone.parameters())[0, 0, 0, 0] += 1e-6
    torch.manual_seed(0)
    assert build("convnet").sha256 != encoder.sha256


def test_mismatches_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    encoder = build("convnet")

    def refuse(message: str, change: object) -> None:
        save_encoder(encoder, path)
        rewrite(path, change)
        with pytest.raises(ToolkitError, match=message):
            load_encoder(path)

    refuse("sha256 does not match", lambda w, m: w["features.0.weight"].view(-1)[0].add_(1))
    refuse("sha256 does not match", lambda w, m: w.pop("features.0.weight"))
    refuse("not an encoder saved by ssl-toolkit", lambda w, m: m.pop("format"))


def test_diverged_weights_are_not_written(tmp_path: Path) -> None:
    encoder = build("convnet")
    with torch.no_grad():
        encoder.backbone.features[0].weight[0] = float("nan")
    with pytest.raises(ToolkitError, match=r"'features.0.weight' is not finite"):
        save_encoder(encoder, tmp_path / "encoder.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_hash_of_a_batch_norm_encoder_is_what_it_was_without_the_choice(tmp_path: Path) -> None:
    encoder = build("convnet")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(0.5)
    assert encoder.sha256 == "981257ba2c8c1f9cf110120b2300722591ba68dc0d83bf77b36cc322aec3b04f"
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path)

    def forget(weights: object, metadata: dict[str, str]) -> None:
        config = json.loads(metadata["config"])
        assert config.pop("norm") == "batch"
        metadata["config"] = json.dumps(config)

    rewrite(path, forget)
    assert load_encoder(path).config == encoder.config


def test_layer_norm_tells_encoders_apart() -> None:
    hashes = set()
    for norm in ("batch", "layer"):
        torch.manual_seed(0)
        hashes.add(build("vit_tiny_patch16_224", norm=norm).sha256)
    assert len(hashes) == 2
