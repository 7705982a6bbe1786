"""SimMIM: a vision transformer sees mask tokens in the place of squares, and one linear layer paints their pixels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_toolkit.augment import Views, simmim_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.encoders import Encoder, Pool
from ssl_toolkit.encoders.tokens import embed, encode, patch_grid, patch_tokens, require_patches
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.masking import square_masking
from ssl_toolkit.method import Method, TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.decoder import psnr
from ssl_toolkit.pretext.patches import in_colour, patchify, unpatchify


def hidden_l1(painted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error of the hidden patches alone.

    Args:
        painted: (N, L, D).
        target: (N, L, D).
        hidden: (N, L) bool, at least one of them true.

    Source: Xie et al. 2022, equation 1.
    """
    return all_mean((painted - target)[hidden].abs().mean())


class SimMIM(Method):
    """A simple framework for masked image modeling.

    Args:
        encoder: What is trained and kept: a timm ``VisionTransformer``, by default with the mean of its patches as
            features.
        views: Makes one view of a batch.
        optimizer: How the weights are moved. The paper trains for 800 epochs.
        mask_ratio: Share of the squares that are hidden, rounded to whole ones; at least one is hidden and one shown.
        mask_patches: Side of a square, patches: 2, which are 32 px of ImageNet's images.

    Source: Xie et al. 2022, section 3.
    """

    default_views = staticmethod(simmim_views)
    default_encoder = "vit_tiny_patch16_224"
    encoder_pool: ClassVar[Pool] = "mean"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        mask_ratio: float = 0.6,
        mask_patches: int = 2,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(mask_patches=mask_patches)
        if not 0 < mask_ratio < 1:
            raise UsageError(f"--method.mask-ratio is {mask_ratio}: it must be above 0 and below 1")
        self.patch = require_patches(encoder, "simmim")
        self.mask_ratio, self.mask_patches = mask_ratio, mask_patches
        self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.backbone.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.to_pixels = nn.Linear(encoder.backbone.embed_dim, self.patch**2 * encoder.config.channels)

    def compile_encoder(self, **options: Any) -> None:
        """Compile the blocks, which are nearly all of the work."""
        self.encoder.backbone.blocks.compile(**options)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Hide squares, and paint them."""
        image = views[0]
        hidden = self._masking(image)
        painted, target = self._paint(image, hidden), self._target(image)
        return {
            "loss": hidden_l1(painted, target, hidden),
            "psnr": psnr(*(in_colour(each[hidden], self.encoder) for each in (painted.detach(), target))),
        }

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """Views, what the encoder sees of them, and the hidden squares as they are painted."""
        image = views[0]
        hidden = self._masking(image)
        patches, fill = (patchify(each, self.patch) for each in (image, self.encoder.mean.expand_as(image)))
        painted = in_colour(self._paint(image, hidden), self.encoder).clamp(0, 1)
        words = [f"{psnr(p[h], q[h]):.1f} dB" for p, q, h in zip(painted, patches, hidden, strict=True)]
        seen, shown = (
            unpatchify(torch.where(hidden[..., None], each, patches), self.patch, *image.shape[-2:])
            for each in (fill, painted)
        )
        about = (
            f"Views, the {100 * (~hidden).float().mean().item():.0f} % of them that the encoder sees, and the others "
            "as one linear layer paints them. Below: signal to noise of the painted squares."
        )
        return TaskPicture(about, {"view": image, "seen": seen, "painted": shown}, {"painted": words})

    def _masking(self, image: Tensor) -> Tensor:
        grid = patch_grid(self.encoder, image)
        side = min(self.mask_patches, max(grid) - 1)  # of a grid as small as a square, smaller ones
        return square_masking(len(image), grid, self.mask_ratio, side, image.device)

    def _paint(self, image: Tensor, hidden: Tensor) -> Tensor:
        """What becomes of all patches, (N, L, P * P * C), as targets are."""
        tokens = encode(self.encoder, embed(self.encoder, image, hidden, self.mask_token))
        painted: Tensor = self.to_pixels(patch_tokens(self.encoder, tokens))
        return painted

    def _target(self, image: Tensor) -> Tensor:
        return patchify((image - self.encoder.mean) / self.encoder.std, self.patch)
