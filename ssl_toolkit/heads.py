"""Heads: what stands on an encoder while it trains and is thrown away afterwards."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(*dims: int) -> nn.Sequential:
    """A multi-layer perceptron: linear, batch norm, ReLU; the last layer is linear alone.

    Args:
        dims: Widths from input to output, at least two.

    Returns:
        Module from (N, dims[0]) to (N, dims[-1]).
    """
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(dims[:-1]):
        # A bias before a batch norm has no effect.
        layers += [nn.Linear(d_in, d_out, bias=False), nn.BatchNorm1d(d_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1]))
