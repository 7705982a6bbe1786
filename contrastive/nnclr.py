"""NNCLR: a view's positive is the other view's nearest neighbour among the embeddings of other images."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import Views, simclr_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.passes import by_view
from ssl_toolkit.contrastive.queue import Queue
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import world_size
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive, require_two_views
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig


@torch.no_grad()
def nearest(z: Tensor, support: Tensor) -> Tensor:
    """The row of `support` that is nearest to each row of `z` by cosine.

    Args:
        z: (N, D).
        support: Unit vectors, (K, D).

    Returns:
        (N, D), without gradient.

    Source: Dwibedi et al. 2021, equation 2.
    """
    with torch.autocast(z.device.type, enabled=False):  # bfloat16 would not tell near neighbours apart
        return support[(z.to(support.dtype) @ support.T).argmax(1)]


class NNCLR(Method):
    """With a little help from my friends: nearest-neighbour contrastive learning.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        temperature: Divides the similarities, above 0.
        queue_size: Embeddings among which neighbours are sought (98,304 for ImageNet).
        hidden_dim: Width of the heads' hidden layers (2,048 and 4,096 for ImageNet).
        projection_dim: Dimension in which views are compared.
        joint_norm: Whether batch norms see both views as one batch; the authors' code passes one view after the other.

    Source: Dwibedi et al. 2021, algorithm 1 and section 4.1.
    """

    default_views = staticmethod(simclr_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.1,
        queue_size: int = 4096,
        hidden_dim: int = 1024,
        projection_dim: int = 256,
        joint_norm: bool = False,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            temperature=temperature, queue_size=queue_size, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        require_two_views(len(views))
        self.projector = mlp(encoder.feature_dim, hidden_dim, hidden_dim, projection_dim, last_norm=True)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim)
        self.queue = Queue(queue_size, projection_dim)
        self.temperature, self.joint_norm = temperature, joint_norm

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(N)``: the predictions of the batch."""
        return math.log(batch_size * world_size())

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Each view's neighbour finds the other view's prediction among those of the batch; then the queue moves on."""
        z1, z2 = by_view(lambda view: self.projector(self.encoder(view)), views, self.joint_norm)
        p1, p2 = by_view(self.predictor, [z1, z2], self.joint_norm)
        nn1, nn2 = (nearest(z, self.queue.vectors) for z in (z1, z2))
        t = self.temperature
        loss = (losses.batch_nce(nn1, p2, t) + losses.batch_nce(nn2, p1, t)) / 2
        self.queue.enqueue(F.normalize(z1, dim=1))
        return {"loss": loss}
