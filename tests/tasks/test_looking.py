"""What is seen in images whose copies, colours and detail are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.tasks.looking import look


def photographs(count: int, side: int = 64) -> np.ndarray:
    """Patches of several sizes over one another, which look like no other image."""
    generator = np.random.default_rng(0)
    layers = []
    for pixels in (4, 8, 16, 32, side):
        noise = generator.integers(0, 256, (count, pixels, pixels, 3), np.uint8)
        layers.append([np.asarray(Image.fromarray(each).resize((side, side)), np.float32) for each in noise])
    return np.average(layers, axis=0, weights=[5, 4, 3, 1, 1]).astype(np.uint8)


def test_unlike_images_with_colours_and_detail() -> None:
    seen = look(open_images(photographs(20)), 64)
    assert (seen.copies, seen.grey, seen.detail) == (0.0, 0.0, 1.0)


def test_copies_of_the_one_before_are_counted() -> None:
    images = photographs(10)
    softer = [np.asarray(Image.fromarray(each).filter(ImageFilter.GaussianBlur(0.4))) for each in images]
    twice = np.stack([each for pair in zip(images, softer, strict=True) for each in pair])
    assert look(open_images(twice), 64).copies == pytest.approx(10 / 19)


def test_images_without_colours_are_counted() -> None:
    images = photographs(10)
    images[:4] = images[:4].mean(axis=3, keepdims=True)
    assert look(open_images(images), 64).grey == 0.4
    assert look(open_images(images[..., :1]), 64).grey == 1.0


@pytest.mark.parametrize(("side", "share"), [(64, 0.5), (128, 0.25)])
def test_enlarged_images_hold_no_more_detail(side: int, share: float) -> None:
    enlarged = [np.asarray(Image.fromarray(each).resize((side, side))) for each in photographs(6, 32)]
    assert look(open_images(np.stack(enlarged)), side).detail == share


def test_a_large_collection_is_looked_at_here_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    images, rows = open_images("shapes:train:5000"), []
    load = type(images).load
    monkeypatch.setattr(type(images), "load", lambda self, row, size: rows.append(row) or load(self, row, size))
    monkeypatch.setattr("ssl_toolkit.tasks.looking.LOOKED_AT", 8)
    look(images, 32)
    assert sorted(rows) == [0, 1, 1666, 1667, 3332, 3333, 4998, 4999]


def test_images_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(ToolkitError, match=r"^none of the images of .* can be read$"):
        look(open_images(tmp_path), 32)
