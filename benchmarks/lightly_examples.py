"""lightly's methods as its examples write them (``examples/pytorch``), with our head sizes, queues and prototypes.

It has no example of MoCo v3, which is put together from its parts, and no CPC.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from lightly.models.modules import heads
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.models.modules.nn_memory_bank import NNMemoryBankModule
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from ssl_toolkit.contrastive.barlow_twins import BarlowTwins
from ssl_toolkit.contrastive.byol import BYOL
from ssl_toolkit.contrastive.cpc import CPC
from ssl_toolkit.contrastive.dino import DINO
from ssl_toolkit.contrastive.moco import MoCo, MoCoV3
from ssl_toolkit.contrastive.nnclr import NNCLR
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.contrastive.simsiam import SimSiam
from ssl_toolkit.contrastive.swav import SwAV
from ssl_toolkit.contrastive.vicreg import VICReg
from ssl_toolkit.method import Method


class Example(nn.Module):
    """What lightly's examples have in common; with two views and a symmetric loss it is all of one."""

    def __init__(self, backbone: nn.Module, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projection_head, self.criterion = backbone, head, criterion

    def project(self, x: Tensor) -> Tensor:
        """One view to its projection."""
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        z0, z1 = (self.project(x) for x in views)
        return self.criterion(z0, z1)


class MomentumExample(Example):
    """An example with a momentum network; as it stands, MoCo."""

    def __init__(self, backbone: nn.Module, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__(backbone, head, criterion)
        self.backbone_momentum, self.projection_head_momentum = copy.deepcopy(backbone), copy.deepcopy(head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def follow(self) -> None:
        """Move the momentum network."""
        update_momentum(self.backbone, self.backbone_momentum, m=0.99)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.99)

    def project_momentum(self, x: Tensor) -> Tensor:
        """One view to what the momentum network makes of it."""
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        self.follow()
        x_query, x_key = views
        return self.criterion(self.project(x_query), self.project_momentum(x_key))


class PredictedMomentumExample(MomentumExample):
    """BYOL, and MoCo v3 with other heads and another loss."""

    def __init__(self, backbone: nn.Module, head: nn.Module, prediction: nn.Module, criterion: nn.Module) -> None:
        super().__init__(backbone, head, criterion)
        self.prediction_head = prediction

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        self.follow()
        x0, x1 = views
        p0, z0 = self.prediction_head(self.project(x0)), self.project_momentum(x0)
        p1, z1 = self.prediction_head(self.project(x1)), self.project_momentum(x1)
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


class PredictedExample(Example):
    """SimSiam, and NNCLR with a memory bank whose nearest neighbours take the projections' place."""

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        prediction: nn.Module,
        criterion: nn.Module,
        memory_bank: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone, head, criterion)
        self.prediction_head, self.memory_bank = prediction, memory_bank

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        z0, z1 = (self.project(x) for x in views)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        z0, z1 = z0.detach(), z1.detach()
        if self.memory_bank is not None:
            z0, z1 = self.memory_bank(z0, update=False), self.memory_bank(z1, update=True)
        return 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))


class SwaVExample(Example):
    """SwAV with a queue."""

    def __init__(self, backbone: nn.Module, head: nn.Module, prototypes: nn.Module, queue: tuple[int, int]) -> None:
        super().__init__(backbone, head, SwaVLoss())
        self.prototypes = prototypes
        self.queues = nn.ModuleList([MemoryBankModule(size=queue) for _ in range(2)])

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        with torch.no_grad():
            self.prototypes.normalize()
        features = [F.normalize(self.project(x), dim=1, p=2) for x in views]
        scores = [self.prototypes(x) for x in features]
        with torch.no_grad():
            queued = [queue(x, update=True)[1] for queue, x in zip(self.queues, features[:2], strict=True)]
            queue_scores = [self.prototypes(x.permute(1, 0)) for x in queued]
        return self.criterion(scores[:2], scores[2:], queue_scores)


class DINOExample(MomentumExample):
    """DINO, whose head cannot be copied and is built twice."""

    def __init__(self, backbone: nn.Module, feature_dim: int) -> None:
        super().__init__(backbone, nn.Identity(), DINOLoss(4096))
        self.projection_head = heads.DINOProjectionHead(feature_dim, 1024, 256, 4096)
        self.projection_head_momentum = heads.DINOProjectionHead(feature_dim, 1024, 256, 4096)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Views to the loss."""
        self.follow()
        teacher = [self.project_momentum(x) for x in views[:2]]
        student = [self.project(x) for x in views]
        return self.criterion(teacher, student, epoch=0)


# name: our class, our arguments beyond the defaults, the same of lightly given an encoder and its feature dimension
METHODS: dict[str, tuple[type[Method], dict[str, float], Callable[[nn.Module, int], nn.Module] | None]] = {
    "simclr": (SimCLR, {}, lambda e, d: Example(e, heads.SimCLRProjectionHead(d, 512, 128), NTXentLoss(0.2))),
    "moco": (
        MoCo,
        {},
        lambda e, d: MomentumExample(e, heads.MoCoProjectionHead(d, 512, 128), NTXentLoss(0.2, (4096, 128))),
    ),
    "moco_v3": (
        MoCoV3,
        {},
        lambda e, d: PredictedMomentumExample(
            e,
            heads.MoCoProjectionHead(d, 1024, 256, batch_norm=True),
            heads.MoCoProjectionHead(256, 1024, 256, batch_norm=True),
            NTXentLoss(0.2),
        ),
    ),
    "byol": (
        BYOL,
        {},
        lambda e, d: PredictedMomentumExample(
            e,
            heads.BYOLProjectionHead(d, 1024, 256),
            heads.BYOLPredictionHead(256, 1024, 256),
            NegativeCosineSimilarity(),
        ),
    ),
    "simsiam": (
        SimSiam,
        {},
        lambda e, d: PredictedExample(
            e,
            heads.SimSiamProjectionHead(d, 2048, 2048),
            heads.SimSiamPredictionHead(2048, 512, 2048),
            NegativeCosineSimilarity(),
        ),
    ),
    "barlow_twins": (
        BarlowTwins,
        {},
        lambda e, d: Example(e, heads.BarlowTwinsProjectionHead(d, 2048, 2048), BarlowTwinsLoss()),
    ),
    "vicreg": (VICReg, {}, lambda e, d: Example(e, heads.VICRegProjectionHead(d, 2048, 2048), VICRegLoss())),
    "swav": (
        SwAV,
        {"queue_start": 0.0},
        lambda e, d: SwaVExample(
            e, heads.SwaVProjectionHead(d, 1024, 128), heads.SwaVPrototypes(128, 512), (3840, 128)
        ),
    ),
    "nnclr": (
        NNCLR,
        {},
        lambda e, d: PredictedExample(
            e,
            heads.NNCLRProjectionHead(d, 1024, 256),
            heads.NNCLRPredictionHead(256, 1024, 256),
            NTXentLoss(0.1),
            NNMemoryBankModule((4096, 256)),
        ),
    ),
    "dino": (DINO, {}, DINOExample),
    "cpc": (CPC, {}, None),
}
