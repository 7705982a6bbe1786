"""What colorization and the split brain share: a head that names the colours of an image at a quarter of its size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.colours import COLOUR_STD, lab_to_rgb, rgb_to_lab
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.pretext.ab_bins import (
    annealed_mean,
    candidate_table,
    constant_guess,
    gamut_bins,
    rebalancing_weights,
    smoothed,
    soft_encoding,
)
from ssl_toolkit.pretext.decoder import Decoder

STRIDE = 4  # pixels of the image to one of what is predicted, as in the paper
GREY = 2.0  # of a and b: within this an image has no colour

Target = Literal["classification", "regression"]


def lab_target(image: Tensor) -> tuple[Tensor, Tensor]:
    """What there is to predict of images.

    Args:
        image: (N, 3, H, W) in [0, 1].

    Returns:
        Lab (N, 3, H/4, W/4), each value the mean of its area; which images have a colour (N,) bool: an a or b of 2 or
        more in any pixel.
    """
    lab = rgb_to_lab(image)
    coloured = lab[:, 1:].abs().flatten(1).amax(dim=1) >= GREY
    size = tuple(max(1, side // STRIDE) for side in image.shape[-2:])
    return F.interpolate(lab, size, mode="area"), coloured


def mean_of_coloured(value: Tensor, coloured: Tensor) -> Tensor:
    """Mean over the images that have a colour, those of all processes; 0, with a gradient of 0, if there are none.

    Args:
        value: (N, ...).
        coloured: (N,) bool.
    """
    chosen = coloured.to(value.dtype)
    total, count = all_mean((value.flatten(1).mean(dim=1) * chosen).sum()), all_mean(chosen.sum())
    return total / torch.where(count > 0, count, 1)  # a count below 1: more processes than such images


def recoloured(lightness: Tensor, ab: Tensor) -> Tensor:
    """Images in [0, 1] of a lightness (N, 1, H, W) and colours (N, 2, h, w), the smaller of the two made larger."""
    size = max(lightness.shape[-2:], ab.shape[-2:])
    lightness, ab = (
        x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
        for x in (lightness, ab)
    )
    return lab_to_rgb(torch.cat([lightness, ab], dim=1))


def ab_distance(one: Tensor, other: Tensor) -> Tensor:
    """How far two colours (N, 2, h, w) of ab lie apart, (N, h, w)."""
    return (one - other).square().sum(dim=1).sqrt()


def off_by(distance: Tensor) -> list[str]:
    """The mean distance in each image in words, of (N, ...)."""
    return [f"off by {mean:.0f}" for mean in distance.flatten(1).mean(dim=1).tolist()]


def quarter_decoder(dim: int, outputs: int, stride: int) -> Decoder:
    """From a feature map, `stride` pixels to a position, to `outputs` values at a quarter of the image's size."""
    return Decoder(dim, outputs, max(1, round(stride / STRIDE)), width=64)  # at 128 a step takes a quarter longer


class ColourHead(nn.Module):
    """From a feature map to the colours of the image.

    Args:
        dim: Channels of the feature map.
        stride: Pixels of the image to a position of it.
        target: ``classification`` gives a distribution over the bins of ab at each position, ``regression`` ab itself.
        lambda_: See `rebalancing_weights`.
        temperature: See `annealed_mean`.
    """

    bins: Tensor
    table: Tensor
    prior: Tensor

    def __init__(self, dim: int, stride: int, target: Target, lambda_: float, temperature: float) -> None:
        super().__init__()
        require_positive(lambda_=lambda_, temperature=temperature)
        if lambda_ > 1:
            raise UsageError(f"--method.lambda_ is {lambda_}: it must be at most 1, which weighs all colours alike")
        self.target, self.lambda_, self.temperature = target, lambda_, temperature
        bins = torch.tensor(gamut_bins(), dtype=torch.get_default_dtype())
        self.register_buffer("bins", bins)
        self.register_buffer("table", candidate_table(bins), persistent=False)
        self.register_buffer("prior", torch.zeros(len(bins)))  # not measured yet
        self.decoder = quarter_decoder(dim, len(bins) if target == "classification" else 2, stride)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Feature map (N, D, h, w) to logits (N, Q, *size), or to ab (N, 2, *size) in units of its scale."""
        out: Tensor = self.decoder(features, size)
        return out

    def measure(self, images: Iterable[Tensor]) -> None:
        """Take the prior from images, those without colour left out.

        Args:
            images: Batches (N, 3, H, W) in [0, 1].

        Raises:
            UsageError: If none of them has a colour.
        """
        counts, seen = torch.zeros_like(self.prior), 0
        for image in images:
            lab, coloured = lab_target(image.to(self.prior))
            index, weight = soft_encoding(lab[coloured, 1:], self.bins, self.table)
            counts.index_add_(0, index.flatten(), weight.flatten())
            seen += len(image)
        if not counts.any():
            raise UsageError(
                f"none of the {seen} images that were looked at has a colour, and this method learns from colours: "
                "give --data with colour images, or another --method, such as rotation or jigsaw"
            )
        self.prior.copy_(counts / counts.sum())

    def scores(self, out: Tensor, ab: Tensor, coloured: Tensor) -> dict[str, Tensor]:
        """The loss, and how good the answer is, over the images that have a colour.

        Args:
            out: What `forward` gave.
            ab: True colours (N, 2, h, w).
            coloured: Which images have a colour, (N,) bool.

        Returns:
            ``loss``; ``ab_error``, the mean Euclidean distance in ab; of classification, ``accuracy`` and ``gain``
            too: how often the likeliest bin is right, and by how many nats the loss is below that of `constant_guess`.
            The former says little: most places are nearly grey, and where rare colours weigh more, others are said.
        """
        if self.target == "regression":
            loss = (out - ab / COLOUR_STD).square().sum(dim=1)  # (N, h, w)
            found = {"loss": mean_of_coloured(loss, coloured)}
        else:
            index, weight = soft_encoding(ab, self.bins, self.table)
            entropy = -(out.log_softmax(dim=1).gather(1, index) * weight).sum(dim=1)  # (N, h, w)
            with torch.autocast(ab.device.type, enabled=False):
                weights = rebalancing_weights(smoothed(self.prior, self.bins), self.lambda_)
            rarity = weights[index[:, 0]]
            guessed = -(constant_guess(self.prior, weights).log()[index] * weight).sum(dim=1)
            right = (out.argmax(dim=1) == index[:, 0]).to(ab.dtype)
            found = {
                "loss": mean_of_coloured(rarity * entropy, coloured),
                "accuracy": mean_of_coloured(right, coloured),
                "gain": mean_of_coloured(rarity * (guessed - entropy.detach()), coloured),
            }
        return {**found, "ab_error": mean_of_coloured(ab_distance(self.colours(out.detach()), ab), coloured)}

    def colours(self, out: Tensor) -> Tensor:
        """One colour a position: ab, (N, 2, h, w)."""
        if self.target == "regression":
            return out.to(self.bins.dtype) * COLOUR_STD
        return annealed_mean(out, self.bins, self.temperature)
