"""DINO: a student tells from any crop what its own moving average says of the global crops."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ssl_toolkit.augment import Views, multicrop_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.contrastive.passes import GLOBAL, by_size
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.encoders import Encoder, drop_paths
from ssl_toolkit.errors import require_positive, require_share
from ssl_toolkit.heads import dino_head
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.schedules import cosine, warm_up


class DINO(Method):
    """Emerging properties in self-supervised vision transformers: self-distillation with no labels.

    The teacher is what is scored and saved: it is better than the student all through training (section 5.2).

    Args:
        encoder: The student's encoder.
        views: Makes two global views and any number of smaller local ones.
        optimizer: How the weights are moved.
        student_temperature: Divides the student's scores, above 0.
        teacher_temperature: Divides the teacher's centred scores once warmed up, above 0 (0.04 to 0.07).
        first_teacher_temperature: The same at the first step.
        teacher_warmup: Share of training in which it gets there.
        momentum: Share of the teacher that stays at the first step, in [0, 1]; it rises to 1.
        center_momentum: Share of the centre that stays at each step, in [0, 1].
        prototypes: Number of outputs (65,536 for ImageNet).
        freeze_last_layer: Epochs in which the last layer stays as it is.
        hidden_dim: Width of the head's two hidden layers (2,048 for ImageNet).
        head_norm: Whether these have a batch norm; the authors' networks have none.
        bottleneck_dim: Dimension in front of the last layer.
        norm_last_layer: Whether the last layer's rows have length 1; else they learn it (better for small ViTs, less
            stable for others, say the authors).
        drop_path: Share of the student's residual branches that are dropped in the last block of a ViT, in [0, 1]; it
            rises to that from 0 in the first. The teacher keeps all.

    Source: Caron et al. 2021, algorithm 1, section 3 and appendix C.
    """

    default_views = staticmethod(multicrop_views)
    embedding: ClassVar[str | None] = "head.0"
    center: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        first_teacher_temperature: float = 0.04,
        teacher_warmup: float = 0.3,
        momentum: float = 0.99,
        center_momentum: float = 0.9,
        prototypes: int = 4096,
        freeze_last_layer: int = 1,
        hidden_dim: int = 1024,
        head_norm: bool = False,
        bottleneck_dim: int = 256,
        norm_last_layer: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            first_teacher_temperature=first_teacher_temperature,
            prototypes=prototypes,
            hidden_dim=hidden_dim,
            bottleneck_dim=bottleneck_dim,
        )
        require_share(momentum=momentum, center_momentum=center_momentum)
        require_share(teacher_warmup=teacher_warmup, drop_path=drop_path)
        self.head = dino_head(encoder.feature_dim, hidden_dim, bottleneck_dim, prototypes, norm_last_layer, head_norm)
        self.teacher_encoder, self.teacher_head = momentum_copy(encoder), momentum_copy(self.head)
        if drop_path:
            drop_paths(encoder.backbone, drop_path, encoder.config.name)
        self.register_buffer("center", torch.zeros(prototypes))
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.first_teacher_temperature, self.teacher_warmup = first_teacher_temperature, teacher_warmup
        self.momentum, self.center_momentum = momentum, center_momentum
        self.freeze_last_layer = freeze_last_layer

    @property
    def kept_encoder(self) -> Encoder:
        """The teacher's."""
        return self.teacher_encoder

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(K)``: all prototypes alike."""
        return math.log(len(self.center))

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """The student sees all crops, the teacher the global ones; then the centre moves on."""
        with torch.no_grad():  # first: its memory is free again before the student fills it
            teacher = by_size(lambda crop: self.teacher_head(self.teacher_encoder(crop)), views[:GLOBAL])
        # One head over all crops: its batch norm, if it has one, sees them together.
        student = self.head(torch.cat(by_size(self.encoder, views))).chunk(len(views))
        temperature = warm_up(
            self.first_teacher_temperature, self.teacher_temperature, self.first_progress, self.teacher_warmup
        )
        loss = losses.dino(student, teacher, self.center, self.student_temperature, temperature)
        entropy, spread = losses.entropies(((teacher[0] - self.center) / temperature).softmax(1))
        mean = all_mean(torch.cat(teacher).to(self.center.dtype).mean(0))
        self.center.lerp_(mean, 1 - self.center_momentum)
        return {"loss": loss, "teacher_entropy": entropy, "teacher_spread": spread}

    def before_update(self) -> None:
        """At first the last layer stays."""
        if self.current_epoch < self.freeze_last_layer:
            self.head[-1].zero_grad()

    def after_update(self) -> None:
        """The teacher follows, ever more slowly."""
        momentum = cosine(self.momentum, 1.0, self.progress)
        momentum_update(self.teacher_encoder, self.encoder, momentum)
        momentum_update(self.teacher_head, self.head, momentum)
