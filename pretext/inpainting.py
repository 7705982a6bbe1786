"""Inpainting: what was in the hole?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.method import TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.adversary import Adversarial, Discriminator, discriminator_loss
from ssl_toolkit.pretext.decoder import Decoder, psnr
from ssl_toolkit.pretext.map_task import MapTask
from ssl_toolkit.pretext.masks import block_mask, centre_mask, free_form_mask

MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "centre": centre_mask,
    "blocks": block_mask,
    "free": free_form_mask,
}
SMALLEST_VIEW = 16  # px a side: below, holes have too few pixels
MOST_WEIGHTS = 2**27  # of the channel-wise layer: half a gigabyte


def hole_weights(hole: Tensor, overlap: int, overlap_weight: float) -> Tensor:
    """What an error at each pixel counts: 1 in the hole, more in the seam around it, 0 elsewhere.

    In the seam the network sees the pixels that it is to paint: what it paints in the hole then joins on to them.

    Args:
        hole: (N, 1, H, W) bool.
        overlap: Width of the seam, pixels.
        overlap_weight: What an error there counts.

    Returns:
        (N, 1, H, W) float32.

    Source: Pathak et al. 2016, section 5.1: 7 px of 227, ten times.
    """
    inside = hole.float()
    reach = F.max_pool2d(inside, 2 * overlap + 1, stride=1, padding=overlap)
    return inside + overlap_weight * (reach - inside)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over all pixels and channels, weighted; of several processes, over the images of all.

    Args:
        values: (N, C, H, W).
        weights: (N, 1, H, W), at least 0, not all 0.
    """
    return all_mean((values * weights).sum()) / (all_mean(weights.sum()) * values.shape[1])


class ChannelwiseLinear(nn.Module):
    """Joins all positions of a feature map by a matrix for each channel; channels do not mix.

    Convolutions would not carry what is seen around a large hole into it.

    Args:
        dim: Channels.
        height: Of the feature map.
        width: Of the feature map.

    Source: Pathak et al. 2016, section 3.1, channel-wise fully-connected layer.
    """

    def __init__(self, dim: int, height: int, width: int) -> None:
        super().__init__()
        self.shape, positions = (height, width), height * width
        if dim * positions**2 > MOST_WEIGHTS:
            raise UsageError(
                f"--method.bottleneck is channelwise: with {dim} channels of {height}x{width} positions it has "
                f"{dim * positions**2 / 1e6:.0f} million weights; take plain, or a lower --method.code-dim"
            )
        bound = 1 / math.sqrt(positions)
        self.weight = nn.Parameter(torch.empty(dim, positions, positions).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(dim * positions))

    def forward(self, features: Tensor) -> Tensor:
        """(N, D, h, w) to the same shape.

        Raises:
            UsageError: If the feature map is of another size than the weights are for.
        """
        n, dim, *shape = features.shape
        if tuple(shape) != self.shape:
            raise UsageError(
                f"--method.bottleneck is channelwise: it is for feature maps of {self.shape[0]}x{self.shape[1]}, this "
                f"one is {shape[0]}x{shape[1]}: give --views.size the value of --image-size, or take plain"
            )
        by_channel = features.flatten(2).transpose(0, 1)  # (D, N, h * w)
        joined = (by_channel @ self.weight).transpose(0, 1).flatten(1) + self.bias
        return joined.view(n, dim, *shape)


