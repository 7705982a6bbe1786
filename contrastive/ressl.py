"""ReSSL: a strongly changed view stands to other images as a weakly changed one does."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import Views, ressl_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.contrastive.queue import Queue
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive, require_share, require_two_views
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig


class ReSSL(Method):
    """Relational self-supervised learning with weak augmentation.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch, the first strongly and the second weakly changed.
        optimizer: How the weights are moved.
        student_temperature: Divides the similarities of the strong view, above 0.
        teacher_temperature: Divides those of the weak one: smaller, so that they are sharper.
        momentum: Share of the momentum network that stays at each step, in [0, 1] (0.999 for ImageNet).
        queue_size: Embeddings of other images that views are compared with (131,072 for ImageNet).
        hidden_dim: Width of the projection head's hidden layer (4,096 for ImageNet).
        projection_dim: Dimension in which views are compared (512 for ImageNet).

    Source: Zheng et al. 2021, ReSSL, section 3.2 and table 1.
    """

    default_views = staticmethod(ressl_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        momentum: float = 0.99,
        queue_size: int = 4096,
        hidden_dim: int = 512,
        projection_dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            queue_size=queue_size,
            hidden_dim=hidden_dim,
            projection_dim=projection_dim,
        )
        require_share(momentum=momentum)
        require_two_views(len(views))
        self.projector = mlp(encoder.feature_dim, hidden_dim, projection_dim, norm=False)
        self.key_encoder, self.key_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.queue = Queue(queue_size, projection_dim)
        self.temperatures, self.momentum = (student_temperature, teacher_temperature), momentum

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(K)``: all images of the queue alike."""
        return math.log(len(self.queue.vectors))

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Both views against the queue; only then the weak ones join it."""
        with torch.no_grad():
            k = F.normalize(self.key_projector(self.key_encoder(views[1])), dim=1)
        q = self.projector(self.encoder(views[0]))
        loss = losses.relational(q, k, self.queue.vectors, *self.temperatures)
        self.queue.enqueue(k)
        return {"loss": loss}

    def after_update(self) -> None:
        """The momentum network follows."""
        momentum_update(self.key_encoder, self.encoder, self.momentum)
        momentum_update(self.key_projector, self.projector, self.momentum)
