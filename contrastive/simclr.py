"""SimCLR: two views of an image find each other among all views of the batch."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ssl_toolkit.augment import Views, simclr_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import world_size
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive, require_two_views
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig


class SimCLR(Method):
    """A simple framework for contrastive learning of visual representations.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        temperature: Divides the similarities, above 0.
        hidden_dim: Width of the projection head's hidden layer.
        projection_dim: Dimension in which views are compared.
        last_norm: Whether a batch norm stands behind the projection head's last layer, as in the authors' code.

    Source: Chen et al. 2020, algorithm 1; the projection head is thrown away (section 4.2).
    """

    default_views = staticmethod(simclr_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.2,
        hidden_dim: int = 512,
        projection_dim: int = 128,
        last_norm: bool = False,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(temperature=temperature, hidden_dim=hidden_dim, projection_dim=projection_dim)
        require_two_views(len(views))
        self.projector = mlp(encoder.feature_dim, hidden_dim, projection_dim, last_norm=last_norm)
        self.temperature = temperature

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(2 N - 1)``: all views but a view itself."""
        return math.log(2 * batch_size * world_size() - 1)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode both views together, project, compare."""
        z1, z2 = self.projector(self.encoder(torch.cat(views))).chunk(2)
        return {"loss": self.loss(z1, z2, batch)}

    def loss(self, z1: Tensor, z2: Tensor, batch: Batch) -> Tensor:
        """Of projections (N, D) of both views."""
        return losses.nt_xent(z1, z2, self.temperature)
