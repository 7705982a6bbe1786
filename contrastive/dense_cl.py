"""DenseCL: MoCo for whole images and, beside it, for each position of the feature map."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import Views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.moco import MoCo
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.contrastive.passes import shuffled
from ssl_toolkit.contrastive.queue import Queue
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import require_share
from ssl_toolkit.heads import mlp
from ssl_toolkit.optim import OptimizerConfig


@torch.no_grad()
def corresponding(features: Tensor, others: Tensor) -> Tensor:
    """To each position of one view the position of the other view whose features are most like its own, by cosine.

    Args:
        features: (N, T, D).
        others: (N, S, D).

    Returns:
        (N, T) int64, positions from 0 to S - 1, without gradient.

    Source: Wang et al. 2021, section 3.4.
    """
    with torch.autocast(features.device.type, enabled=False):  # bfloat16 would not tell near neighbours apart
        a, b = (F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1) for x in (features, others))
        return (a @ b.mT).argmax(-1)


class DenseCL(MoCo):
    """Dense contrastive learning for self-supervised visual pre-training: for detection and segmentation.

    Args:
        encoder: The query encoder: what is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        temperature: Divides the similarities, above 0.
        momentum: Share of the key network that stays at each step, in [0, 1] (0.999 for ImageNet).
        queue_size: Keys that are remembered, of images and of their mean positions (65,536 for ImageNet).
        hidden_dim: Width of both heads' hidden layers (2,048 for ImageNet).
        projection_dim: Dimension in which views are compared.
        dense_weight: Share of the positions in the loss, in [0, 1]; the rest is the images' (lambda in the paper).

    Source: Wang et al. 2021, equations 2 and 3 and section 3.4; the authors' ``densecl.py``. Views are MoCo v2's.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue_size: int = 4096,
        hidden_dim: int = 512,
        projection_dim: int = 128,
        dense_weight: float = 0.5,
    ) -> None:
        super().__init__(
            encoder, views, optimizer, temperature, momentum, queue_size,
            hidden_dim=hidden_dim, projection_dim=projection_dim,
        )  # fmt: skip
        require_share(dense_weight=dense_weight)
        width, _ = encoder.width_and_stride()
        self.dense_projector = mlp(width, hidden_dim, projection_dim, norm=False)
        self.key_dense_projector = momentum_copy(self.dense_projector)
        self.dense_queue = Queue(queue_size, projection_dim)
        self.dense_weight = dense_weight

    def compile_encoder(self, **options: Any) -> None:
        """Compile what is asked of the encoder."""
        both = torch.compile(self.encoder.features_and_map, **options)
        self.encoder.features_and_map = both  # type: ignore[method-assign]

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Images against the queue, positions against a queue of mean positions; only then the keys join them."""
        with torch.no_grad():
            k, k_map, k_dense = shuffled(self._dense_keys, views[1], self.shuffle_seed)
        features, feature_map = self.encoder.features_and_map(views[0])
        q_map = feature_map.flatten(2).mT  # (N, T, C)
        q, q_dense = self.projector(features), self.dense_projector(q_map)
        match = corresponding(q_map, k_map)[..., None].expand(-1, -1, k_dense.shape[-1])
        t, dense = self.temperature, (q_dense.flatten(0, 1), k_dense.gather(1, match).flatten(0, 1))
        whole, local = (
            losses.info_nce(q, k, self.queue.vectors, t),
            losses.info_nce(*dense, self.dense_queue.vectors, t),
        )
        self.queue.enqueue(k)
        self.dense_queue.enqueue(F.normalize(k_dense.mean(1), dim=1))
        loss = (1 - self.dense_weight) * whole + self.dense_weight * local
        return {"loss": loss, "whole_loss": whole.detach(), "local_loss": local.detach()}

    def _dense_keys(self, image: Tensor) -> list[Tensor]:
        """Unit keys (N, D), the map that they are of (N, T, C), and the keys of its positions (N, T, D)."""
        features, feature_map = self.key_encoder.features_and_map(image)
        tokens = feature_map.flatten(2).mT
        return [F.normalize(self.key_projector(features), dim=1), tokens, self.key_dense_projector(tokens)]

    def after_update(self) -> None:
        """The key network follows."""
        super().after_update()
        momentum_update(self.key_dense_projector, self.dense_projector, self.momentum)
