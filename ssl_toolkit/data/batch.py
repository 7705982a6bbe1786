"""The batch: the one thing that data hands to everything else."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A batch of images as they leave the loader: bytes, not yet augmented, not yet normalised.

    Attributes:
        image: (N, C, H, W) uint8; smaller images lie in the top left, zeros around them.
        label: (N,) int64, -1 where there is no label.
        index: (N,) int64, position of each image in its data set.
        box: (N, 2) int64, height and width of each image in the batch; None where all of them fill it.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides `tuple.index`, which nobody needs here
    box: Tensor | None = None

    def to(self, device: torch.device | str, **kwargs: Any) -> Batch:
        """The batch on a device, but for the boxes: crops are drawn on the CPU, which must not wait for the device."""
        image, label, index = (part.to(device, **kwargs) for part in (self.image, self.label, self.index))
        return Batch(image, label, index, self.box)
