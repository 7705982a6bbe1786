"""I-JEPA: from some patches of an image, a network predicts what its moving average makes of blocks elsewhere in it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_toolkit.augment import Views, i_jepa_views
from ssl_toolkit.contrastive import token_losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, Pool
from ssl_toolkit.encoders.tokens import embed, encode, patch_grid, patch_tokens, require_patches, visible_tokens
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.masking import multiblock_masking
from ssl_toolkit.method import Method, TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.schedules import warm_up


class Predictor(nn.Module):
    """A narrow transformer from the tokens of the context to those at other places.

    Args:
        encoder_dim: Width of the encoder's tokens D.
        dim: Its own width, a multiple of 4 and of `heads`.
        depth: Number of blocks.
        heads: Of each block.

    Source: Assran et al. 2023, section 3, prediction, and appendix A.1.
    """

    def __init__(self, encoder_dim: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.blocks = nn.Sequential(*[Block(dim, heads, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, encoder_dim)

    def forward(self, tokens: Tensor, context: Tensor, targets: Tensor, grid: tuple[int, int]) -> Tensor:
        """Predict each block by itself.

        Args:
            tokens: Of the context, (N, V, D).
            context: Its places, (N, V) int64.
            targets: Places of the blocks, (N, M, K) int64.
            grid: Rows and columns of patches.

        Returns:
            (N, M, K, D).
        """
        n, m, k = targets.shape
        tokens = self.embed(tokens)
        positions = build_sincos2d_pos_embed(list(grid), tokens.shape[2], device=tokens.device, dtype=tokens.dtype)
        known = (tokens + positions[context]).repeat_interleave(m, 0)  # (N M, V, d)
        asked = self.mask_token.to(tokens.dtype) + positions[targets.flatten(0, 1)]  # (N M, K, d)
        found = self.norm(self.blocks(torch.cat([known, asked], 1))[:, -k:])
        predicted: Tensor = self.out(found).unflatten(0, (n, m))
        return predicted


class IJEPA(Method):
    """Self-supervised learning from images with a joint-embedding predictive architecture.

    The target encoder is what is scored and saved, as in the paper. The defaults of the predictor are for small
    encoders; the paper's is 384 wide, 6 to 12 deep, with 12 heads.

    Args:
        encoder: What sees the context: a timm ``VisionTransformer``, by default with the mean of its patches as
            features.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        targets: Blocks that are predicted.
        target_scale: Least and largest share of the patches in one of them.
        context_scale: Least and largest share of the patches in the block that context is taken from.
        momentum: Share of the target encoder that stays at the first step, in [0, 1]; it rises to 1 in a straight line.
        predictor_dim: Width of the predictor, a multiple of 4 and of its heads.
        predictor_depth: Blocks of the predictor.
        predictor_heads: Heads of each of its blocks.

    Source: Assran et al. 2023, section 3 and appendix A.
    """

    default_views = staticmethod(i_jepa_views)
    default_encoder = "vit_tiny_patch16_224"
    encoder_pool: ClassVar[Pool] = "mean"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        context_scale: tuple[float, float] = (0.85, 1.0),
        momentum: float = 0.996,
        predictor_dim: int = 64,
        predictor_depth: int = 3,
        predictor_heads: int = 4,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            targets=targets,
            predictor_dim=predictor_dim,
            predictor_depth=predictor_depth,
            predictor_heads=predictor_heads,
        )
        require_share(momentum=momentum)
        for name, (low, high) in {"target-scale": target_scale, "context-scale": context_scale}.items():
            if not 0 < low <= high <= 1:
                raise UsageError(f"--method.{name} is {low} {high}: it must be two shares above 0, the smaller first")
        if predictor_dim % 4 or predictor_dim % predictor_heads:
            raise UsageError(
                f"--method.predictor-dim is {predictor_dim}: it must be a multiple of 4 and of "
                f"--method.predictor-heads ({predictor_heads})"
            )
        self.patch = require_patches(encoder, "i_jepa")
        self.predictor = Predictor(encoder.backbone.embed_dim, predictor_dim, predictor_depth, predictor_heads)
        self.teacher_encoder = momentum_copy(encoder)
        self.targets, self.scales, self.momentum = targets, (target_scale, context_scale), momentum

    @property
    def kept_encoder(self) -> Encoder:
        """The target encoder."""
        return self.teacher_encoder

    def compile_encoder(self, **options: Any) -> None:
        """Compile the blocks, which are nearly all of the work."""
        self.encoder.backbone.blocks.compile(**options)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Predict the target encoder's tokens of the blocks from the context; it sees the whole image."""
        image = views[0]
        context, blocks = self._masking(image)
        with torch.no_grad():
            tokens = patch_tokens(
                self.teacher_encoder, encode(self.teacher_encoder, embed(self.teacher_encoder, image))
            )
            tokens = F.layer_norm(tokens, tokens.shape[-1:])  # (N, L, D)
            target = tokens[torch.arange(len(image), device=image.device)[:, None, None], blocks]  # (N, M, K, D)
        seen = patch_tokens(self.encoder, visible_tokens(self.encoder, image, context))
        predicted = self.predictor(seen, context, blocks, patch_grid(self.encoder, image))
        spread = target - target.flatten(0, 2).mean(0)
        return {
            "loss": token_losses.regression(predicted, target, smooth=True),
            "explained": 1 - (predicted.detach() - target).square().mean() / spread.square().mean(),
        }

    def after_update(self) -> None:
        """The target encoder follows, ever more slowly."""
        momentum_update(self.teacher_encoder, self.encoder, warm_up(self.momentum, 1.0, self.progress, until=1.0))

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """Views, the context that the encoder sees, and the blocks that are predicted from it."""
        image = views[0]
        context, blocks = self._masking(image)
        rows = {"view": image, "context": self._shown(image, context)}
        rows |= {f"block {m + 1}": self._shown(image, blocks[:, m]) for m in range(blocks.shape[1])}
        about = (
            "Views, what the encoder sees of them, and the blocks whose representations by its moving average, which "
            "sees the whole view, are predicted one by one."
        )
        return TaskPicture(about, rows)

    def _masking(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Places of context and blocks, see `multiblock_masking`."""
        grid = patch_grid(self.encoder, image)
        found = multiblock_masking(len(image), grid, self.targets, self.scales[0], context_scale=self.scales[1])
        context, blocks = (places.to(image.device, non_blocking=True) for places in found)
        return context, blocks

    def _shown(self, image: Tensor, places: Tensor) -> Tensor:
        """Images whose patches at other places are grey."""
        rows, columns = patch_grid(self.encoder, image)
        there = torch.zeros(len(image), rows * columns, device=image.device).scatter(1, places, 1.0)
        pixels = F.interpolate(there.view(-1, 1, rows, columns), scale_factor=float(self.patch))
        return torch.where(pixels > 0, image, self.encoder.mean)
