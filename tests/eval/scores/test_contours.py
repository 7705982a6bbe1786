"""J and F of carried masks: by the definitions, written down once more, and known values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ssl_toolkit.eval.scores.contours import contour, contour_accuracy, j_and_f

RNG = np.random.default_rng(0)


def blob(seed: int, height: int = 60, width: int = 90) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    y, x = np.indices((height, width))
    found = np.zeros((height, width), bool)
    for _ in range(3):
        found |= np.hypot(y - rng.uniform(10, 50), x - rng.uniform(10, 80)) < rng.uniform(5, 15)
    return found


def naive_contour(mask: NDArray[np.bool_]) -> set[tuple[int, int]]:
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            below, right = min(y + 1, height - 1), min(x + 1, width - 1)
            if any(mask[y, x] != mask[at] for at in ((below, x), (y, right), (below, right))):
                found.add((y, x))
    return found


def naive_f(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    a, b = naive_contour(one), naive_contour(other)
    reach = int(np.ceil(0.008 * np.linalg.norm(one.shape)))

    def near(points: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        return np.mean([any((y - v) ** 2 + (x - u) ** 2 <= reach**2 for v, u in others) for y, x in points])

    p, r = near(a, b), near(b, a)
    return 2 * p * r / (p + r) if p + r else 0.0


def test_the_contour_is_where_a_neighbour_differs() -> None:
    mask = blob(0)
    assert {tuple(each) for each in np.argwhere(contour(mask)).tolist()} == naive_contour(mask)
    assert not contour(np.ones((5, 7), bool)).any()


@pytest.mark.parametrize("seed", range(4))
def test_f_is_that_of_the_definition(seed: int) -> None:
    one, other = blob(seed), np.roll(blob(seed + (seed > 1)), seed, axis=1)
    assert contour_accuracy(one, other) == pytest.approx(naive_f(one, other), abs=1e-12)


def test_f_of_known_masks() -> None:
    square = np.zeros((100, 100), bool)
    square[20:60, 20:60] = True  # the tolerance is 0.008 x 141 = 1.1, and so 2 px
    assert contour_accuracy(square, square) == 1
    assert contour_accuracy(np.roll(square, 2, axis=0), square) == pytest.approx(1)
    assert 0.5 < contour_accuracy(np.roll(square, 3, axis=0), square) < 0.8  # two sides of four
    nothing = np.zeros_like(square)
    assert contour_accuracy(nothing, nothing) == 1
    assert contour_accuracy(nothing, square) == contour_accuracy(square, nothing) == 0


def test_first_and_last_frame_do_not_count() -> None:
    right, wrong = np.zeros((40, 40), np.int64), np.zeros((40, 40), np.int64)
    right[10:20, 10:20], right[25:35, 25:35], wrong[0:3, 0:3] = 1, 2, 1
    half = np.where(right == 2, 0, right)
    truth = dict.fromkeys(range(4), right)
    assert j_and_f([wrong, right, half, wrong], truth, [1, 2]) == [(1, 1), (0.5, 0.5)]
    assert j_and_f([wrong, right], dict.fromkeys(range(2), right), [1]) == [(1, 1)]
    assert j_and_f([wrong, right, half, wrong], {0: right, 2: right}, [2]) == [(0, 0)]  # masks of some frames
