"""Masked autoencoder: paint the patches of an image that the encoder was not shown."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_toolkit.augment import Views, masked_autoencoder_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.encoders.tokens import patch_grid, put_back, require_patches, visible_tokens
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.masking import random_masking
from ssl_toolkit.method import Method, TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.decoder import psnr
from ssl_toolkit.pretext.patches import in_colour, patchify, unpatchify


def normalized_patches(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each patch with mean 0 and variance 1, all channels together.

    Args:
        patches: (N, L, D).

    Returns:
        Normalised patches (N, L, D), and what undoes it: means and standard deviations, (N, L, 1) each.

    Source: He et al. 2022, section 3; the unbiased variance and the 1e-6 below the root are those of the authors' code.
    """
    mean = patches.mean(dim=2, keepdim=True)
    std = (patches.var(dim=2, keepdim=True) + 1e-6).sqrt()
    return (patches - mean) / std, mean, std


def masked_loss(painted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error of the hidden patches alone.

    Args:
        painted: (N, L, D).
        target: (N, L, D).
        hidden: (N, L) bool, at least one of them true.

    Source: He et al. 2022, section 3.
    """
    return (painted - target)[hidden].square().mean()


class MaskedDecoder(nn.Module):
    """A small transformer from the visible tokens to the pixels of all patches.

    Args:
        encoder_dim: Width of the encoder's tokens.
        dim: Width of the decoder's own, a multiple of 4 and of `heads`.
        depth: Number of blocks.
        heads: Of each block.
        outputs: Values of a patch.

    Source: He et al. 2022, section 3.
    """

    def __init__(self, encoder_dim: int, dim: int, depth: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.Sequential(*[Block(dim, heads, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.to_pixels = nn.Linear(dim, outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.to_pixels.weight, std=0.02)  # what is painted starts near the mean

    def forward(self, tokens: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Paint.

        Args:
            tokens: (N, P + V, encoder_dim), as `visible_tokens` gives them.
            visible: Places of the V patches, (N, V) int64.
            grid: Rows and columns of patches, L = rows * columns.

        Returns:
            (N, L, outputs).
        """
        tokens = self.embed(tokens)
        first = tokens.shape[1] - visible.shape[1]
        patches = put_back(tokens[:, first:], visible, self.mask_token, grid[0] * grid[1])
        positions = build_sincos2d_pos_embed(list(grid), tokens.shape[2], device=tokens.device, dtype=tokens.dtype)
        tokens = torch.cat([tokens[:, :first], patches + positions], dim=1)
        painted: Tensor = self.to_pixels(self.norm(self.blocks(tokens)[:, first:]))
        return painted


class MaskedAutoencoder(Method):
    """Masked autoencoders are scalable vision learners: a vision transformer sees a quarter of the patches.

    The defaults of the decoder are for small images and encoders; the paper's is 512 wide, 8 deep, with 16 heads.

    Args:
        encoder: What is trained and kept: a timm ``VisionTransformer``.
        views: Makes one view of a batch.
        optimizer: How the weights are moved. The paper trains for 800 epochs and more.
        mask_ratio: Share of the patches that are hidden, rounded to whole ones; at least one is hidden and one shown.
        decoder_dim: Width of the decoder, a multiple of 4 and of its heads.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Heads of each of its blocks.
        normalize_targets: Whether each patch to be painted is centred and scaled by itself. What is painted is then the
            pattern of a patch; its mean and contrast must be lent by the true one to show it.

    Source: He et al. 2022.
    """

    default_views = staticmethod(masked_autoencoder_views)
    default_encoder = "vit_tiny_patch16_224"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        mask_ratio: float = 0.75,
        decoder_dim: int = 128,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
        normalize_targets: bool = True,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(decoder_dim=decoder_dim, decoder_depth=decoder_depth, decoder_heads=decoder_heads)
        if not 0 < mask_ratio < 1:
            raise UsageError(f"--method.mask-ratio is {mask_ratio}: it must be above 0 and below 1")
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise UsageError(
                f"--method.decoder-dim is {decoder_dim}: it must be a multiple of 4 and of --method.decoder-heads "
                f"({decoder_heads})"
            )
        self.patch = require_patches(encoder, "masked_autoencoder")
        self.mask_ratio, self.normalize_targets = mask_ratio, normalize_targets
        self.values = self.patch * self.patch * encoder.config.channels
        width = encoder.backbone.embed_dim
        self.decoder = MaskedDecoder(width, decoder_dim, decoder_depth, decoder_heads, self.values)

    def compile_encoder(self, **options: Any) -> None:
        """Compile the blocks, which are nearly all of the work."""
        self.encoder.backbone.blocks.compile(**options)

    def chance_loss(self, batch_size: int) -> float | None:
        """Of painting each normalised patch in its mean: its variance, nearly 1. Without that there is no figure."""
        return 1 - 1 / self.values if self.normalize_targets else None

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Hide most patches, encode the others, paint the hidden ones."""
        image = views[0]
        visible, hidden = self._masking(image)
        painted = self._paint(image, visible)
        target, mean, std = self._target(image)
        shown = in_colour((painted.detach() * std + mean)[hidden], self.encoder)
        return {
            "loss": masked_loss(painted, target, hidden),
            "psnr": psnr(shown, patchify(image, self.patch)[hidden]),
        }

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """Views, what the encoder sees of them, and the hidden patches as they are painted."""
        image = views[0]
        visible, hidden = self._masking(image)
        _, mean, std = self._target(image)
        patches = patchify(image, self.patch)
        fill = patchify(self.encoder.mean.expand_as(image), self.patch)
        painted = in_colour(self._paint(image, visible) * std + mean, self.encoder).clamp(0, 1)
        words = [f"{psnr(p[h], q[h]):.1f} dB" for p, q, h in zip(painted, patches, hidden, strict=True)]
        share = 100 * hidden.float().mean().item()
        lent = " The mean and the contrast of each painted patch are the true ones." if self.normalize_targets else ""
        rows = {
            "view": image,
            "seen": self._together(torch.where(hidden[..., None], fill, patches), image),
            "painted": self._together(torch.where(hidden[..., None], painted, patches), image),
        }
        about = (
            f"Views, the {100 - share:.0f} % of their patches that the encoder sees, and the others as the network "
            f"paints them.{lent} Below: signal to noise of the painted patches."
        )
        return TaskPicture(about, rows, {"painted": words})

    def _masking(self, image: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = patch_grid(self.encoder, image)
        return random_masking(len(image), rows * columns, self.mask_ratio, image.device)

    def _paint(self, image: Tensor, visible: Tensor) -> Tensor:
        """What the decoder makes of the visible patches: all patches (N, L, P * P * C), as targets are."""
        tokens = visible_tokens(self.encoder, image, visible)
        # Networks that pool patches have their last norm behind the pooling, and none before it.
        painted: Tensor = self.decoder(self.encoder.backbone.fc_norm(tokens), visible, patch_grid(self.encoder, image))
        return painted

    def _target(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is to be painted (N, L, P * P * C), and the mean and deviation that were taken out of it."""
        patches = patchify((image - self.encoder.mean) / self.encoder.std, self.patch)
        if self.normalize_targets:
            return normalized_patches(patches)
        return patches, patches.new_zeros(()), patches.new_ones(())

    def _together(self, patches: Tensor, image: Tensor) -> Tensor:
        return unpatchify(patches, self.patch, image.shape[-2], image.shape[-1])
