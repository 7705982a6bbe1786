"""Small images on disk and what the tests of image sets ask of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 13, 20, 30), dtype=np.uint8)  # (N, C, H, W)


def paint(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def names(images: ImageSet, folder: Path) -> list[str]:
    return [os.path.relpath(images.path(i), folder) for i in range(len(images))]


def refusal(word: str, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        open_images(word, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message
