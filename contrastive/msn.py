"""MSN: masked and small views of an image are assigned to the prototypes that a teacher assigns the whole view to."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_toolkit.augment import Views, multicrop_views
from ssl_toolkit.contrastive import losses, token_losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.contrastive.passes import by_size
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.encoders.tokens import patch_grid, pool, require_patches, visible_tokens
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.heads import CosinePrototypes, mlp, small_weights
from ssl_toolkit.masking import random_masking
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.schedules import cosine


class MSN(Method):
    """Masked siamese networks for label-efficient learning.

    The target network is what is scored and saved, as in the authors' evaluations.

    Args:
        encoder: The anchors' encoder: a timm ``VisionTransformer``.
        views: Makes global views, of which the first is the target and of the others patches are left out, and any
            number of smaller local ones, which stay whole.
        optimizer: How the weights are moved.
        temperature: Divides the anchors' cosines with the prototypes, above 0.
        target_temperature: Divides the target's, above 0: the anchors' times the sharpening of 0.25.
        momentum: Share of the target network that stays at the first step, in [0, 1]; it rises to 1.
        mask_ratio: Share of the patches that is left out: 0.15 for ViT-S, 0.3 for ViT-B, 0.7 for ViT-L.
        regularization: Weight of the mean assignment's entropy.
        balance: Whether targets are made to use all prototypes equally, by Sinkhorn's iteration.
        prototypes: Number of prototypes.
        hidden_dim: Width of the head's two hidden layers (2,048 for ImageNet).
        projection_dim: Dimension in which views and prototypes are compared.

    Source: Assran et al. 2022, section 3; the authors' ``configs/pretrain``.
    """

    default_views = staticmethod(multicrop_views)
    default_encoder = "vit_tiny_patch16_224"
    embedding: ClassVar[str | None] = "head"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.1,
        target_temperature: float = 0.025,
        momentum: float = 0.996,
        mask_ratio: float = 0.15,
        regularization: float = 1.0,
        balance: bool = True,
        prototypes: int = 1024,
        hidden_dim: int = 1024,
        projection_dim: int = 256,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            temperature=temperature,
            target_temperature=target_temperature,
            prototypes=prototypes,
            hidden_dim=hidden_dim,
            projection_dim=projection_dim,
        )
        require_share(momentum=momentum)
        if not 0 < mask_ratio < 1:
            raise UsageError(f"--method.mask-ratio is {mask_ratio}: it must be above 0 and below 1")
        require_patches(encoder, "msn")
        self.head = mlp(encoder.feature_dim, hidden_dim, hidden_dim, projection_dim, activation=nn.GELU)
        small_weights(self.head)
        self.prototypes = CosinePrototypes(projection_dim, prototypes)
        self.teacher_encoder, self.teacher_head = momentum_copy(encoder), momentum_copy(self.head)
        self.temperatures, self.momentum, self.mask_ratio = (temperature, target_temperature), momentum, mask_ratio
        self.regularization, self.balance = regularization, balance

    @property
    def kept_encoder(self) -> Encoder:
        """The target network's."""
        return self.teacher_encoder

    def compile_encoder(self, **options: Any) -> None:
        """Compile the blocks, which are nearly all of the work."""
        self.encoder.backbone.blocks.compile(**options)

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(K)``: all prototypes alike."""
        return math.log(len(self.prototypes.weight))

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """The target network sees the first view, the anchors' the others: global ones with holes, local ones whole."""
        with torch.no_grad():
            target = self.prototypes(self.teacher_head(self.teacher_encoder(views[0])))
        large = [view for view in views[1:] if view.shape == views[0].shape]
        # The head's batch norms see anchors of one size together, as in the authors' ``deit.py``.
        masked = self.head(self._masked_features(torch.cat(large))).chunk(len(large))
        local = by_size(lambda view: self.head(self.encoder(view)), views[1 + len(large) :])
        anchors = [self.prototypes(z) for z in (*masked, *local)]
        loss = token_losses.msn(anchors, target, *self.temperatures, self.regularization, self.balance)
        entropy, spread = losses.entropies((target / self.temperatures[1]).softmax(1))
        return {"loss": loss, "teacher_entropy": entropy, "teacher_spread": spread}

    def _masked_features(self, image: Tensor) -> Tensor:
        """Features (N, D) of some of each image's patches."""
        visible, _ = random_masking(
            len(image), math.prod(patch_grid(self.encoder, image)), self.mask_ratio, image.device
        )
        return pool(self.encoder, visible_tokens(self.encoder, image, visible))

    def after_update(self) -> None:
        """The target network follows, ever more slowly."""
        momentum = cosine(self.momentum, 1.0, self.progress)
        momentum_update(self.teacher_encoder, self.encoder, momentum)
        momentum_update(self.teacher_head, self.head, momentum)
