"""The memory of past embeddings: first in, first out, the same in every process, saved with the run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.distributed import gather


class Queue(nn.Module):
    """The last `size` embeddings. Compare first, `enqueue` afterwards: what is queued first is its own negative.

    Args:
        size: Number of embeddings, at least 1; at the start they are random.
        dim: Their dimension.

    Source: He et al. 2020 (MoCo), section 3.2 and algorithm 1.
    """

    vectors: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor) -> None:
        """Put the embeddings of all processes, (N, dim) each, in the place of the oldest."""
        size = len(self.vectors)
        newest = gather(embeddings.detach())[-size:].to(self.vectors.dtype)
        rows = (self.position + torch.arange(len(newest), device=newest.device)) % size
        self.vectors[rows] = newest
        self.position.copy_((self.position + len(newest)) % size)
