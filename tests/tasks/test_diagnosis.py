"""`doctor` in Python: runs that were given objects, and images that are objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from ssl_toolkit import Run, doctor, pretrain
from ssl_toolkit.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
LOOK: dict[str, Any] = {"images": 32, "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which the encoder, the images and the views were objects."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
    return pretrain(
        "simclr", IMAGES, tmp_path_factory.mktemp("doctor") / "run", network, lambda image: image.flip(3), epochs=1,
        batch_size=8, image_size=16, workers=0, progress=False, doctor=False, logger=False, accelerator="cpu",
    )  # fmt: skip


def test_a_run_that_was_given_objects_is_measured_with_them(run: Run) -> None:
    found = doctor(run, **LOOK)
    assert set(found["measures"]) == {"embedding", "features", "step"}
    assert str(found).splitlines()[0].split() == ["embedding", "features", "healthy", "better"]
    assert "effective_rank" in found._repr_html_()


def test_its_folder_alone_says_what_is_missing(run: Run) -> None:
    with pytest.raises(UsageError, match="was an object of Python") as error:
        doctor(run.path, **LOOK)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": 7}, r"^data is <int>"),
        ({"images": 3}, r"^--images is 3"),
        ({"data": IMAGES[..., :1]}, r"takes 3 channels, the images have 1"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(run: Run, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        doctor(run, **{**LOOK, **given})
    assert len(str(error.value).splitlines()) == 1


def test_what_is_no_run_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run folder"):
        doctor(tmp_path)
