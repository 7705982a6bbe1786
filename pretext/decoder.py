"""From a feature map back to pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Decoder(nn.Module):
    """Twice the size by nearest neighbours, convolution, batch norm, ReLU, as often as the encoder halved it.

    Resizing before the convolution leaves no checkerboard, as transposed convolutions do (Odena et al. 2016).

    Args:
        dim: Channels of the feature map.
        channels: Channels of what is painted.
        stride: Pixels to a position of the feature map.
        width: Channels of the first convolution, halved at each further one, at least 32.
    """

    def __init__(self, dim: int, channels: int, stride: int, width: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(round(math.log2(stride))):
            layers += [
                nn.Upsample(scale_factor=2), nn.Conv2d(dim, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]  # fmt: skip
            dim, width = width, max(width // 2, 32)
        self.layers = nn.Sequential(*layers, nn.Conv2d(dim, channels, 3, padding=1))

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Feature map (N, D, h, w) to (N, C, *size)."""
        # The encoder's order in memory: on a CPU, its convolutions take half the time.
        painted: Tensor = self.layers(features.contiguous(memory_format=torch.channels_last))
        if painted.shape[-2:] != size:  # a stride that is no power of two, or a view that is no multiple of it
            painted = F.interpolate(painted, size, mode="bilinear", align_corners=False)
        return painted


def psnr(painted: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images in [0, 1], in decibels: of the mean squared error over all of them."""
    return -10 * (painted - image).square().mean().log10()
