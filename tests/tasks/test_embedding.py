"""`embed` in Python: every kind of images and of encoder gives the same features, every other thing one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssl_toolkit import embed, load_encoder, open_images, pretrain
from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.settings import Weights

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
READ: dict[str, Any] = {"workers": 0, "progress": False}


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())


def features(out: Path, run: Any, data: Any = IMAGES) -> np.ndarray:
    found: np.ndarray = np.load(embed(run, data, out, overwrite=True, **READ) / "features.npy")
    return found


@pytest.mark.parametrize("kind", ["folder", "paths", "array", "floats", "tensor", "data set", "image set"])
def test_images_of_every_kind_are_the_same(tmp_path: Path, small_encoder: Encoder, kind: str) -> None:
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{number}.png" for number in range(len(IMAGES))]
    for path, pixels in zip(paths, IMAGES, strict=True):
        Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    data = {
        "folder": tmp_path / "images",
        "paths": paths,
        "array": IMAGES,
        "floats": IMAGES / 255,
        "tensor": tensor,
        "data set": torch.utils.data.TensorDataset(tensor, torch.arange(6)),
        "image set": open_images(IMAGES),
    }[kind]
    expected = small_encoder.eval()(tensor).detach().numpy()
    np.testing.assert_allclose(features(tmp_path / "out", small_encoder, data), expected, atol=1e-5)


def test_encoders_of_every_kind_are_the_same(tmp_path: Path, small_encoder: Encoder) -> None:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    expected = features(tmp_path / "out", small_encoder)
    for run in (tmp_path, str(tmp_path), tmp_path / "encoder.safetensors", load_encoder(tmp_path), Weights(tmp_path)):
        np.testing.assert_array_equal(features(tmp_path / "out", run), expected)


def test_a_module_is_an_encoder_and_stays_as_it_is(tmp_path: Path) -> None:
    module = network().train()
    made = Encoder(EncoderConfig("", image_size=16, load_size=16), network()).eval()
    expected = made(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(features(tmp_path / "out", module), expected, atol=1e-5)
    assert module.training
    assert module[1].num_batches_tracked == 0  # type: ignore[index]
    assert features(tmp_path / "grey", network(1), IMAGES[..., :1]).shape == (6, 12)


def test_a_run_around_a_module_is_embedded_while_its_module_is_there(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "batch_size": 2, "accelerator": "cpu", "logger": False, "doctor": False}
    run = pretrain("simclr", IMAGES, tmp_path / "run", network(), image_size=16, **options, **READ)
    np.testing.assert_array_equal(features(tmp_path / "a", run), features(tmp_path / "b", run.encoder))
    with pytest.raises(UsageError, match="was an object of Python"):
        features(tmp_path / "c", run.path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run": 3}, r"^run is <int>: give a run folder or encoder file"),
        ({"run": "no/such"}, r"no encoder at no/such"),
        ({"run": "<torch.nn.Module>"}, r"^run was an object of Python, <torch.nn.Module>"),
        ({"run": nn.LSTM(16, 4)}, r"^encoder <torch.nn.modules.rnn.LSTM> cannot take images \(2, 3, 16, 16\)"),
        ({"run": network(1)}, r"^encoder <torch.*Sequential of 3> cannot take images"),
        ({"run": Weights(network(), image_size=16)}, r"--image-size is for weights from elsewhere"),
        ({"data": 7}, r"^data is <int>: give a word or path"),
        ({"data": IMAGES[0, 0]}, r"^data <numpy.ndarray \(16, 3\) uint8>: shape"),
        ({"data": []}, r"^data is <list of 0>: it is empty"),
        ({"data": ["no/such.png"]}, r"no/such.png"),
        ({"workers": -1}, r"^--workers is -1"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    with pytest.raises(Exception, match=message) as error:
        embed(**{"run": encoder, "data": IMAGES, "out": tmp_path / "out", **READ, **given})
    assert len(str(error.value).splitlines()) == 1
    assert type(error.value).__name__ in ("UsageError", "NoFeaturesError", "ToolkitError")
