"""Inpainting: what was in the hole?"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_toolkit.augment import Views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.gradients import clip_gradients
from ssl_toolkit.method import TaskPicture
from ssl_toolkit.optim import OptimizerConfig, build_optimizer, schedule_weight_decay, scheduled
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


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of telling real images from others, in nats; log 2 is that of a guess.

    Args:
        real: Logits of being real for images that are, (N,).
        fake: The same for those that are not, (N,).

    Source: Goodfellow et al. 2014, equation 1; Pathak et al. 2016, equation 2, without the hole's form as a condition.
    """
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


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


class Discriminator(nn.Module):
    """Is this image real? Convolutions that halve the image until about 4 px are left.

    Layer norms in the place of batch norms: an image is judged by itself, whatever else is in the batch.

    Args:
        channels: Of the image.
        size: Of its sides, about, pixels.
        dim: Channels of the first convolution, doubled at each further one, at most eight times.

    Source: Radford et al. 2016 (DCGAN), section 3; the norm after Gulrajani et al. 2017, section 4.
    """

    def __init__(self, channels: int, size: int, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = channels
        for depth in range(max(1, round(math.log2(size / 4)))):
            c_out = dim * min(8, 2**depth)
            layers.append(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=depth == 0))
            if depth:
                layers.append(nn.GroupNorm(1, c_out))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            c_in = c_out
        self.layers = nn.Sequential(*layers, nn.Conv2d(c_in, 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to logits of being real (N,)."""
        logits: Tensor = self.layers(2 * image - 1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).mean(dim=(1, 2, 3))


class Inpainting(MapTask):
    """Context encoders: feature learning by inpainting.

    With an adversary, two networks are trained in turn. The generator, which is encoder and decoder, is what `step`
    gives the loss of. The discriminator's weights are frozen but for the moments in which it learns, so nothing that
    trains the generator moves them. Both gradients are taken before either network moves.

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
        self.overlap, self.overlap_weight, self.discriminator_lr = overlap, overlap_weight, discriminator_lr
        channels = encoder.config.channels
        self.code: nn.Module = nn.Conv2d(self.width, code_dim, 1)
        if bottleneck == "channelwise":
            joined = ChannelwiseLinear(code_dim, *encoder.map_shape()[1:])
            self.code = nn.Sequential(self.code, joined, nn.Conv2d(code_dim, code_dim, 1))
        self.decoder = Decoder(code_dim, channels, self.stride)
        self.discriminator: Discriminator | None = None
        if adversarial_weight:
            self.discriminator = Discriminator(channels, encoder.config.image_size, discriminator_dim)
            self.discriminator.requires_grad_(False)
            self.automatic_optimization = False

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

    def judge(self) -> Tensor:
        """The discriminator's loss on the images of the last step, real and filled; no gradient reaches the generator.

        Its gradient is not scaled: in float16, which needs that, it is taken in float32.
        """
        assert self.discriminator is not None
        real, filled = self.shown
        kind = real.device.type
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and _is_wide(torch.get_autocast_dtype(kind))):
            return discriminator_loss(self.discriminator(real), self.discriminator(filled))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """`step`; with an adversary, also both backward passes, and both optimisers where enough is accumulated."""
        loss = super().training_step(batch, batch_idx)
        if self.discriminator is None:
            return loss
        loss, last = loss / self.accumulate, (batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch
        generator: Any = self.optimizers()[0]  # type: ignore[index]
        with generator.toggle_model(sync_grad=last):
            self.manual_backward(loss)
        with learning(self.discriminator):
            judged = self.judge()
            # Past Lightning, whose gradient scaling and exchange between processes are for the generator.
            torch.autograd.backward(judged / self.accumulate)
        self.log("discriminator", judged.detach(), batch_size=len(batch.image), sync_dist=True)
        if last:
            self._move(self.discriminator)
        return loss

    def _move(self, discriminator: Discriminator) -> None:
        """One step of both optimisers, of which Lightning counts the generator's."""
        for optimizer in self.trainer.optimizers:
            schedule_weight_decay(optimizer, self.optimizer_config, self.progress)
        gradients = []
        for parameter in discriminator.parameters():
            assert parameter.grad is not None
            parameter.grad = all_mean(parameter.grad)
            gradients.append(parameter.grad)
        clip_gradients(discriminator.parameters(), self.clip_gradient, self.clip_mode)
        # The bare optimiser: Lightning's would count a second step. It comes first, to leave no gradient that whoever
        # looks at the generator's would find.
        if nn.utils.get_total_norm(gradients).isfinite():
            self.trainer.optimizers[1].step()  # else what was painted is not finite, and the generator's step goes too
        self.trainer.optimizers[1].zero_grad()
        generator: Any = self.optimizers()[0]  # type: ignore[index]
        generator.step()
        generator.zero_grad()
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()
        self.after_update()

    def on_fit_start(self) -> None:
        """Tell Lightning what is accumulated: it does not do it here, but it counts the steps that it logs."""
        if not self.automatic_optimization:
            self.trainer.accumulate_grad_batches = self.accumulate

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the generator's gradient where Lightning does not; mixed precision has scaled it back by now."""
        if not self.automatic_optimization:
            generator = [parameter for parameter in self.parameters() if parameter.requires_grad]
            clip_gradients(generator, self.clip_gradient, self.clip_mode)

    def configure_optimizers(self) -> Any:
        """The generator's optimiser and, with an adversary, the discriminator's, each with its schedule."""
        generator = super().configure_optimizers()
        if self.discriminator is None:
            return generator
        config = replace(self.optimizer_config, lr=self.discriminator_lr * self.optimizer_config.lr)
        with learning(self.discriminator):
            optimizer = build_optimizer(self.discriminator, config, self.images_per_step)
        return [generator, scheduled(optimizer, config, self.total_steps, self.first_steps)]

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


@contextlib.contextmanager
def learning(module: nn.Module) -> Iterator[None]:
    """Meanwhile, the weights of a frozen module have gradients."""
    module.requires_grad_(True)
    try:
        yield
    finally:
        module.requires_grad_(False)


def _is_wide(dtype: torch.dtype) -> bool:
    """Whether a floating-point type has the range of float32."""
    return torch.finfo(dtype).max > torch.finfo(torch.float16).max
