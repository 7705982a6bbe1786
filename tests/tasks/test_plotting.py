"""`plot` and `draw_views` in Python: encoders and images that are objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from ssl_toolkit import draw_views, plot
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
READ: dict[str, Any] = {"workers": 0, "progress": False}


def test_pictures_of_objects(tmp_path: Path, small_encoder: Encoder) -> None:
    for run in (small_encoder, nn.Conv2d(3, 8, 3)):
        with Image.open(plot("pca", run, IMAGES, tmp_path / "pca.png", images=2, **READ)) as picture:
            assert picture.format == "PNG"
    with Image.open(draw_views(IMAGES, "simclr", tmp_path / "views.png", images=2)) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: plot("pca", 3, IMAGES, out), r"^run is <int>"),  # type: ignore[arg-type]
        (lambda out: plot("filters", nn.Conv2d(3, 8, 3), out=out), r"^run is <torch.*Conv2d>, a module that tells"),
        (lambda out: plot("pca", nn.Conv2d(3, 8, 3), 7, out), r"^data is <int>"),
        (lambda out: draw_views(7, "simclr", out), r"^data is <int>"),
        (lambda out: draw_views(IMAGES, "simclar", out), r"'simclar': did you mean simclr"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path, call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        call(tmp_path / "x.png")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "x.png").exists()
