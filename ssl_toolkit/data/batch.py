"""The batch: the one thing that data hands to everything else."""

from __future__ import annotations

from collections.abc import Callable
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
        """The batch on a device; nothing is copied of one that is there."""
        return self.each(lambda part: part.to(device, **kwargs))

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A function of every tensor."""
        box = None if self.box is None else function(self.box)
        return Batch(function(self.image), function(self.label), function(self.index), box)
