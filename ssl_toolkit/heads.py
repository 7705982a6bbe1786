"""Heads: what stands on an encoder while it trains and is thrown away afterwards."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(
    *dims: int,
    norm: bool = True,
    last_norm: bool = False,
    last_bias: bool = True,
    activation: Callable[[], nn.Module] = lambda: nn.ReLU(inplace=True),
) -> nn.Sequential:
    """A multi-layer perceptron: linear, batch norm, ReLU; the last layer is linear alone.

    Args:
        dims: Widths from input to output, at least two.
        norm: Whether hidden layers have a batch norm.
        last_norm: Whether the output goes through a batch norm without scale and shift.
        last_bias: Whether the output has a bias, where it goes through no norm.
        activation: Makes the activation of the hidden layers.

    Returns:
        Module from (N, dims[0]) to (N, dims[-1]).
    """
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(dims[:-1]):
        # A bias before a batch norm has no effect.
        layers += [nn.Linear(d_in, d_out, bias=not norm), *([nn.BatchNorm1d(d_out)] if norm else []), activation()]
    layers.append(nn.Linear(dims[-2], dims[-1], bias=last_bias and not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm1d(dims[-1], affine=False))
    return nn.Sequential(*layers)


def small_weights(layers: nn.Module) -> None:
    """Draw the weights of all linear layers from a normal of standard deviation 0.02; biases become 0.

    So a head's outputs differ as its inputs do; with PyTorch's biases, what they have in common prevails.

    Source: Caron et al. 2021 (DINO), ``vision_transformer.py``; Assran et al. 2022 (MSN), ``deit.py``.
    """
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class CosinePrototypes(nn.Module):
    """Cosine of each vector with `count` learned directions: a linear layer with unit inputs and unit rows.

    Args:
        dim: Dimension of the vectors.
        count: Number of prototypes.
        unit: Whether the directions have length 1; else each has one of its own, which is learned too and starts at 1.

    Source: Caron et al. 2021 (DINO), appendix C: an l2 bottleneck and a weight-normalised last layer.
    """

    def __init__(self, dim: int, count: int, unit: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)
        # A column, as torch's weight norm has it: it is decayed as weights are.
        self.length = None if unit else nn.Parameter(torch.ones(count, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim) to cosines (N, count), times the directions' lengths."""
        directions = F.normalize(self.weight, dim=1)
        return F.linear(F.normalize(x, dim=1), directions if self.length is None else self.length * directions)


def dino_head(
    dim: int, hidden_dim: int, bottleneck_dim: int, prototypes: int, unit: bool = True, norm: bool = False
) -> nn.Sequential:
    """DINO's head: three layers, a bottleneck, and cosines with the prototypes times their lengths.

    Args:
        dim: Of the features.
        hidden_dim: Width of the two hidden layers.
        bottleneck_dim: In front of the prototypes.
        prototypes: Number of outputs.
        unit: Whether prototypes have length 1; see `CosinePrototypes`.
        norm: Whether the hidden layers have a batch norm.

    Returns:
        Module from (N, dim) to (N, prototypes): the layers, then the prototypes.

    Source: Caron et al. 2021 (DINO), appendix C.
    """
    layers = mlp(dim, hidden_dim, hidden_dim, bottleneck_dim, norm=norm, activation=nn.GELU)
    small_weights(layers)
    return nn.Sequential(layers, CosinePrototypes(bottleneck_dim, prototypes, unit))
