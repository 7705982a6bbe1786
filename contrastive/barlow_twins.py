"""Barlow Twins: the features of two views are correlated one by one, and with no other."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ssl_toolkit.augment import Views, byol_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.passes import by_view
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig


class BarlowTwins(Method):
    """Self-supervised learning via redundancy reduction.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        lambda_: Weight of the off-diagonal correlations.
        projection_dim: Width of the projector's three layers, and of the cross-correlation (8,192 for ImageNet).
        joint_norm: Whether batch norms see both views as one batch; the authors' code passes one view after the other.

    Source: Zbontar et al. 2021, algorithm 1 and section 2.2; its views are BYOL's.
    """

    default_views = staticmethod(byol_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        lambda_: float = 5e-3,
        projection_dim: int = 2048,
        joint_norm: bool = False,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(lambda_=lambda_, projection_dim=projection_dim)
        self.projector = mlp(encoder.feature_dim, *[projection_dim] * 3)
        self.lambda_, self.joint_norm = lambda_, joint_norm

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode, project, correlate."""
        z1, z2 = by_view(lambda view: self.projector(self.encoder(view)), views, self.joint_norm)
        return {"loss": losses.barlow_twins(z1, z2, self.lambda_)}