class Inpainting(Adversarial, MapTask):
    """Context encoders: feature learning by inpainting.

    With an adversary, the generator is encoder and decoder; see `Adversarial`.

    Args:
        encoder: What is trained and kept.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        mask: Form of the hole: ``centre`` (a square), ``blocks`` (up to five) or ``free`` (blobs; the paper's choice
            for features).
        bottleneck: ``channelwise`` joins all positions of the feature map, of which there must always be as many;
            ``plain`` decodes the feature map as it is.
        code_dim: Channels of the bottleneck.
        reconstruction_weight: Weight of the squared error, of images in [-1, 1].
        adversarial_weight: Weight of the adversary; 0 trains without one.
        overlap: Width of the seam around the hole that is painted too, over the side of the view.
        overlap_weight: What an error in the seam counts, over one in the hole.
        discriminator_dim: Channels of the discriminator's first layer.
        discriminator_lr: Share of the learning rate that the discriminator takes.

    Source: Pathak et al. 2016. Its weights, seam and learning rates.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        mask: Literal["centre", "blocks", "free"] = "free",
        bottleneck: Literal["channelwise", "plain"] = "channelwise",
        code_dim: int = 128,
        reconstruction_weight: float = 0.999,
        adversarial_weight: float = 0.001,
        overlap: float = 0.03,
        overlap_weight: float = 10.0,
        discriminator_dim: int = 64,
        discriminator_lr: float = 0.1,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            code_dim=code_dim, reconstruction_weight=reconstruction_weight, overlap_weight=overlap_weight,
            discriminator_dim=discriminator_dim, discriminator_lr=discriminator_lr,
        )  # fmt: skip
        require_share(overlap=overlap)
        if adversarial_weight < 0:
            raise UsageError(f"--method.adversarial-weight is {adversarial_weight}: it must be at least 0")
        self.mask = MASKS[mask]
        self.reconstruction_weight, self.adversarial_weight = reconstruction_weight, adversarial_weight
        self.overlap, self.overlap_weight = overlap, overlap_weight
        channels = encoder.config.channels
        self.code: nn.Module = nn.Conv2d(self.width, code_dim, 1)
        if bottleneck == "channelwise":
            joined = ChannelwiseLinear(code_dim, *encoder.map_shape()[1:])
            self.code = nn.Sequential(self.code, joined, nn.Conv2d(code_dim, code_dim, 1))
        self.decoder = Decoder(code_dim, channels, self.stride)
        size = encoder.config.image_size
        adversary = Discriminator(channels, size, discriminator_dim) if adversarial_weight else None
        self.set_adversary(adversary, discriminator_lr)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Make a hole, paint the image; compare in the hole and its seam, and ask the adversary."""
        image = views[0]
        hole, painted = self._paint_hole(image)
        error = painted - image
        seam = round(self.overlap * min(image.shape[-2:]))
        # Images in [-1, 1] are the paper's: the two weights mean the same.
        weights = hole_weights(hole, seam, self.overlap_weight)
        # Over what is painted, not over the sum of the weights: else the adversary would weigh three times as much.
        reconstruction = weighted_mean(weights * (2 * error).square(), weights > 0)
        loss = self.reconstruction_weight * reconstruction
        l2 = weighted_mean(error.detach().square(), hole)
        scalars = {"l1": weighted_mean(error.detach().abs(), hole), "l2": l2, "psnr": -10 * l2.log10()}
        if self.discriminator is not None:
            filled = torch.where(hole, painted, image)
            adversarial = F.softplus(-self.discriminator(filled)).mean()
            loss = loss + self.adversarial_weight * adversarial
            scalars["adversarial"] = adversarial
            self.shown = image, filled.detach()  # what the discriminator learns from next
        return {"loss": loss, **scalars}

    def judged(self) -> Tensor:
        """Of real images and of filled ones."""
        assert self.discriminator is not None
        real, filled = self.shown
        return discriminator_loss(self.discriminator(real), self.discriminator(filled))

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """What the encoder sees, and what is painted into the hole."""
        image = views[0]
        hole, painted = self._paint_hole(image)
        words = [
            f"{psnr(one[:, where], other[:, where]):.1f} dB"
            for one, other, where in zip(painted, image, hole[:, 0], strict=True)
        ]
        rows = {
            "view": image,
            "seen": self._seen(image, hole),
            "painted": torch.where(hole, painted.clamp(0, 1), image),
        }
        return TaskPicture("Views, and what the network paints into a hole.", rows, {"painted": words})

    def _seen(self, image: Tensor, hole: Tensor) -> Tensor:
        return torch.where(hole, self.encoder.mean, image)

    def _paint_hole(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Holes (N, 1, H, W), and the images (N, C, H, W) painted again without what was in them."""
        height, width = image.shape[-2:]
        if min(height, width) < SMALLEST_VIEW:
            raise UsageError(
                f"views of {height}x{width} px are too small for holes: give --views.size {SMALLEST_VIEW} or more"
            )
        hole = self.mask(image)
        painted = self.decoder(self.code(self.encoder.feature_map(self._seen(image, hole))), (height, width))
        return hole, painted * self.encoder.std + self.encoder.mean
