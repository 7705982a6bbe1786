"""iBOT and DINOv2: DINO between crops, and between hidden patches and a teacher that sees them."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ssl_toolkit.augment import Views, multicrop_views
from ssl_toolkit.contrastive import losses, token_losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.contrastive.passes import GLOBAL, by_size
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.encoders import Encoder, drop_paths
from ssl_toolkit.encoders.tokens import embed, encode, patch_grid, patch_tokens, pool, require_patches
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.heads import dino_head
from ssl_toolkit.masking import block_masking
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.schedules import cosine, warm_up

TEMPERATURES = ("first_teacher_temperature", "teacher_temperature", "student_temperature")


def _check_ratio(ratio: tuple[float, float]) -> None:
    """Refuse shares of hidden patches that leave nothing to hide or to show."""
    if not 0 < ratio[0] <= ratio[1] < 1:
        raise UsageError(
            f"--method.mask-ratio is {ratio[0]} {ratio[1]}: it must be two shares in (0, 1), the smaller first"
        )


class IBOT(Method):
    """Image BERT pre-training with online tokenizer; by its options, DINOv2.

    The teacher is what is scored and saved, as in DINO.

    Args:
        encoder: The student's encoder: a timm ``VisionTransformer``.
        views: Makes two global views and any number of smaller local ones.
        optimizer: How the weights are moved.
        student_temperature: Divides the student's scores, above 0.
        teacher_temperature: Divides the teacher's scores once warmed up, above 0.
        first_teacher_temperature: The same at the first step.
        teacher_warmup: Share of training in which it gets there.
        momentum: Share of the teacher that stays at the first step, in [0, 1]; it rises to 1.
        centering: What keeps the teacher from one prototype for all: ``mean``, its scores' moving average is taken out
            of them; ``sinkhorn``, all are used equally in each batch. None: mean for ibot, sinkhorn for dinov2.
        center_momentum: Share of that average that stays at each step, in [0, 1].
        prototypes: Number of outputs (8,192 for iBOT on ImageNet, 65,536 and more for DINOv2).
        shared_head: Whether one head is for images and patches. None: so for ibot, not for dinov2.
        freeze_last_layer: Epochs in which the heads' last layers stay as they are.
        hidden_dim: Width of a head's two hidden layers (2,048 for ImageNet).
        bottleneck_dim: Dimension in front of the last layer.
        norm_last_layer: Whether the last layer's rows have length 1; else they learn it.
        drop_path: Share of the student's residual branches that are dropped in the last block, in [0, 1]; it rises to
            that from 0 in the first. The teacher keeps all.
        mask_share: Share of the global views in which patches are hidden, above 0 and up to 1; of one at least.
        mask_ratio: Least and largest share of the patches that is hidden in them, in blocks.
        patch_weight: Weight of the patches' loss beside that of whole images.
        koleo_weight: Weight of the term that spreads the student's features of each global view; see
            `token_losses.koleo`. None: 0 for ibot, 0.1 for dinov2.

    Source: Zhou et al. 2022 (iBOT), section 3; Oquab et al. 2023 (DINOv2), section 4.
    """

    default_views = staticmethod(multicrop_views)
    default_encoder = "vit_tiny_patch16_224"
    embedding: ClassVar[str | None] = "head.0"
    centers: Tensor | None
    # What None stands for.
    usual: ClassVar[dict[str, Any]] = {"centering": "mean", "shared_head": True, "koleo_weight": 0.0}

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        first_teacher_temperature: float = 0.04,
        teacher_warmup: float = 0.3,
        momentum: float = 0.99,
        centering: Literal["mean", "sinkhorn"] | None = None,
        center_momentum: float = 0.9,
        prototypes: int = 4096,
        shared_head: bool | None = None,
        freeze_last_layer: int = 1,
        hidden_dim: int = 1024,
        bottleneck_dim: int = 256,
        norm_last_layer: bool = True,
        drop_path: float = 0.0,
        mask_share: float = 0.5,
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        patch_weight: float = 1.0,
        koleo_weight: float | None = None,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        self.temperatures = (first_teacher_temperature, teacher_temperature, student_temperature)
        require_positive(
            **dict(zip(TEMPERATURES, self.temperatures, strict=True)), prototypes=prototypes, patch_weight=patch_weight
        )
        require_positive(hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim, mask_share=mask_share)
        require_share(momentum=momentum, center_momentum=center_momentum, teacher_warmup=teacher_warmup)
        require_share(drop_path=drop_path, mask_share=mask_share)
        _check_ratio(mask_ratio)
        require_patches(encoder, type(self).__name__.lower())
        self.centering = centering or self.usual["centering"]
        self.koleo_weight: float = self.usual["koleo_weight"] if koleo_weight is None else koleo_weight
        shared = self.usual["shared_head"] if shared_head is None else shared_head
        self._make_networks(shared, hidden_dim, bottleneck_dim, prototypes, norm_last_layer)
        if drop_path:
            drop_paths(encoder.backbone, drop_path, encoder.config.name)
        # Of images, of patches.
        self.register_buffer("centers", torch.zeros(2, prototypes) if self.centering == "mean" else None)
        self.teacher_warmup, self.momentum, self.center_momentum = teacher_warmup, momentum, center_momentum
        self.freeze_last_layer, self.prototypes = freeze_last_layer, prototypes
        self.mask_share, self.mask_ratio, self.patch_weight = mask_share, mask_ratio, patch_weight

    def _make_networks(
        self, shared: bool, hidden_dim: int, bottleneck_dim: int, prototypes: int, norm_last_layer: bool
    ) -> None:
        """Heads, the mask token, and the teacher's copies."""
        encoder, sizes = self.encoder, (hidden_dim, bottleneck_dim, prototypes, norm_last_layer)
        self.head = dino_head(encoder.feature_dim, *sizes)
        self.patch_head = self.head if shared else dino_head(encoder.feature_dim, *sizes)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.backbone.embed_dim))
        self.teacher_encoder, self.teacher_head = momentum_copy(encoder), momentum_copy(self.head)
        self.teacher_patch_head = self.teacher_head if shared else momentum_copy(self.patch_head)

    @property
    def kept_encoder(self) -> Encoder:
        """The teacher's."""
        return self.teacher_encoder

    def compile_encoder(self, **options: Any) -> None:
        """Compile the blocks, which are nearly all of the work."""
        self.encoder.backbone.blocks.compile(**options)

    def chance_loss(self, batch_size: int) -> float | None:
        """All prototypes alike, for images and for hidden patches; None where features are spread out too."""
        n = GLOBAL * batch_size
        masked = max(1, round(self.mask_share * n)) / n
        return None if self.koleo_weight else math.log(self.prototypes) * (1 + self.patch_weight * masked)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """The student sees global crops with holes and local ones, the teacher whole global ones."""
        crops = torch.cat(views[:GLOBAL])  # (2 N, C, H, W)
        hidden, places, count = self._masking(crops)
        with torch.no_grad():  # first: its memory is free again before the student fills it
            tokens = encode(self.teacher_encoder, embed(self.teacher_encoder, crops))
            scores = self.teacher_head(pool(self.teacher_encoder, tokens))
            patch_scores = self.teacher_patch_head(patch_tokens(self.teacher_encoder, tokens).flatten(0, 1)[places])
            target, patch_target = self._target(scores, 0), self._target(patch_scores, 1)
        tokens = encode(self.encoder, embed(self.encoder, crops, hidden, self.mask_token))
        features = pool(self.encoder, tokens)
        every = torch.cat([features, *by_size(self.encoder, views[GLOBAL:])])
        student = self.head(every).chunk(len(views))
        patches = self.patch_head(patch_tokens(self.encoder, tokens).flatten(0, 1)[places])
        image_loss = losses.swav(student, target.chunk(GLOBAL), self.temperatures[2])
        patch_loss = token_losses.masked_patches(patches, patch_target, count, len(crops), self.temperatures[2])
        loss = image_loss + self.patch_weight * patch_loss
        if self.koleo_weight:
            loss = loss + self.koleo_weight * sum(token_losses.koleo(each) for each in features.chunk(GLOBAL))
        entropy, spread = losses.entropies(target[: len(views[0])])
        self._move_centers(scores, patch_scores)
        named = {"image_loss": image_loss.detach(), "patch_loss": patch_loss.detach()}
        return {"loss": loss, **named, "teacher_entropy": entropy, "teacher_spread": spread}

    def before_update(self) -> None:
        """At first the last layers stay."""
        if self.current_epoch < self.freeze_last_layer:
            self.head[-1].zero_grad()
            self.patch_head[-1].zero_grad()

    def after_update(self) -> None:
        """The teacher follows, ever more slowly."""
        momentum = cosine(self.momentum, 1.0, self.progress)
        momentum_update(self.teacher_encoder, self.encoder, momentum)
        momentum_update(self.teacher_head, self.head, momentum)
        if self.patch_head is not self.head:
            momentum_update(self.teacher_patch_head, self.patch_head, momentum)

    def _masking(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden patches (N, L), their places among all N L, and how many each's image has: where no device waits."""
        n = len(crops)
        ratio = self.mask_ratio[0] + (self.mask_ratio[1] - self.mask_ratio[0]) * torch.rand(n)
        grid = patch_grid(self.encoder, crops)
        least = 1 / math.prod(grid)
        some = torch.rand(n).argsort().argsort() < max(1, round(self.mask_share * n))
        hidden = block_masking(torch.where(some, ratio.clamp(least, 1 - least), 0.0), grid)
        places = hidden.flatten().nonzero().squeeze(1)
        count = hidden.sum(1)[places // hidden.shape[1]]
        hidden, places, count = (each.to(crops.device, non_blocking=True) for each in (hidden, places, count))
        return hidden, places, count

    def _target(self, scores: Tensor, kind: int) -> Tensor:
        """The teacher's distributions of images (0) or patches (1), (M, K)."""
        temperature = warm_up(*self.temperatures[:2], self.first_progress, self.teacher_warmup)
        if self.centers is None:
            return losses.sinkhorn(scores, temperature)
        return ((scores.to(self.centers.dtype) - self.centers[kind]) / temperature).softmax(1)

    def _move_centers(self, *scores: Tensor) -> None:
        """Each centre, by the mean over images or patches of all processes, of which each may have another number."""
        if self.centers is not None:
            sums = torch.stack([all_mean(each.to(self.centers.dtype).sum(0)) for each in scores])
            counts = all_mean(self.centers.new_tensor([[len(each)] for each in scores]))
            self.centers.lerp_(sums / counts, 1 - self.center_momentum)


class DINOv2(IBOT):
    """DINOv2: learning robust visual features without supervision: iBOT with heads apart, KoLeo and Sinkhorn."""

    usual: ClassVar[dict[str, Any]] = {"centering": "sinkhorn", "shared_head": False, "koleo_weight": 0.1}
