"""SupCon: SimCLR with labels, where all images of a class find one another."""

from __future__ import annotations

from torch import Tensor

from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.errors import UsageError


class SupCon(SimCLR):
    """Supervised contrastive learning: what labels are there pull images of one class together.

    The data must be labelled, in part at least: images without a label have their own other view alone. It is no
    self-supervised method, but the mark that those are measured by.

    Args:
        encoder: What is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        temperature: Divides the similarities, above 0.
        hidden_dim: Width of the projection head's hidden layer.
        projection_dim: Dimension in which views are compared.
        last_norm: Whether a batch norm stands behind the projection head's last layer.

    Source: Khosla et al. 2020, Supervised Contrastive Learning, equation 2; all else is SimCLR's.
    """

    def on_train_start(self) -> None:
        """Refuse images without any label.

        Raises:
            UsageError: Naming them.
        """
        images = getattr(self.trainer.train_dataloader, "images", None)  # of a loader of ours
        if images is not None and images.indexed and not (images.labels >= 0).any():
            raise UsageError(
                f"supcon learns from labels, and '{images.word}' has none: give a folder a class, or --method simclr"
            )

    def loss(self, z1: Tensor, z2: Tensor, batch: Batch) -> Tensor:
        """Among all views of a class."""
        return losses.supcon(z1, z2, batch.label, self.temperature)
