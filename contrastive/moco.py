"""MoCo: a query finds its key, made by a momentum network, among a queue of past keys; v3 among those of the batch."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, moco_v2_views, moco_v3_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.contrastive.passes import shuffled
from ssl_toolkit.contrastive.queue import Queue
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import world_size
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.randomness import derive_seed
from ssl_toolkit.schedules import cosine


class MoCo(Method):
    """Momentum contrast for unsupervised visual representation learning, v2; with a linear head and its views, v1.

    Args:
        encoder: The query encoder: what is trained and kept.
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        temperature: Divides the similarities, above 0 (v1: 0.07).
        momentum: Share of the key network that stays at each step, in [0, 1].
        queue_size: Keys that are remembered (65,536 for ImageNet): fewer than there are images.
        head: ``mlp`` (v2), or ``linear`` (v1).
        hidden_dim: Width of the MLP's hidden layer.
        projection_dim: Dimension in which views are compared.
        hardness: How much more those negatives count that are like the query, at least 0 (0.5 to 2 in its paper); 0:
            all alike, as in MoCo.
        false_negatives: Share of the queue that is taken to be of the query's own class, in [0, 1) (0.1 in that
            paper).

    Source: He et al. 2020 (v1), algorithm 1; Chen et al. 2020 (v2), section 3. Hard and false negatives: Robinson et
        al. 2021, Contrastive learning with hard negative samples, equation 4.
    """

    default_views = staticmethod(moco_v2_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue_size: int = 4096,
        head: Literal["mlp", "linear"] = "mlp",
        hidden_dim: int = 512,
        projection_dim: int = 128,
        hardness: float = 0.0,
        false_negatives: float = 0.0,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            temperature=temperature, queue_size=queue_size, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        require_share(momentum=momentum)
        if not 0 <= hardness < float("inf"):
            raise UsageError(f"--method.hardness is {hardness}: it must be at least 0")
        if not 0 <= false_negatives < 1:
            raise UsageError(f"--method.false-negatives is {false_negatives}: it must be at least 0 and below 1")
        hidden = (hidden_dim,) if head == "mlp" else ()
        self.projector = mlp(encoder.feature_dim, *hidden, projection_dim, norm=False)
        self.key_encoder, self.key_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.queue = Queue(queue_size, projection_dim)
        self.temperature, self.momentum = temperature, momentum
        self.hardness, self.false_negatives = hardness, false_negatives

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(1 + K)``: the key and the queue."""
        return math.log(1 + len(self.queue.vectors))

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Queries against their keys and the queue; only then the keys join it."""
        k = self._keys(views[1])
        q = self.projector(self.encoder(views[0]))
        loss = losses.info_nce(q, k, self.queue.vectors, self.temperature, self.hardness, self.false_negatives)
        self.queue.enqueue(k)
        return {"loss": loss}

    @property
    def shuffle_seed(self) -> int:
        """What decides how this step's images are shuffled across processes."""
        return derive_seed(self.seed, "shuffle", self.global_step)

    def _keys(self, image: Tensor) -> Tensor:
        """Unit keys (N, D), without gradient."""

        def encode(image: Tensor) -> list[Tensor]:
            return [F.normalize(self.key_projector(self.key_encoder(image)), dim=1)]

        return shuffled(encode, image, self.shuffle_seed)[0]

    def after_update(self) -> None:
        """The key network follows."""
        momentum_update(self.key_encoder, self.encoder, self.momentum)
        momentum_update(self.key_projector, self.projector, self.momentum)


class MoCoV3(Method):
    """An empirical study of training self-supervised vision transformers: MoCo without a queue, symmetric.

    Args:
        encoder: What is trained and kept; the patch embedding of a ViT stays as it is (section 4.2).
        views: Makes two views of a batch.
        optimizer: How the weights are moved.
        temperature: Divides the similarities, above 0.
        momentum: Share of the momentum network that stays at the first step, in [0, 1]; it rises to 1.
        hidden_dim: Width of the heads' hidden layers (4,096 for ImageNet).
        projection_dim: Dimension in which views are compared.
        freeze_patch_embed: Whether a ViT's patch embedding is left at its random initialisation.

    Source: Chen et al. 2021, algorithm 1 and section 4; the authors' ``moco/builder.py``, where the projector has three
        layers for a ViT and two for a CNN, and a batch norm behind the predictor for a ViT alone.
    """

    default_views = staticmethod(moco_v3_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.2,
        momentum: float = 0.99,
        hidden_dim: int = 1024,
        projection_dim: int = 256,
        freeze_patch_embed: bool = True,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(temperature=temperature, hidden_dim=hidden_dim, projection_dim=projection_dim)
        require_share(momentum=momentum)
        patch_embed: nn.Module | None = getattr(encoder.backbone, "patch_embed", None)
        if patch_embed is not None and freeze_patch_embed:
            patch_embed.requires_grad_(False)
        vit = patch_embed is not None
        hidden = [hidden_dim] * (2 if vit else 1)
        self.projector = mlp(encoder.feature_dim, *hidden, projection_dim, last_norm=True)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim, last_norm=vit, last_bias=False)
        self.key_encoder, self.key_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.temperature, self.momentum = temperature, momentum

    def chance_loss(self, batch_size: int) -> float | None:
        """``4 t log(N)``: the keys of the batch, both ways, scaled as the loss is."""
        return 4 * self.temperature * math.log(batch_size * world_size())

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Each view's query finds the other view's key among the keys of the batch."""
        with torch.no_grad():  # first: its memory is free again before the query network fills it
            k1, k2 = (self.key_projector(self.key_encoder(view)) for view in views)
        q1, q2 = (self.predictor(self.projector(self.encoder(view))) for view in views)
        t = self.temperature
        return {"loss": 2 * t * (losses.batch_nce(q1, k2, t) + losses.batch_nce(q2, k1, t))}

    def after_update(self) -> None:
        """The momentum network follows, ever more slowly."""
        momentum = cosine(self.momentum, 1.0, self.progress)
        momentum_update(self.key_encoder, self.encoder, momentum)
        momentum_update(self.key_projector, self.projector, momentum)
