"""SwAV: each crop predicts to which prototypes the other crops of its image were assigned."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, swav_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.passes import GLOBAL, by_size
from ssl_toolkit.contrastive.queue import Queue
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import rank, world_size
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig


class SwAV(Method):
    """Unsupervised learning of visual features by contrasting cluster assignments.

    Args:
        encoder: What is trained and kept.
        views: Makes two global views and any number of smaller local ones.
        optimizer: How the weights are moved.
        temperature: Divides the scores, above 0.
        epsilon: Smoothness of the codes, above 0.
        iterations: Of Sinkhorn-Knopp.
        prototypes: Their number (3,000 for ImageNet).
        queue_size: Past embeddings of each global view that are assigned along with the batch: what small batches
            need (3,840 for 256); 0 for none.
        queue_start: Share of training after which they are, once there are as many.
        freeze_prototypes: Epochs in which the prototypes stay as they are.
        hidden_dim: Width of the projector's hidden layer (2,048 for ImageNet).
        projection_dim: Dimension of embeddings and prototypes.

    Source: Caron et al. 2020, algorithm 1, section 3 and appendix A.
    """

    default_views = staticmethod(swav_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        prototypes: int = 512,
        queue_size: int = 3840,
        queue_start: float = 0.1,
        freeze_prototypes: int = 1,
        hidden_dim: int = 1024,
        projection_dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            temperature=temperature,
            epsilon=epsilon,
            iterations=iterations,
            prototypes=prototypes,
            hidden_dim=hidden_dim,
            projection_dim=projection_dim,
        )
        require_share(queue_start=queue_start)
        if queue_size < 0:
            raise UsageError(f"--method.queue-size is {queue_size}: it must be at least 0")
        if len(views) < GLOBAL:
            raise UsageError(f"swav needs {GLOBAL} global views, got {len(views)}: give --views.global-count {GLOBAL}")
        self.projector = mlp(encoder.feature_dim, hidden_dim, projection_dim)
        self.prototypes = nn.Linear(projection_dim, prototypes, bias=False)
        self.queue = Queue(queue_size, GLOBAL * projection_dim) if queue_size else None
        if self.queue is not None:
            self.queue.vectors.zero_()  # its last row tells whether it has been filled
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_start, self.freeze_prototypes = queue_start, freeze_prototypes
        self.after_update()

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(K)``: all prototypes alike."""
        return math.log(len(self.prototypes.weight))

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Scores of all crops predict the codes of the global ones."""
        features = torch.cat(by_size(self.encoder, views))  # one head over all crops: its batch norm sees them together
        joined = F.normalize(self.projector(features), dim=1)
        z, scores = joined.chunk(len(views)), self.prototypes(joined).chunk(len(views))
        codes = [self._codes(view, scores[view]) for view in range(GLOBAL)]
        if self.queue is not None:
            self.queue.enqueue(torch.cat(z[:GLOBAL], dim=1))
        entropy, _ = losses.entropies(codes[0])
        return {"loss": losses.swav(scores, codes, self.temperature), "code_entropy": entropy}

    @torch.no_grad()
    def _codes(self, view: int, scores: Tensor) -> Tensor:
        """Codes (N, K) of a global view, assigned together with past embeddings of that view."""
        n = len(scores)
        if self.queue is not None and self.first_progress >= self.queue_start and self.queue.vectors[-1].any():
            past = self.queue.vectors.chunk(GLOBAL, dim=1)[view].tensor_split(world_size())[rank()]
            scores = torch.cat([scores, self.prototypes(past)])
        return losses.sinkhorn(scores, self.epsilon, self.iterations)[:n]

    def before_update(self) -> None:
        """At first the prototypes stay."""
        if self.current_epoch < self.freeze_prototypes:
            self.prototypes.zero_grad()

    @torch.no_grad()
    def after_update(self) -> None:
        """Prototypes are unit vectors."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
