"""TiCo: views agree, and keep away from the directions in which embeddings have lain so far."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ssl_toolkit.augment import Views, byol_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive, require_share, require_two_views
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.schedules import cosine


class TiCo(Method):
    """Transformation invariance and covariance contrast: MoCo's queue as one matrix of past embeddings.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        rho: Weight of the contrast, above 0.
        beta: Share of the running covariance that stays at each step, in [0, 1].
        momentum: Share of the momentum network that stays at the first step, in [0, 1]; it rises to 1.
        hidden_dim: Width of the projection head's hidden layer (4,096 for ImageNet).
        projection_dim: Dimension in which views are compared.

    Source: Zhu et al. 2022, TiCo, algorithm 1; views and heads are BYOL's.
    """

    default_views = staticmethod(byol_views)
    embedding: ClassVar[str | None] = "projector"

    covariance: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        rho: float = 20.0,
        beta: float = 0.9,
        momentum: float = 0.99,
        hidden_dim: int = 1024,
        projection_dim: int = 256,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(rho=rho, hidden_dim=hidden_dim, projection_dim=projection_dim)
        require_share(beta=beta, momentum=momentum)
        require_two_views(len(views))
        self.projector = mlp(encoder.feature_dim, hidden_dim, projection_dim)
        self.key_encoder, self.key_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.register_buffer("covariance", torch.zeros(projection_dim, projection_dim))
        self.rho, self.beta, self.momentum = rho, beta, momentum

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode, compare, and let the covariance move on."""
        with torch.no_grad():
            z2 = self.key_projector(self.key_encoder(views[1]))
        z1 = self.projector(self.encoder(views[0]))
        loss, covariance = losses.tico(z1, z2, self.covariance, self.rho, self.beta)
        self.covariance.copy_(covariance)
        return {"loss": loss}

    def after_update(self) -> None:
        """The momentum network follows, ever more slowly."""
        momentum = cosine(self.momentum, 1.0, self.progress)
        momentum_update(self.key_encoder, self.encoder, momentum)
        momentum_update(self.key_projector, self.projector, momentum)
