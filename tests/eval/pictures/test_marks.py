"""Marks: twenty classes stay apart for every colour vision, on light and on dark pages."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from ssl_toolkit.eval.pictures.marks import NAMED_CLASSES, PALETTE, mark
from ssl_toolkit.eval.pictures.themes import DARK, LIGHT

# Machado, Oliveira and Fernandes 2009, A physiologically-based model for simulation of color vision deficiency,
# severity 1: from linear RGB to the linear RGB that looks the same.
VISION = {
    "common": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(  # sRGB, IEC 61966-2-1
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB, for the white of D65."""
    xyz = TO_XYZ @ rgb / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def least_distance(marks: list[tuple[str, str]], vision: str) -> float:
    """Between the two nearest of marks: the difference of their colours (CIELAB), infinite between shapes."""
    seen = {colour: lab(np.clip(VISION[vision] @ linear(colour), 0, 1)) for colour, _ in marks}
    return min(
        float(np.linalg.norm(seen[one[0]] - seen[other[0]])) if one[1] == other[1] else np.inf
        for place, one in enumerate(marks)
        for other in marks[:place]
    )


def test_lab_of_known_colours() -> None:
    assert lab(linear("white")) == pytest.approx([100, 0, 0], abs=1e-3)
    assert lab(linear("red")) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert least_distance([("red", "o"), ("lime", "s")], "common") == np.inf


@pytest.mark.parametrize("vision", VISION)
def test_twenty_classes_are_told_apart(vision: str) -> None:
    marks = [mark(number) for number in range(NAMED_CLASSES)]
    assert NAMED_CLASSES == len(set(marks)) == 20
    assert least_distance(marks, vision) > 40  # one that is just noticed is 2.3
    okabe_ito = [(colour, "o") for colour in ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9")]
    assert least_distance(marks, vision) > least_distance(okabe_ito, vision)


@pytest.mark.parametrize("background", [LIGHT.background, DARK.background])
def test_marks_stand_out_from_the_page(background: str) -> None:
    def light(colour: str) -> float:
        return float(TO_XYZ[1] @ linear(colour)) + 0.05

    for colour in PALETTE:
        dark, bright = sorted((light(colour), light(background)))
        assert bright / dark > 2
