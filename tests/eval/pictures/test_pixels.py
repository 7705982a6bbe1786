"""Pixels: the right channels and the middle of every kind of image."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_toolkit.eval.pictures.pixels import tile
from tests.conftest import BLUE, RED, plain


@pytest.mark.parametrize(
    ("image", "rgb"),
    [
        (plain((7,)), (7, 7, 7)),
        (plain((7, 9)), (7, 7, 7)),
        (plain((7, 8, 9)), (7, 8, 9)),
        (plain((7, 8, 9, 10, 11)), (7, 8, 9)),
        (plain((0, 51, 255)) / np.float32(255), (0, 51, 255)),
        (plain((0, 255, 255)) / np.float32(255) + np.float32(1e-6), (0, 255, 255)),
    ],
)
def test_tile_shows_the_first_channels(image: np.ndarray, rgb: tuple[int, ...]) -> None:
    shown_tile = tile(image, 5)
    assert shown_tile.shape == (5, 5, 3)
    assert shown_tile.dtype == np.uint8
    assert (shown_tile == rgb).all()


def test_tile_is_the_square_middle() -> None:
    image = np.concatenate([plain(RED, 10), plain(BLUE, 10), plain(RED, 10)], axis=2)  # (3, 10, 30)
    assert (tile(image, 10) == BLUE).all()
