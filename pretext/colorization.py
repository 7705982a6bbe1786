"""Colorization: which colours does this grey image have?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ssl_toolkit.augment import Views
from ssl_toolkit.colours import rgb_to_lab
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.method import TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.colour_head import ColourHead, Target, ab_distance, lab_target, off_by, recoloured
from ssl_toolkit.pretext.map_task import MapTask


class Colorization(MapTask):
    """Colorful image colorization: the colours of an image from its lightness.

    The encoder takes RGB images and keeps their CIE lightness, in training and ever after. Images without colour are
    left out of the prior and of the loss; ``grey`` says how many of a batch they are.

    Args:
        encoder: What is trained and kept.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        target: ``classification`` predicts a distribution over the bins of ab, ``regression`` ab itself.
        lambda_: Lambda of the paper's equation 4, in (0, 1]: share of the uniform distribution that the measured one is
            mixed with before rare colours are weighted by the inverse; 1 weighs all alike. Of classification.
        temperature: Of the annealed mean, which makes one colour out of a distribution; it is in pictures and in
            ``ab_error``, not in the loss.

    Source: Zhang, Isola & Efros 2016.
    """

    encoder_colours = "lightness"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        target: Target = "classification",
        lambda_: float = 0.5,
        temperature: float = 0.38,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        self.head = ColourHead(self.width, self.stride, target, lambda_, temperature)

    def chance_loss(self, batch_size: int) -> float | None:
        """Of classification, ``log(261)``: all bins alike, for rebalancing weights average 1."""
        return math.log(len(self.head.bins)) if self.head.target == "classification" else None

    def prepare(self, views: Iterator[list[Tensor]]) -> None:
        """Measure how common the colours are."""
        self.head.measure(made[0] for made in views)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode the lightness, predict the colours."""
        lab, coloured = lab_target(views[0])
        out = self._predict(views[0], lab)
        return {**self.head.scores(out, lab[:, 1:], coloured), "grey": 1 - coloured.to(lab.dtype).mean()}

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """The lightness that the network sees, the colours that it paints, and the true ones."""
        image, (lab, _) = views[0], lab_target(views[0])
        ab = self.head.colours(self._predict(image, lab))
        lightness = rgb_to_lab(image)[:, :1]
        return TaskPicture(
            "The lightness of views, which is all that the network sees, the colours that it paints on it, and the "
            "true ones; below, the mean distance of the two in ab of CIE Lab.",
            {"seen": recoloured(lightness, torch.zeros_like(ab)), "painted": recoloured(lightness, ab), "view": image},
            {"painted": off_by(ab_distance(ab, lab[:, 1:]))},
        )

    def _predict(self, image: Tensor, lab: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder.feature_map(image), (lab.shape[-2], lab.shape[-1]))
        return out
