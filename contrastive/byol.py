"""BYOL: a view's features predict what a slowly moving copy of the network makes of the other view."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ssl_toolkit.augment import Views, byol_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive, require_share
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.schedules import cosine


class BYOL(Method):
    """Bootstrap your own latent: no negatives, a predictor and a target network.

    Args:
        encoder: The online encoder: what is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        momentum: Share of the target network that stays at the first step, in [0, 1]; it rises to 1.
        hidden_dim: Width of the heads' hidden layers (4,096 for ImageNet).
        projection_dim: Dimension in which views are compared.

    Source: Grill et al. 2020, equation 2, algorithm 1 and section 3.3.
    """

    default_views = staticmethod(byol_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        momentum: float = 0.99,
        hidden_dim: int = 1024,
        projection_dim: int = 256,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_share(momentum=momentum)
        require_positive(hidden_dim=hidden_dim, projection_dim=projection_dim)
        self.projector = mlp(encoder.feature_dim, hidden_dim, projection_dim)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim)
        self.target_encoder, self.target_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.momentum = momentum

    def chance_loss(self, batch_size: int) -> float | None:
        """4: predictions that are orthogonal to their targets, both ways."""
        return 4.0

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Squared distance of unit prediction and unit target, both ways."""
        with torch.no_grad():  # first: its memory is free again before the online network fills it
            z1, z2 = (self.target_projector(self.target_encoder(view)) for view in views)
        q1, q2 = (self.predictor(self.projector(self.encoder(view))) for view in views)
        return {"loss": 4 + 2 * (losses.negative_cosine(q1, z2) + losses.negative_cosine(q2, z1))}

    def after_update(self) -> None:
        """The target network follows, ever more slowly."""
        momentum = cosine(self.momentum, 1.0, self.progress)
        momentum_update(self.target_encoder, self.encoder, momentum)
        momentum_update(self.target_projector, self.projector, momentum)
