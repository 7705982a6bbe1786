"""Views through one network: which of them its batch norms see as one batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

from ssl_toolkit.distributed import gather, rank, world_size

GLOBAL = 2  # global views, the first ones: those that DINO's teacher sees and SwAV makes codes of


def by_size(encode: Callable[[Tensor], Tensor], views: list[Tensor]) -> list[Tensor]:
    """Encode views, neighbours of equal size together.

    Args:
        encode: (N, C, H, W) to (N, D).
        views: (N, C, H_v, W_v) each.

    Returns:
        One (N, D) a view.

    Source: Caron et al. 2020 (SwAV), section 3.3; Caron et al. 2021 (DINO), ``MultiCropWrapper``.
    """
    encoded: list[Tensor] = []
    for _, group in groupby(views, key=lambda view: view.shape[-2:]):
        crops = list(group)
        encoded += encode(torch.cat(crops)).chunk(len(crops))
    return encoded


def by_view(encode: Callable[[Tensor], Tensor], views: list[Tensor], joint: bool) -> list[Tensor]:
    """Encode views one after the other, or all together.

    Args:
        encode: (N, ...) to (N, D).
        views: (N, ...) each, of one size.
        joint: Whether as one batch, so that batch norms mix the statistics of the views.

    Returns:
        One (N, D) a view.
    """
    return list(encode(torch.cat(views)).chunk(len(views))) if joint else [encode(view) for view in views]


@torch.no_grad()
def shuffled(encode: Callable[[Tensor], list[Tensor]], image: Tensor, seed: int) -> list[Tensor]:
    """Encode images shuffled across processes, so that a batch norm of a process does not tell which belong together.

    Args:
        encode: (N, C, H, W) to what is made of them, (N, ...) each.
        image: This process's images.
        seed: Decides the order, the same in every process.

    Returns:
        What is made of this process's images, in their order, without gradient.

    Source: He et al. 2020 (MoCo), section 3.3.
    """
    if world_size() == 1:
        return encode(image)
    n = len(image)
    mine = slice(rank() * n, (rank() + 1) * n)
    order = torch.randperm(n * world_size(), generator=torch.Generator().manual_seed(seed)).to(image.device)
    back = order.argsort()[mine]
    return [gather(each)[back] for each in encode(gather(image)[order[mine]])]
