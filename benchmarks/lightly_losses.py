"""Each loss beside lightly's, on the same leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from lightly.models.modules.nn_memory_bank import NNMemoryBankModule
from torch import Tensor

from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.nnclr import nearest
from ssl_toolkit.contrastive.queue import Queue


@dataclass
class Loss:
    """A loss on given leaves, in both libraries."""

    name: str
    leaves: list[Tensor]
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]

    def contenders(self) -> dict[str, Callable[[], None]]:
        """Forward and backward of each."""

        def run(loss: Callable[[], Tensor]) -> None:
            loss().backward()
            for leaf in self.leaves:
                leaf.grad = None

        return {"ours": partial(run, self.ours), "theirs": partial(run, self.theirs)}


def pair_losses(n: int, device: torch.device) -> Iterator[Loss]:
    """The losses of two views."""

    def leaves(dim: int, rows: int = n) -> list[Tensor]:
        return [torch.randn(rows, dim, device=device).requires_grad_() for _ in range(2)]

    z = leaves(128)
    ntx = NTXentLoss(0.2)
    yield Loss(f"nt_xent, {n} x 128", z, lambda: losses.nt_xent(*z, 0.2), lambda: ntx(*z))
    p, target = z[0], z[1].detach()
    cosine = NegativeCosineSimilarity()
    yield Loss(f"negative_cosine, {n} x 128", [p], lambda: losses.negative_cosine(p, target), lambda: cosine(p, target))
    wide = leaves(2048)
    barlow, vicreg = BarlowTwinsLoss(), VICRegLoss()
    yield Loss(f"barlow_twins, {n} x 2,048", wide, lambda: losses.barlow_twins(*wide), lambda: barlow(*wide))
    yield Loss(f"vicreg, {n} x 2,048", wide, lambda: losses.vicreg(*wide), lambda: vicreg(*wide))


def queue_losses(n: int, device: torch.device) -> Iterator[Loss]:
    """The losses with a memory of 65,536, which moves on as in training."""
    k = 65536
    q, p1, p2 = (torch.randn(n, 128, device=device).requires_grad_() for _ in range(3))
    key = F.normalize(torch.randn(n, 128, device=device), dim=1)
    queue = Queue(k, 128).to(device)

    def info_nce() -> Tensor:
        loss = losses.info_nce(q, key, queue.vectors, 0.2)
        queue.enqueue(key)
        return loss

    moco = NTXentLoss(0.2, (k, 128)).to(device)
    yield Loss(f"info_nce, {n} x 128, queue {k}", [q], info_nce, lambda: moco(q, key))
    z = torch.randn(2 * n, 128, device=device)

    def nnclr() -> Tensor:
        nn1, nn2 = (nearest(each, queue.vectors) for each in z.chunk(2))
        loss = (losses.batch_nce(nn1, p2, 0.1) + losses.batch_nce(nn2, p1, 0.1)) / 2
        queue.enqueue(F.normalize(z.chunk(2)[0], dim=1))
        return loss

    bank, ntx = NNMemoryBankModule((k, 128)).to(device), NTXentLoss(0.1)

    def their_nnclr() -> Tensor:
        z0, z1 = z.chunk(2)
        z0, z1 = bank(z0, update=False), bank(z1, update=True)
        return 0.5 * (ntx(z0, p2) + ntx(z1, p1))

    yield Loss(f"nnclr, {n} x 128, queue {k}", [p1, p2], nnclr, their_nnclr)


def crop_losses(n: int, device: torch.device) -> Iterator[Loss]:
    """The losses of two global and two local crops."""
    k = 4096
    scores = [torch.randn(n, k, device=device).tanh_().requires_grad_() for _ in range(4)]
    swapped = SwaVLoss()

    def swav() -> Tensor:
        return losses.swav(scores, [losses.sinkhorn(each) for each in scores[:2]])

    yield Loss(f"swav, 4 x {n} x {k}", scores, swav, lambda: swapped(scores[:2], scores[2:]))
    teacher = [torch.randn(n, k, device=device).tanh_() for _ in range(2)]
    center, criterion = torch.zeros(k, device=device), DINOLoss(k).to(device)

    def dino() -> Tensor:
        loss = losses.dino(scores, teacher, center)
        center.lerp_(torch.cat(teacher).mean(0), 0.1)
        return loss

    yield Loss(f"dino, 4 x {n} x {k}", scores, dino, lambda: criterion(teacher, scores))
