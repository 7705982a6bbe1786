"""The batch: the one thing that data hands to everything else."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch of images as they leave the loader: bytes, not yet augmented, not yet normalised.

    Attributes:
        image: (N, C, H, W) uint8.
        label: (N,) int64, -1 where there is no label.
        index: (N,) int64, position of each image in its data set.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides `tuple.index`, which nobody needs here
