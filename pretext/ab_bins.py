"""Colours to be told apart: bins of ab, soft targets over them, what rare ones weigh, and one colour out of many."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.colours import rgb_to_lab

GRID = 10  # of ab, from one bin to the next
NEIGHBOURS = 5
SIGMA = 5.0  # of ab, of the Gaussian over neighbours and of that which smooths the prior
EDGE = 110  # no colour has an a or b beyond
UNMET = 0.01  # what a guess leaves for colours that were not met
CANDIDATES = 16  # hold the five nearest bins of all colours that round to the same whole a and b


@functools.cache
def gamut_bins() -> NDArray[np.float64]:
    """Centres of the bins of ab that hold a colour of sRGB, in lexicographic order: (261, 2), multiples of 10.

    The projection of a solid onto ab is that of its surface, so the six faces of the RGB cube are looked at, in steps
    of 8-bit colours. The file in the authors' code has 313 bins and no rule for them; those beyond these cells are
    outside the gamut, where no colour of an image can be.

    Source: Zhang et al. 2016, section 2.2.
    """
    ramp = torch.linspace(0, 1, 256, dtype=torch.float64)
    u, v = torch.meshgrid(ramp, ramp, indexing="ij")
    sides = [torch.stack([u, v, torch.full_like(u, end)]).roll(turn, 0) for turn in range(3) for end in (0.0, 1.0)]
    ab = rgb_to_lab(torch.stack(sides))[:, 1:].transpose(0, 1).flatten(1)  # (2, 6 * 256 * 256)
    bins: NDArray[np.float64] = GRID * np.unique((ab / GRID).round().numpy(), axis=1).T
    bins.setflags(write=False)  # it is cached
    return bins


def candidate_table(bins: Tensor) -> Tensor:
    """Bins that may be the nearest of a colour, by its rounded a and b: (221, 221, 16) int64.

    Args:
        bins: (Q, 2).
    """
    line = torch.arange(-EDGE, EDGE + 1, dtype=bins.dtype, device=bins.device)
    places = torch.cartesian_prod(line, line)
    near = torch.cdist(places, bins).topk(CANDIDATES, largest=False).indices
    return near.view(len(line), len(line), CANDIDATES)


def soft_encoding(ab: Tensor, bins: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """A distribution over the five nearest bins, by a Gaussian of their distance.

    Sparse, for a distribution over all bins takes fifty times the memory. It is
    ``zeros(N, Q, h, w).scatter(1, index, weight)``.

    Args:
        ab: (N, 2, h, w).
        bins: (Q, 2).
        table: Of these bins, see `candidate_table`.

    Returns:
        Numbers of bins, nearest first, (N, 5, h, w) int64; their weights (N, 5, h, w), which sum to 1.

    Source: Zhang et al. 2016, section 2.2: five neighbours, sigma 5.
    """
    cell = ab.round().clamp(-EDGE, EDGE).long() + EDGE
    candidates = table[cell[:, 0], cell[:, 1]]  # (N, h, w, 16)
    squared = (ab.permute(0, 2, 3, 1)[..., None, :] - bins[candidates]).square().sum(dim=-1)
    squared, order = squared.topk(NEIGHBOURS, largest=False)
    weight = (-squared / (2 * SIGMA**2)).softmax(dim=-1)
    return candidates.gather(-1, order).permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2)


def smoothed(prior: Tensor, bins: Tensor) -> Tensor:
    """Spread the share of each bin over those around it by a Gaussian; what is spread stays inside the gamut.

    Args:
        prior: Shares of the bins (Q,), which sum to 1.
        bins: (Q, 2).

    Source: Zhang et al. 2016, section 2.2.
    """
    kernel = (-torch.cdist(bins, bins).square() / (2 * SIGMA**2)).exp()
    return (kernel / kernel.sum(dim=0)) @ prior


def rebalancing_weights(prior: Tensor, lambda_: float) -> Tensor:
    """What a position weighs by the bin of its colour: rare colours more, one in the mean over the prior.

    Args:
        prior: Smoothed shares of the bins (Q,), up to a factor; all zeros, which says nothing, are taken as equal.
        lambda_: Share of the uniform distribution that is mixed in, in (0, 1]; 1 weighs all colours alike.

    Returns:
        Weights (Q,).

    Source: Zhang et al. 2016, eq. 4.
    """
    p = _shares(prior)
    weight = 1 / ((1 - lambda_) * p + lambda_ / len(p))
    return weight / (p * weight).sum()


def constant_guess(prior: Tensor, weight: Tensor) -> Tensor:
    """The distribution that is the best answer for those who do not look at the image.

    Args:
        prior: Shares of the bins (Q,), up to a factor; all zeros are taken as equal.
        weight: What a position weighs by its bin (Q,), see `rebalancing_weights`.

    Returns:
        Probabilities (Q,): shares times weights, and a hundredth that is uniform, for colours that were not met.
    """
    q = _shares(_shares(prior) * weight)
    return (1 - UNMET) * q + UNMET / len(q)


def _shares(counts: Tensor) -> Tensor:
    """Counts (Q,) over their sum; equal if all are 0."""
    total = counts.sum()
    return torch.where(total > 0, counts / torch.where(total > 0, total, 1), 1 / len(counts))


def annealed_mean(logits: Tensor, bins: Tensor, temperature: float) -> Tensor:
    """The mean colour of a distribution that has been sharpened: near 0 its mode, at 1 its mean.

    Args:
        logits: (N, Q, h, w).
        bins: (Q, 2).
        temperature: Above 0.

    Returns:
        ab, (N, 2, h, w), in the precision of the bins.

    Source: Zhang et al. 2016, section 2.3 (0.38).
    """
    with torch.autocast(logits.device.type, enabled=False):
        p = (logits.to(bins.dtype) / temperature).softmax(dim=1)
        return torch.einsum("nqhw,qc->nchw", p, bins)
