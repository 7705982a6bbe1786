"""`segment` in Python: on rendered masks, as a picture, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from ssl_toolkit import segment
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}


def test_shapes_are_segmented_beside_random_weights(small_encoder: Encoder, tmp_path: Path) -> None:
    found = segment(
        small_encoder, "shapes:train:12", "shapes:test:6", size=32, out=tmp_path / "found.json",
        picture=tmp_path / "answers.png", images=3, **QUIET,
    )  # fmt: skip
    assert set(found["results"]) == {"trained", "random"}
    assert 0 < found["results"]["trained"]["miou"] < found["results"]["trained"]["pixel_accuracy"] < 1
    assert found["protocol"]["images"] == [12, 6]
    assert json.loads((tmp_path / "found.json").read_text())["results"] == found["results"]
    lines = [line.split() for line in str(found).splitlines()]
    assert lines[0] == ["mIoU,", "%", "pixels", "right,", "%"]
    assert [line[0] for line in lines[1:]] == ["trained", "random"]
    with Image.open(tmp_path / "answers.png") as drawn:
        assert drawn.height > drawn.width  # four rows of three


def test_depth_is_estimated(small_encoder: Encoder, tmp_path: Path) -> None:
    for folder in ("images", "depths"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 40 * number, 90)).save(tmp_path / "images" / f"{number}.png")
        np.save(tmp_path / "depths" / f"{number}.npy", np.full((32, 32), 1.0 + number))
    word = f"{tmp_path / 'images'},{tmp_path / 'depths'}"
    found = segment(small_encoder, word, word, "depth", size=32, picture=tmp_path / "depth.png", **QUIET)
    assert found["results"]["trained"]["rmse"] < 0.5
    assert "RMSE" in str(found)


def test_parts_without_labels_are_a_picture(small_encoder: Encoder, tmp_path: Path) -> None:
    found = segment(small_encoder, "shapes:train:9", kmeans=3, picture=tmp_path / "parts.png", images=4, **QUIET)
    assert str(found) == f"3 clusters: {tmp_path / 'parts.png'}"
    with Image.open(tmp_path / "parts.png") as drawn:
        assert drawn.width > drawn.height


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--test, or .* --kmeans"),
        ({"test": "shapes:test:4", "kmeans": 3}, "--test, or .* --kmeans"),
        ({"kmeans": 1}, "--kmeans is 1"),
        ({"kmeans": 900}, "--kmeans is 900, and the images have"),
        ({"test": "shapes:test:4", "size": 4}, "--size is 4"),
        ({"test": "nothing"}, "'nothing' is no set of images with masks"),
    ],
)
def test_what_does_not_fit_is_said(small_encoder: Encoder, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        segment(small_encoder, "shapes:train:4", **given, **QUIET)


def test_an_encoder_without_maps_says_so() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))
    with pytest.raises(UsageError, match="feature maps"):
        segment(network, "shapes:train:4", "shapes:test:4", **QUIET)
