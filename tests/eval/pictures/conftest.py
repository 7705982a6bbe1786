"""What tests of pictures are of: two small encoders with images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.eval.features.sample import Sample
from ssl_toolkit.eval.pictures import ascent, class_plots, unit_plots
from ssl_toolkit.eval.pictures.subject import Subject


def subject_of(name: str, size: int, count: int = 60, **options: Any) -> Subject:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name, image_size=size, load_size=size))
    sample = Sample.take(encoder, open_images(f"shapes:test:{count}"), count)
    return Subject(encoder, sample, **{"images": 3, **options})


@pytest.fixture(scope="session")
def convnet() -> Subject:
    return subject_of("convnet", 32)


@pytest.fixture(scope="session")
def vit() -> Subject:
    return subject_of("test_vit", 64, 30)


def texts(figure: Figure) -> list[str]:
    """The words that are drawn."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_plots, "ascend", lambda *args, **options: ascent.ascend(*args, steps=2, **options))
    monkeypatch.setattr(
        class_plots.explain, "shapley",
        lambda *args, grid, shapley=class_plots.explain.shapley: shapley(*args, grid=(2, 2), samples=1),
    )  # fmt: skip
