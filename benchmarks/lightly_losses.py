"""Each loss beside lightly's, on the same leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from lightly.loss import (
    BarlowTwinsLoss,
    DCLLoss,
    DCLWLoss,
    DINOLoss,
    IBOTPatchLoss,
    KoLeoLoss,
    MSNLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    TiCoLoss,
    VICRegLoss,
    WMSELoss,
)
from lightly.loss.lejepa_loss import SIGReg, lejepa_invariance_loss
from lightly.models.modules.nn_memory_bank import NNMemoryBankModule
from torch import Tensor

from ssl_toolkit.contrastive import losses, token_losses
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
    decoupled, weighted = DCLLoss(0.1), DCLWLoss(0.1, 0.5)
    yield Loss(f"dcl, {n} x 128", z, lambda: losses.dcl(*z, 0.1), lambda: decoupled(*z))
    yield Loss(f"dclw, {n} x 128", z, lambda: losses.dcl(*z, 0.1, sigma=0.5), lambda: weighted(*z))
    yield tico(n, z)
    short = leaves(64)
    whitened = WMSELoss(64, w_size=256, eps=1e-4)
    order = torch.arange(n, device=device)
    yield Loss(f"w_mse, {n} x 64", short, lambda: losses.w_mse(short, order, 256), lambda: whitened(torch.cat(short)))
    wide = leaves(2048)
    barlow, vicreg = BarlowTwinsLoss(), VICRegLoss()
    yield Loss(f"barlow_twins, {n} x 2,048", wide, lambda: losses.barlow_twins(*wide), lambda: barlow(*wide))
    yield Loss(f"vicreg, {n} x 2,048", wide, lambda: losses.vicreg(*wide), lambda: vicreg(*wide))


def tico(n: int, z: list[Tensor]) -> Loss:
    """TiCo's, whose covariance moves on."""
    covariance, theirs = torch.zeros(128, 128, device=z[0].device), TiCoLoss(beta=0.9, rho=8.0)

    def ours() -> Tensor:
        loss, c = losses.tico(z[0], z[1].detach(), covariance, rho=8.0)
        covariance.copy_(c)
        return loss

    return Loss(f"tico, {n} x 128", z[:1], ours, lambda: theirs(z[0], z[1].detach()))


def token_and_spread_losses(n: int, device: torch.device) -> Iterator[Loss]:
    """The losses of methods for ViTs."""
    k, patches = 4096, 16
    student = torch.randn(n, k, device=device).tanh_().requires_grad_()
    teacher = torch.randn(n, k, device=device).tanh_()
    mask = torch.zeros(n // patches, 8, 8, dtype=torch.bool, device=device)
    mask.flatten(1)[:, :patches] = True
    count, center = torch.full((n,), float(patches), device=device), torch.zeros(k, device=device)
    criterion = IBOTPatchLoss(k).to(device)

    def ibot() -> Tensor:
        target = ((teacher - center) / 0.04).softmax(1)
        center.lerp_(teacher.mean(0), 0.1)
        return token_losses.masked_patches(student, target, count, n // patches)

    yield Loss(f"ibot's patches, {n} x {k}", [student], ibot, lambda: criterion(teacher, student, mask))
    x = torch.randn(n, 384, device=device).requires_grad_()
    spread = KoLeoLoss()
    yield Loss(f"koleo, {n} x 384", [x], lambda: token_losses.koleo(x), lambda: spread(x))
    prototypes, z = (torch.randn(rows, 256, device=device) for rows in (1024, n))
    anchors, assigned = torch.randn(2 * n, 256, device=device).requires_grad_(), MSNLoss()

    def msn() -> Tensor:
        unit = F.normalize(prototypes, dim=1).T
        cosines = (F.normalize(anchors, dim=1) @ unit).chunk(2)
        return token_losses.msn(cosines, F.normalize(z, dim=1) @ unit)

    yield Loss(f"msn, 2 x {n} x 1024", [anchors], msn, lambda: assigned(anchors, z, prototypes))
    views = torch.randn(4, n, 128, device=device).requires_grad_()
    gaussian = SIGReg(knots=9, t_max=5.0, num_vectors=256).to(device)

    def lejepa() -> Tensor:
        directions = F.normalize(torch.randn(128, 256, device=device), dim=0)
        spread = torch.stack([token_losses.sigreg(view, directions) for view in views]).mean()
        return spread + token_losses.to_centre(views, 2)

    def their_lejepa() -> Tensor:
        spread = torch.stack([gaussian(view) for view in views]).mean()
        return spread + lejepa_invariance_loss(all_proj=views, global_proj=views[:2])

    yield Loss(f"lejepa, 4 x {n} x 128, 256 directions", [views], lejepa, their_lejepa)


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
