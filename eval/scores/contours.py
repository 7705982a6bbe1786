"""How well carried masks fit: DAVIS's region similarity J, contour accuracy F, and their mean over objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from ssl_toolkit.eval.scores.propagation import Mask, iou

TOLERANCE = 0.008
"""How far contours may lie apart, of the image's diagonal."""


def contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask (H, W) that differ from the next to the right, below, or both."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    found: NDArray[np.bool_] = (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])
    return found


def contour_accuracy(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """F: harmonic mean of the shares of either mask's contour that lie within `TOLERANCE` of the other's.

    Args:
        found: (H, W).
        truth: (H, W).

    Returns:
        In [0, 1]; 1 where neither has a contour, 0 where one of them has none.

    Source: Perazzi et al. 2016, A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation, sec. 4.
    """
    one, other = contour(found), contour(truth)
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    radius = int(np.ceil(TOLERANCE * np.hypot(*truth.shape)))
    place = np.arange(-radius, radius + 1)
    disk = place[:, None] ** 2 + place**2 <= radius**2
    precision = float((one & binary_dilation(other, disk)).sum() / one.sum())
    recall = float((other & binary_dilation(one, disk)).sum() / other.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def j_and_f(carried: Sequence[Mask], truth: Mapping[int, Mask], objects: Sequence[int]) -> list[tuple[float, float]]:
    """J and F of each object of a clip, means over its frames.

    Args:
        carried: A mask a frame.
        truth: True ones, by the number of the frame.
        objects: Numbers in the masks.

    Returns:
        A pair an object. As in DAVIS's own evaluation, the first frame, which is given, and the last do not count; the
        last does where there is no other.
    """
    frames = sorted(number for number in truth if 0 < number < len(carried) - 1) or [len(carried) - 1]
    return [
        (
            float(np.mean([iou(carried[n], truth[n], [number]) for n in frames])),
            float(np.mean([contour_accuracy(carried[n] == number, truth[n] == number) for n in frames])),
        )
        for number in objects
    ]
