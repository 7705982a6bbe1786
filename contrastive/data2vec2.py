"""data2vec 2.0: from a fifth of an image, a network predicts what its moving average makes of the rest."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, masked_autoencoder_views
from ssl_toolkit.contrastive import token_losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, Pool
from ssl_toolkit.encoders.tokens import (
    embed,
    encode,
    keep,
    mlp_outputs,
    patch_grid,
    patch_tokens,
    put_back,
    require_patches,
)
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.masking import inverse_block_masking
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.schedules import warm_up

GROUPS = 16  # of the decoder's channels, where they divide both widths
NOISE = 0.01  # standard deviation of what stands in the place of hidden patches


def averaged_layers(outputs: list[Tensor]) -> Tensor:
    """Targets: what blocks give, each channel normalised over an image's patches, the mean of blocks normalised again.

    Args:
        outputs: (N, L, D) a block, at least one.

    Returns:
        (N, L, D).

    Source: Baevski et al. 2022 (data2vec), section 3.3; as configured for images in the authors' code of 2.0.
    """
    wide = [each.to(torch.promote_types(each.dtype, torch.float32)).transpose(1, 2) for each in outputs]
    mean = torch.stack([F.instance_norm(each) for each in wide]).mean(0).transpose(1, 2)
    return F.layer_norm(mean, mean.shape[-1:])


class ConvDecoder(nn.Module):
    """Grouped convolutions over the grid of patches, residual where widths are alike.

    Args:
        encoder_dim: Width of the encoder's tokens D.
        dim: Its own width.
        depth: Number of convolutions.

    Source: Baevski et al. 2023, section 3.3 and the authors' ``Decoder2d``.
    """

    def __init__(self, encoder_dim: int, dim: int, depth: int) -> None:
        super().__init__()
        widths = [encoder_dim] + [dim] * depth
        self.layers = nn.ModuleList(
            nn.Conv2d(d_in, d_out, 3, padding=1, groups=math.gcd(GROUPS, d_in, d_out))
            for d_in, d_out in pairwise(widths)
        )
        self.out = nn.Linear(dim, encoder_dim)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(N, L, D) to the same shape; `grid` has the rows and columns of patches."""
        x = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)  # (N, D, rows, columns)
        for layer in self.layers:
            y = layer(x).movedim(1, 3)
            y = F.gelu(F.layer_norm(y, y.shape[-1:])).movedim(3, 1)
            x = x + y if x.shape == y.shape else y
        predicted: Tensor = self.out(x.flatten(2).transpose(1, 2))
        return predicted


class Data2Vec2(Method):
    """Efficient self-supervised learning with contextualized target representations.

    Args:
        encoder: What is trained and kept: a timm ``VisionTransformer``, by default with the mean of its patches as
            features.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        masks: Masks of each image that share one pass of the teacher (16 in the paper).
        mask_ratio: Share of the patches that is hidden, rounded to whole ones.
        mask_patches: Side of the squares that are shown, patches.
        layers: Blocks whose outputs are averaged as target, the last ones (10 in the paper); at most all.
        momentum: Share of the teacher that stays at the first step, in [0, 1] (0.9998 for ImageNet); it rises to 1 in a
            straight line.
        class_weight: Weight of the class token's error beside that of the patches; without such a token it has none.
        decoder_dim: Width of the decoder (768 in the paper).
        decoder_depth: Its convolutions (6 in the paper).

    Source: Baevski et al. 2023, section 3.
    """

    default_views = staticmethod(masked_autoencoder_views)
    default_encoder = "vit_tiny_patch16_224"
    encoder_pool: ClassVar[Pool] = "mean"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        masks: int = 4,
        mask_ratio: float = 0.8,
        mask_patches: int = 3,
        layers: int = 10,
        momentum: float = 0.996,
        class_weight: float = 1.0,
        decoder_dim: int = 64,
        decoder_depth: int = 3,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            masks=masks, mask_patches=mask_patches, layers=layers, decoder_dim=decoder_dim, decoder_depth=decoder_depth
        )
        require_share(momentum=momentum)
        if not 0 < mask_ratio < 1:
            raise UsageError(f"--method.mask-ratio is {mask_ratio}: it must be above 0 and below 1")
        if not 0 <= class_weight < float("inf"):
            raise UsageError(f"--method.class-weight is {class_weight}: it must be at least 0")
        require_patches(encoder, "data2vec2")
        self.decoder = ConvDecoder(encoder.backbone.embed_dim, decoder_dim, decoder_depth)
        self.teacher_encoder = momentum_copy(encoder)
        self.masks, self.mask_ratio, self.mask_patches = masks, mask_ratio, mask_patches
        self.layers, self.momentum = layers, momentum
        self.class_weight = class_weight if encoder.backbone.has_class_token else 0.0

    def compile_encoder(self, **options: Any) -> None:
        """Compile the blocks, which are nearly all of the work."""
        self.encoder.backbone.blocks.compile(**options)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """One target, predicted from several sets of patches."""
        image, m = views[0], self.masks
        grid = patch_grid(self.encoder, image)
        with torch.no_grad():
            target = averaged_layers(mlp_outputs(self.teacher_encoder, image, self.layers))  # (N, L, D)
        visible, hidden = inverse_block_masking(m * len(image), grid, self.mask_ratio, self.mask_patches, image.device)
        shown = keep(self.encoder, embed(self.encoder, image).repeat_interleave(m, 0), visible)
        tokens = encode(self.encoder, shown)
        patches = patch_tokens(self.encoder, tokens)  # (N M, V, D)
        predicted = self.decoder(self._filled(patches, visible, math.prod(grid)), grid)
        wanted = target.repeat_interleave(m, 0)
        loss = token_losses.regression(predicted[hidden], wanted[hidden])
        spread = wanted - wanted.mean((0, 1))
        explained = 1 - (predicted.detach() - wanted)[hidden].square().mean() / spread[hidden].square().mean()
        if self.class_weight:
            token = self.encoder.backbone.fc_norm(tokens[:, 0])
            loss = loss + self.class_weight * token_losses.regression(token, wanted.mean(1))
        return {"loss": loss, "explained": explained}

    def _filled(self, patches: Tensor, visible: Tensor, length: int) -> Tensor:
        """The visible patches at their places, (N, `length`, D), and noise at all others."""
        filled = put_back(patches, visible, torch.zeros_like(patches[0, 0]), length)
        noise = NOISE * torch.randn_like(filled)
        return filled + noise.scatter(1, visible[..., None].expand_as(patches), 0.0)

    def after_update(self) -> None:
        """The teacher follows, ever more slowly."""
        momentum_update(self.teacher_encoder, self.encoder, warm_up(self.momentum, 1.0, self.progress, until=1.0))
