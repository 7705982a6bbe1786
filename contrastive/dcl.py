"""DCL: SimCLR without the tug of war, for a view's partner does not stand among its negatives."""

from __future__ import annotations

from torch import Tensor

from ssl_toolkit.augment import Views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_positive
from ssl_toolkit.optim import OptimizerConfig


class DCL(SimCLR):
    """Decoupled contrastive learning: small batches do nearly as well as large ones.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        temperature: Divides the similarities, above 0.
        sigma: Of the weights of DCLW, above 0: pairs that are alike weigh less (0.5 in the paper); if not given, none.
        hidden_dim: Width of the projection head's hidden layer.
        projection_dim: Dimension in which views are compared.
        last_norm: Whether a batch norm stands behind the projection head's last layer.

    Source: Yeh et al. 2022, Decoupled Contrastive Learning, equations 6 and 7; all else is SimCLR's.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.1,
        sigma: float | None = None,
        hidden_dim: int = 512,
        projection_dim: int = 128,
        last_norm: bool = False,
    ) -> None:
        super().__init__(encoder, views, optimizer, temperature, hidden_dim, projection_dim, last_norm)
        if sigma is not None:
            require_positive(sigma=sigma)
        self.sigma = sigma

    def chance_loss(self, batch_size: int) -> float | None:
        """None: without the partner in the denominator, a loss is not bounded by that of a guess."""
        return None

    def loss(self, z1: Tensor, z2: Tensor, batch: Batch) -> Tensor:
        """Decoupled."""
        return losses.dcl(z1, z2, self.temperature, self.sigma)
