"""PIRL: an image and its shuffled tiles are both like what is remembered of the image, and unlike other memories."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, pirl_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.memory import MemoryBank, remember_all
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive, require_share, require_two_views
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.randomness import derive_seed
from ssl_toolkit.tiles import cut_tiles, encode_apart, tile_and_gap


class PIRL(Method):
    """Self-supervised learning of pretext-invariant representations: the jigsaw puzzle, not solved but seen through.

    Args:
        encoder: What is trained and kept; it sees whole images, and tiles apart.
        views: Makes two views of a batch: the first is seen whole, the second is cut into tiles.
        optimizer: How the weights are moved.
        temperature: Divides the similarities, above 0.
        negatives: Memories of other images that each view is told apart from (32,000 for ImageNet); all of them where
            there are fewer.
        memory_momentum: Share of a memory that stays when its image is seen again, in [0, 1].
        jigsaw_weight: Share of the tiles in the loss, in [0, 1]; the rest is the whole image's (lambda in the paper).
        grid: Tiles a side, at least 2.
        projection_dim: Dimension in which they are compared.

    Source: Misra & van der Maaten 2020, equation 5 and section 3.2. The loss is InfoNCE, as VISSL has it by option; the
        paper's is noise-contrastive estimation.
    """

    default_views = staticmethod(pirl_views)
    embedding: ClassVar[str | None] = "projector"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.07,
        negatives: int = 4096,
        memory_momentum: float = 0.5,
        jigsaw_weight: float = 0.5,
        grid: int = 3,
        projection_dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(temperature=temperature, negatives=negatives, projection_dim=projection_dim)
        require_share(memory_momentum=memory_momentum, jigsaw_weight=jigsaw_weight)
        require_two_views(len(views))
        if grid < 2:
            raise UsageError(f"--method.grid is {grid}: it must be at least 2")
        self.projector = nn.Linear(encoder.feature_dim, projection_dim)
        self.tile_projector = nn.Linear(encoder.feature_dim, projection_dim)
        self.jigsaw_projector = nn.Linear(grid * grid * projection_dim, projection_dim)
        self.memory = MemoryBank(projection_dim)
        self.temperature, self.negatives, self.memory_momentum = temperature, negatives, memory_momentum
        self.jigsaw_weight, self.grid = jigsaw_weight, grid

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(1 + K)``: the image's own memory and the others'; None before it is known how many there are."""
        return math.log(min(self.negatives, len(self.memory.vectors) - 1) + 1) if self.memory.complete else None

    def on_train_start(self) -> None:
        """Remember all images, unless a run goes on."""
        remember_all(self, self.memory, lambda views: F.normalize(self.projector(self.encoder(views[0])), dim=1))

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """The image and its tiles against memories; only then the image's own moves on."""
        f = F.normalize(self.projector(self.encoder(views[0])), dim=1)
        g = self._jigsaw(views[1])
        m = self.memory.recall(batch.index, f)
        others, own = self._others(batch.index)
        whole, jigsaw = (losses.cpc(each / self.temperature, m, others, own) for each in (f, g))
        stay = self.memory_momentum
        self.memory.update(batch.index, F.normalize(stay * m + (1 - stay) * f, dim=1))
        loss = self.jigsaw_weight * jigsaw + (1 - self.jigsaw_weight) * whole
        return {"loss": loss, "whole_loss": whole.detach(), "jigsaw_loss": jigsaw.detach()}

    def _jigsaw(self, image: Tensor) -> Tensor:
        """Unit embeddings (N, D) of the tiles of images, each image's in an order of its own."""
        parts = self.tile_projector(encode_apart(self.encoder, self._tiles(image)))  # (N, G, D)
        return F.normalize(self.jigsaw_projector(parts.flatten(1)), dim=1)

    def _tiles(self, image: Tensor) -> Tensor:
        """Tiles (N, G, C, h, w), without normalisation of their own: a memory knows colours."""
        tiles = cut_tiles(image, self.grid, *tile_and_gap(min(image.shape[-2:]), self.grid, 64 / 85, 1 / 85))
        order = torch.rand(tiles.shape[:2], device=tiles.device).argsort(1)
        return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], order]

    def _others(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Memories (K, D) of images drawn without repetition, and where each image is among them, (N,), -1 for none."""
        # The same in every process.
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "negatives", self.global_step))
        rows = torch.randperm(len(self.memory.vectors), generator=generator)[: self.negatives].to(index.device)
        same = index[:, None] == rows
        return self.memory.vectors[rows], torch.where(same.any(1), same.int().argmax(1), -1)
