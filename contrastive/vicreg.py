"""VICReg: views agree, each feature keeps its variance, no two features say the same."""

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


class VICReg(Method):
    """Variance-invariance-covariance regularisation.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        invariance: Weight of the views' squared difference.
        variance: Weight of the hinge on each feature's standard deviation, mean over the two views.
        covariance: Weight of the squared covariances.
        projection_dim: Width of the expander's three layers (8,192 for ImageNet).
        joint_norm: Whether batch norms see both views as one batch; the authors' code passes one view after the other.

    Source: Bardes et al. 2022, algorithm 1 and section 4.2; its views are BYOL's, save that appendix C treats both
        alike, ``blur_p=(0.5, 0.5), solarize_p=(0.1, 0.1)``. Equation 6 sums the hinge over views; the mean is the
        authors' code's, with which the weights were tuned.
    """

    default_views = staticmethod(byol_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        projection_dim: int = 2048,
        joint_norm: bool = False,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(invariance=invariance, variance=variance, covariance=covariance, projection_dim=projection_dim)
        self.projector = mlp(encoder.feature_dim, *[projection_dim] * 3)
        self.weights, self.joint_norm = (invariance, variance, covariance), joint_norm

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode, expand, compare."""
        z1, z2 = by_view(lambda view: self.projector(self.encoder(view)), views, self.joint_norm)
        return {"loss": losses.vicreg(z1, z2, *self.weights)}
