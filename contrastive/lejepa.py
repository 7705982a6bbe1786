"""LeJEPA: views of an image meet in one place, and all places together are an isotropic Gaussian."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import Views, lejepa_views
from ssl_toolkit.contrastive import token_losses
from ssl_toolkit.contrastive.passes import GLOBAL, by_size
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive, require_share
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.randomness import derive_seed


class LeJEPA(Method):
    """Provable and scalable self-supervised learning without the heuristics: no teacher, no stopped gradient.

    Args:
        encoder: What is trained and kept: any network.
        views: Makes two global views and any number of smaller local ones.
        optimizer: How the weights are moved.
        regularization: Weight of the Gaussian's term, lambda, in [0, 1]; that of the distance of the views is the rest.
        slices: Directions in which embeddings are tested, drawn anew at each step (1,024 for ImageNet).
        hidden_dim: Width of the projector's two hidden layers (2,048 for ImageNet).
        projection_dim: Dimension of the embeddings.

    Source: Balestriero & LeCun 2025, algorithms 1 and 2.
    """

    default_views = staticmethod(lejepa_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        regularization: float = 0.05,
        slices: int = 256,
        hidden_dim: int = 1024,
        projection_dim: int = 64,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(slices=slices, hidden_dim=hidden_dim, projection_dim=projection_dim)
        require_share(regularization=regularization)
        self.projector = mlp(encoder.feature_dim, hidden_dim, hidden_dim, projection_dim)
        self.regularization, self.slices = regularization, slices

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Distance of all views to the mean of the global ones, and of each view's embeddings from a Gaussian."""
        # One head over all crops: its batch norms see them together.
        z = self.projector(torch.cat(by_size(self.encoder, views))).unflatten(0, (len(views), -1))  # (V, N, D)
        directions = self._directions(z)
        distance = token_losses.to_centre(z, GLOBAL)
        gaussian = torch.stack([token_losses.sigreg(each, directions) for each in z]).mean()
        loss = (1 - self.regularization) * distance + self.regularization * gaussian
        return {"loss": loss, "distance": distance.detach(), "sigreg": gaussian.detach()}

    def _directions(self, z: Tensor) -> Tensor:
        """Unit columns (D, M), the same in every process."""
        generator = torch.Generator(z.device).manual_seed(derive_seed(self.seed, "slices", self.global_step))
        drawn = torch.randn(z.shape[2], self.slices, generator=generator, device=z.device)
        return F.normalize(drawn, dim=0).to(torch.promote_types(z.dtype, drawn.dtype))
