"""Split brain: one half of the encoder predicts what the other half sees."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import Views
from ssl_toolkit.colours import LIGHTNESS_MEAN, LIGHTNESS_STD, rgb_to_lab
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.method import TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.colour_head import (
    ColourHead,
    Target,
    ab_distance,
    lab_target,
    mean_of_coloured,
    off_by,
    quarter_decoder,
    recoloured,
)
from ssl_toolkit.pretext.map_task import MapTask

LIGHTNESS_BINS = 50
BIN = 100 / LIGHTNESS_BINS  # of L


def lightness_bin(lightness: Tensor) -> Tensor:
    """L (N, 1, h, w) in 0 to 100 to the number of its bin, (N, h, w) int64."""
    return (lightness[:, 0] / BIN).long().clamp(0, LIGHTNESS_BINS - 1)


def mean_lightness(logits: Tensor) -> Tensor:
    """Logits of the bins (N, 50, h, w) to their mean L, (N, 1, h, w)."""
    centre = BIN * (torch.arange(LIGHTNESS_BINS, device=logits.device) + 0.5)
    return (logits.softmax(dim=1) * centre.view(1, -1, 1, 1)).sum(dim=1, keepdim=True)


class SplitBrain(MapTask):
    """Split-brain autoencoders: lightness to colours and colours to lightness, by two halves of one encoder.

    Images without colour are left out of the prior and of both losses; ``grey`` says how many of a batch they are.

    Args:
        encoder: What is trained and kept: two networks of half the width, their features side by side.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        target: ``classification`` predicts distributions over the bins of ab and over 50 bins of L, ``regression``
            their values.
        lambda_: As in `Colorization`; 1 weighs all colours alike.
        temperature: As in `Colorization`.

    Source: Zhang, Isola & Efros 2017.
    """

    encoder_colours = "split"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        target: Target = "classification",
        lambda_: float = 1.0,
        temperature: float = 0.38,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        self.target = target
        self.colour_head = ColourHead(self.width // 2, self.stride, target, lambda_, temperature)
        outputs = LIGHTNESS_BINS if target == "classification" else 1
        self.lightness_head = quarter_decoder(self.width // 2, outputs, self.stride)

    def chance_loss(self, batch_size: int) -> float | None:
        """Of classification, ``log(261) + log(50)``."""
        both = len(self.colour_head.bins) * LIGHTNESS_BINS
        return math.log(both) if self.target == "classification" else None

    def prepare(self, views: Iterator[list[Tensor]]) -> None:
        """Measure how common the colours are."""
        self.colour_head.measure(made[0] for made in views)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode lightness and colours apart; predict each from the other."""
        lab, coloured = lab_target(views[0])
        colours, lightness = self._predict(views[0], lab)
        found = self.colour_head.scores(colours, lab[:, 1:], coloured)
        if self.target == "classification":
            loss = F.cross_entropy(lightness, lightness_bin(lab[:, :1]), reduction="none")
        else:
            loss = (lightness - (lab[:, :1] - LIGHTNESS_MEAN) / LIGHTNESS_STD).square()
        off = (self._lightness(lightness.detach()) - lab[:, :1]).abs()
        return {
            **found,
            "loss": found["loss"] + mean_of_coloured(loss, coloured),
            "lightness_error": mean_of_coloured(off, coloured),
            "grey": 1 - coloured.to(lab.dtype).mean(),
        }

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """What each half sees, and what is painted from it."""
        image, (small, _) = views[0], lab_target(views[0])
        lab = rgb_to_lab(image)
        colours, lightness = self._predict(image, small)
        ab, painted = self.colour_head.colours(colours), self._lightness(lightness)
        none = torch.zeros_like(lab)
        return TaskPicture(
            "Views; their lightness and the colours that one half of the network paints on it; their colours at equal "
            "lightness and the lightness that the other half paints from them; below, mean distances in CIE Lab.",
            {
                "view": image,
                "lightness": recoloured(lab[:, :1], none[:, 1:]),
                "colours painted": recoloured(lab[:, :1], ab),
                "colours": recoloured(none[:, :1] + LIGHTNESS_MEAN, lab[:, 1:]),
                "lightness painted": recoloured(painted, none[:, 1:]),
            },
            {
                "colours painted": off_by(ab_distance(ab, small[:, 1:])),
                "lightness painted": off_by((painted - small[:, :1]).abs()),
            },
        )

    def _predict(self, image: Tensor, lab: Tensor) -> tuple[Tensor, Tensor]:
        """What the half that sees lightness says of the colours, and the other one of the lightness."""
        size = lab.shape[-2], lab.shape[-1]
        from_lightness, from_colour = self.encoder.feature_map(image).chunk(2, dim=1)
        return self.colour_head(from_lightness, size), self.lightness_head(from_colour, size)

    def _lightness(self, out: Tensor) -> Tensor:
        """L (N, 1, h, w) in 0 to 100 from the head's output."""
        return mean_lightness(out) if self.target == "classification" else out * LIGHTNESS_STD + LIGHTNESS_MEAN
