"""Losses of the contrastive methods: pure functions of tensors, in the papers' symbols."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy: each view finds its partner among the 2N - 1 others.

    Args:
        z1: Projections of the first views, (N, D); normalised here.
        z2: Projections of the second views, (N, D); row i belongs to row i of `z1`.
        temperature: Divides the cosine similarities, above 0.

    Returns:
        Scalar: mean cross-entropy over the 2N views, in nats. Orthogonal pairs of equal views give
        ``log(exp(1 / t) + 2 N - 2) - 1 / t``.

    Source: Chen et al. 2020 (SimCLR), equation 1.

    Example:
        >>> z = torch.eye(4)
        >>> round(nt_xent(z, z, temperature=0.5).item(), 4)
        0.5944
    """
    n = len(z1)
    z = torch.cat([z1, z2])
    # In half precision, similarities divided by a small temperature would lose what tells candidates apart.
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)  # (2N, D)
        similarity = (z @ z.T / temperature).fill_diagonal_(float("-inf"))  # (2N, 2N); no view is its own candidate
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(similarity, partner)
