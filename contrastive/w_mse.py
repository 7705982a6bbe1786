"""W-MSE: views agree once each batch of them is whitened, which no collapsed batch can be."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ssl_toolkit.augment import Views, simclr_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import world_size
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.randomness import derive_seed


class WMSE(Method):
    """Whitening for self-supervised representation learning: no negatives, no momentum network, no predictor.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch, or more (four in the paper's W-MSE 4): all pairs are compared.
        optimizer: How the weights are moved.
        slice_size: Images that are whitened together, more than `projection_dim`; the paper has twice as many.
        slicings: Ways in which a batch is cut into slices at random; the loss is their mean.
        eps: How much of a sphere is mixed into each covariance, in (0, 1]; none in the authors' code, where a batch of
            which some features say the same ends the training.
        hidden_dim: Width of the projection head's hidden layer (1,024 in the paper).
        projection_dim: Dimension in which views are whitened and compared.

    Source: Ermolov et al. 2021, section 3; views are SimCLR's.
    """

    default_views = staticmethod(simclr_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        slice_size: int = 128,
        slicings: int = 1,
        eps: float = 1e-4,
        hidden_dim: int = 512,
        projection_dim: int = 64,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            slice_size=slice_size, slicings=slicings, eps=eps, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        if eps > 1:
            raise UsageError(f"--method.eps is {eps}: it must be at most 1")
        if len(views) < 2:
            raise UsageError(f"w_mse compares views, got {len(views)}: give --views.count 2 or more")
        self.projector = mlp(encoder.feature_dim, hidden_dim, projection_dim)
        self.slice_size, self.slicings, self.eps = slice_size, slicings, eps
        self.projection_dim = projection_dim

    def on_train_start(self) -> None:
        """Refuse batches that cannot be whitened.

        Raises:
            UsageError: There are no more images in a slice than features.
        """
        images = min(self.slice_size, self.images_per_step // self.accumulate)
        if images <= self.projection_dim:
            raise UsageError(
                f"{images} images do not span the {self.projection_dim} features that w_mse whitens them in: give a "
                "larger --batch-size (and --method.slice-size), or a smaller --method.projection-dim"
            )

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode view by view, project all together, whiten, compare."""
        h = torch.cat([self.encoder(view) for view in views])
        z = self.projector(h).chunk(len(views))
        total = len(batch.image) * world_size()
        # The same slices in every process.
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "slices", self.global_step))
        orders = [torch.randperm(total, generator=generator).to(h.device) for _ in range(self.slicings)]
        each = [losses.w_mse(z, order, self.slice_size, self.eps) for order in orders]
        return {"loss": torch.stack(each).mean()}
