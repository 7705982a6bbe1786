"""SimSiam: a view's features predict the other view's, and only the gradient's one-way street prevents collapse."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ssl_toolkit.augment import Views, moco_v2_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.passes import by_view
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig


class SimSiam(Method):
    """Exploring simple Siamese representation learning: no negatives, no momentum network.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        projection_dim: Width of the projector's three layers, and dimension in which views are compared.
        hidden_dim: Width of the predictor's hidden layer: a bottleneck, a quarter of `projection_dim`.
        joint_norm: Whether batch norms see both views as one batch; the authors' code passes one view after the other.
        fix_predictor_lr: Whether the predictor's learning rate follows no schedule (section 4.2, table 1c).

    Source: Chen & He 2021, algorithm 1 and section 3; its views are MoCo v2's (appendix A).
    """

    default_views = staticmethod(moco_v2_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        projection_dim: int = 2048,
        hidden_dim: int = 512,
        joint_norm: bool = False,
        fix_predictor_lr: bool = False,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(projection_dim=projection_dim, hidden_dim=hidden_dim)
        self.projector = mlp(encoder.feature_dim, *[projection_dim] * 3, last_norm=True)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim)
        self.joint_norm = joint_norm
        self.fix_predictor_lr = fix_predictor_lr

    def constant_lr(self) -> set[str]:
        """The predictor's parameters, if that is wanted."""
        return {f"predictor.{name}" for name, _ in self.predictor.named_parameters() if self.fix_predictor_lr}

    def chance_loss(self, batch_size: int) -> float | None:
        """0: predictions that are orthogonal to their targets."""
        return 0.0

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Negative cosine of prediction and stopped target, both ways."""
        z1, z2 = by_view(lambda view: self.projector(self.encoder(view)), views, self.joint_norm)
        p1, p2 = by_view(self.predictor, [z1, z2], self.joint_norm)
        return {"loss": (losses.negative_cosine(p1, z2) + losses.negative_cosine(p2, z1)) / 2}
