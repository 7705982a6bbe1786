"""Rotation: which of four quarter turns has this image been given?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, pretext_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.method import Method, TaskPicture
from ssl_toolkit.optim import OptimizerConfig

TURNS = 4


def rotate(image: Tensor) -> tuple[Tensor, Tensor]:
    """Every image in all four quarter turns; pixels are moved, never interpolated, so they hold no trace of the turn.

    Args:
        image: Square images, (N, C, S, S).

    Returns:
        Images (4N, C, S, S), all of turn 0 first, then 1, 2, 3 counter-clockwise; turns (4N,) int64.

    Raises:
        UsageError: If the images are not square: their shape would give the turn away.

    Source: Gidaris et al. 2018, section 2.2; all four turns of an image share a batch.
    """
    n, _, height, width = image.shape
    if height != width:
        raise UsageError(f"rotation needs square images, got {height}x{width}: their shape would give the turn away")
    turned = torch.cat([torch.rot90(image, k, (2, 3)) for k in range(TURNS)])
    return turned, torch.arange(TURNS, device=image.device).repeat_interleave(n)


class Rotation(Method):
    """Unsupervised representation learning by predicting image rotations.

    Args:
        encoder: What is trained and kept.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.

    Source: Gidaris et al. 2018. Chance is 25 %.
    """

    default_views = staticmethod(pretext_views)

    def __init__(self, encoder: Encoder, views: Views, optimizer: OptimizerConfig | None = None) -> None:
        super().__init__(encoder, views, optimizer)
        self.head = nn.Linear(encoder.feature_dim, TURNS)

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(4)``: four turns."""
        return math.log(TURNS)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Turn, encode, name the turn."""
        image, turn = rotate(views[0])
        logits = self.head(self.encoder(image))  # (4N, 4)
        return {"loss": F.cross_entropy(logits, turn), "accuracy": (logits.argmax(1) == turn).float().mean()}

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """Each view in its four turns, and the turn that the head names."""
        image, turn = rotate(views[0])
        share, said = self.head(self.encoder(image)).softmax(dim=1).max(dim=1)
        names = [f"{90 * k}°" for k in range(TURNS)]
        words = [f"{names[k]}, {100 * p:.0f} %" for k, p in zip(said.tolist(), share.tolist(), strict=True)]
        n = len(views[0])
        right = 100 * (said == turn).float().mean().item()
        return TaskPicture(
            f"Views in four turns, and the turn that the network names for each; {right:.0f} % of these are right.",
            {name: image[n * k : n * k + n] for k, name in enumerate(names)},
            {name: words[n * k : n * k + n] for k, name in enumerate(names)},
        )
