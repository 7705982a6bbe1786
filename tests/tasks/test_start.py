"""Where the encoder of a command comes from, through the commands' own functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from ssl_toolkit.data.sources import open_images
from ssl_toolkit.data.statistics import channel_statistics
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder, save_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.tasks.embedding import embed
from ssl_toolkit.tasks.evaluation import evaluate
from ssl_toolkit.tasks.finetuning import finetune
from ssl_toolkit.tasks.indexing import index
from ssl_toolkit.tasks.pretraining import pretrain
from ssl_toolkit.tasks.settings import Weights
from ssl_toolkit.tasks.start import load_run_encoder, timm_image_size

QUICK: dict[str, Any] = {
    "method": "simclr", "data": "shapes:train:32", "epochs": 1, "batch_size": 16, "workers": 0, "progress": False,
    "optimizer": None, "doctor": False,
}  # fmt: skip
FROM: dict[str, Any] = {"architecture": "test_resnet", "image_size": 32}
READ = {"workers": 0, "progress": False}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small ResNet, as DINO writes them."""
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    content = {
        "student": {f"module.backbone.{name}": tensor + 1 for name, tensor in state.items()},
        "teacher": {f"backbone.{name}": tensor for name, tensor in state.items()},
    }
    path = tmp_path_factory.mktemp("weights") / "dino.pth"
    torch.save(content, path)
    return path


def train(out: Path, **options: Any) -> Encoder:
    """The encoder of a run that moves its weights by next to nothing."""
    from ssl_toolkit.optim import OptimizerConfig

    return load_encoder(pretrain(**{**QUICK, **options, "out": str(out), "optimizer": OptimizerConfig(lr=1e-12)}))


def test_pretrain_starts_from_a_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = torch.load(file)["teacher"]["backbone.conv1.0.weight"]
    encoder = train(tmp_path / "run", encoder="test_resnet", weights=str(file))
    torch.testing.assert_close(encoder.backbone.conv1[0].weight, first)
    assert "match, under 'teacher.backbone' (there is 'student.module.backbone' too" in capsys.readouterr().err
    encoder = train(tmp_path / "other", encoder="test_resnet", weights=str(file), weights_key="student")
    torch.testing.assert_close(encoder.backbone.conv1[0].weight, first + 1)


def test_pretrain_normalises_as_it_is_told(tmp_path: Path) -> None:
    measured = channel_statistics(open_images("shapes:train:32"), 73)
    encoder = train(tmp_path / "data", encoder={"name": "convnet", "normalize": "data"})
    assert (encoder.config.mean, encoder.config.std) == measured
    encoder = train(tmp_path / "given", encoder={"name": "convnet", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    assert (encoder.config.mean, encoder.config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    encoder = train(tmp_path / "imagenet", encoder={"name": "convnet", "normalize": "imagenet"})
    assert encoder.config.mean == (0.485, 0.456, 0.406)


def test_pretrain_refuses_what_contradicts_itself(file: Path, tmp_path: Path) -> None:
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16)), tmp_path / "encoder.safetensors")
    for encoder, options, message in (
        ({"name": "convnet", "normalize": "data", "mean": [0.1, 0.2, 0.3]}, {}, "give one or the other"),
        (
            {"name": str(tmp_path), "normalize": "data"},
            {},
            "--encoder.normalize is given, and --encoder .* has its own",
        ),
        (str(tmp_path), {"weights": str(file)}, "--weights is given, and --encoder .* has its own"),
        ("convnet", {"weights_key": "student"}, "--weights-key student chooses in a file of weights"),
        (
            {"name": "convnet", "normalize": "imagenet"},
            {"channels": 1},
            "imagenet is for RGB, .* 1 channels: give data",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            train(tmp_path / "run", encoder=encoder, **options)
    assert not (tmp_path / "run").exists()


def test_the_commands_take_a_file(file: Path, tmp_path: Path) -> None:
    expected, _ = load_run_encoder(Weights(file, **FROM))
    student, _ = load_run_encoder(Weights(file, **FROM, weights_key="student"))
    torch.testing.assert_close(student.backbone.conv1[0].weight, expected.backbone.conv1[0].weight + 1)
    out = embed(Weights(file, **FROM), "shapes:test:6", tmp_path / "features", **READ)
    features = np.load(out / "features.npy")
    assert features.shape == (6, expected.feature_dim)
    other = embed(Weights(file, **FROM, mean=(0.1,) * 3, std=(0.9,) * 3), "shapes:test:6", tmp_path / "grey", **READ)
    assert not np.allclose(np.load(other / "features.npy"), features)
    folder = index(Weights(file, **FROM), "shapes:test:6", tmp_path / "index", **READ)
    built = EmbeddingIndex.load(folder)
    assert load_encoder(built.encoder_file).sha256 == expected.sha256
    index(Weights(file, **FROM), "shapes:test:8", folder, update=True, **READ)
    assert len(EmbeddingIndex.load(folder)) == 8
    scored = evaluate(
        Weights(file, **FROM), "shapes:train:20", protocol="knn", baselines=False, out=tmp_path / "scores.json", **READ
    )
    assert scored["encoder"]["sha256"] == expected.sha256
    tuned = finetune(Weights(file, **FROM), "shapes:train:40", tmp_path / "tuned", epochs=1, **READ)
    assert tuned["encoder"]["name"] == "test_resnet"
    assert json.loads((tmp_path / "tuned" / "results.json").read_text())["encoder"]["sha256"] == expected.sha256


def test_options_for_weights_from_elsewhere_are_for_those(tmp_path: Path) -> None:
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16)), tmp_path / "encoder.safetensors")
    options: dict[str, Any]
    for options in ({"image_size": 32}, {"mean": (0.5,) * 3}, {"weights_key": "teacher"}):
        with pytest.raises(UsageError, match=r"is for weights from elsewhere: give --architecture"):
            load_run_encoder(Weights(tmp_path, **options))
    with pytest.raises(UsageError, match="no encoder at resnet18: "):
        load_run_encoder("resnet18")
    with pytest.raises(UsageError, match="--image-size is 4: it must be from 8 to 4096"):
        load_run_encoder(Weights("x.pth", "resnet18", image_size=4))


def test_size_is_what_timm_shows_them() -> None:
    assert timm_image_size("test_resnet.r160_in1k") == 160
    assert timm_image_size("vit_base_patch16_384") == 384
    assert timm_image_size("convnet") == 224
