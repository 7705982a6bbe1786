"""Rotation: which turn has this image been given?"""

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


def rotate(image: Tensor, turns: int = 4) -> tuple[Tensor, Tensor]:
    """Every image in all turns; pixels are moved, never interpolated, so they hold no trace of the turn.

    Args:
        image: Square images, (N, C, S, S).
        turns: Turns R that go once around, 4 (by quarters) or 2 (by halves).

    Returns:
        Images (RN, C, S, S), all of turn 0 first, then 1, 2, 3 counter-clockwise; turns (RN,) int64.

    Raises:
        UsageError: If the images are not square: their shape would give the turn away.

    Source: Gidaris et al. 2018, section 2.2; all four turns of an image share a batch.
    """
    n, _, height, width = image.shape
    if height != width:
        raise UsageError(f"rotation needs square images, got {height}x{width}: their shape would give the turn away")
    turned = torch.cat([torch.rot90(image, k * 4 // turns, (2, 3)) for k in range(turns)])
    return turned, torch.arange(turns, device=image.device).repeat_interleave(n)


class Rotation(Method):
    """Unsupervised representation learning by predicting image rotations.

    Args:
        encoder: What is trained and kept.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        turns: Turns that are told apart: 4, by quarters, or 2, upright and upside down.

    Source: Gidaris et al. 2018; table 2 compares numbers of turns. Chance is 1 / turns.
    """

    default_views = staticmethod(pretext_views)

    def __init__(
        self, encoder: Encoder, views: Views, optimizer: OptimizerConfig | None = None, turns: int = 4
    ) -> None:
        super().__init__(encoder, views, optimizer)
        if turns not in (2, 4):
            raise UsageError(f"--method.turns is {turns}: it must be 2 or 4; other turns would need interpolation")
        self.turns = turns
        self.head = nn.Linear(encoder.feature_dim, turns)

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(turns)``."""
        return math.log(self.turns)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Turn, encode, name the turn; the accuracy is also given by turn, in degrees."""
        image, turn = rotate(views[0], self.turns)
        logits = self.head(self.encoder(image))  # (RN, R)
        right = (logits.argmax(1) == turn).float().view(self.turns, -1).mean(dim=1)  # (R,)
        each = {f"accuracy_{angle}": share for angle, share in zip(self._angles, right, strict=True)}
        return {"loss": F.cross_entropy(logits, turn), "accuracy": right.mean(), **each}

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """Each view in its turns, and the turn that the head names."""
        n = len(views[0])
        image, turn = rotate(views[0], self.turns)
        share, said = self.head(self.encoder(image)).softmax(dim=1).max(dim=1)
        names = [f"{angle}°" for angle in self._angles]
        words = [f"{names[k]}, {100 * p:.0f} %" for k, p in zip(said.tolist(), share.tolist(), strict=True)]
        right = (100 * (said == turn).float()).view(self.turns, n)
        by_turn = ", ".join(f"{name} {value:.0f} %" for name, value in zip(names, right.mean(dim=1), strict=True))
        return TaskPicture(
            f"Views in {self.turns} turns, and the turn that the network names for each; {right.mean():.0f} % of these "
            f"are right, by turn: {by_turn}.",
            {name: image[n * k : n * k + n] for k, name in enumerate(names)},
            {name: words[n * k : n * k + n] for k, name in enumerate(names)},
        )

    @property
    def _angles(self) -> range:
        """The turns in degrees, counter-clockwise."""
        return range(0, 360, 360 // self.turns)
