"""An adversary: a discriminator that is trained in turn with what it judges, by an optimiser of its own."""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.gradients import clip_gradients
from ssl_toolkit.method import Method
from ssl_toolkit.optim import build_optimizer, schedule_weight_decay, scheduled


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of telling real images from others, in nats; log 2 is that of a guess.

    Args:
        real: Logits of being real for images that are, (N,).
        fake: The same for those that are not, (N,).

    Source: Goodfellow et al. 2014, equation 1; Pathak et al. 2016, equation 2, without the hole's form as a condition.
    """
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge in the place of `discriminator_loss`: no more is gained by logits beyond 1 and -1; a guess of 0 costs 1.

    Args:
        real: Logits of being real for what is, (N,).
        fake: The same for what is not, (N,).

    Source: Lim & Ye 2017, Geometric GAN, section 3; Miyato et al. 2018, equation 16.
    """
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def halving(channels: int, size: int, dim: int) -> tuple[nn.Sequential, int]:
    """Convolutions that halve an image until about 4 px are left, and their channels at the end.

    Layer norms in the place of batch norms: an image is judged by itself, whatever else is in the batch.

    Args:
        channels: Of the image.
        size: Of its sides, about, pixels.
        dim: Channels of the first convolution, doubled at each further one, at most eight times.

    Source: Radford et al. 2016 (DCGAN), section 3; the norm after Gulrajani et al. 2017, section 4.
    """
    layers: list[nn.Module] = []
    c_in = channels
    for depth in range(max(1, round(math.log2(size / 4)))):
        c_out = dim * min(8, 2**depth)
        layers.append(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=depth == 0))
        if depth:
            layers.append(nn.GroupNorm(1, c_out))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        c_in = c_out
    return nn.Sequential(*layers), c_in


class Discriminator(nn.Module):
    """Is this image real? See `halving`.

    Args:
        channels: Of the image.
        size: Of its sides, about, pixels.
        dim: Channels of the first convolution.
    """

    def __init__(self, channels: int, size: int, dim: int) -> None:
        super().__init__()
        trunk, width = halving(channels, size, dim)
        self.layers = nn.Sequential(*trunk, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to logits of being real (N,)."""
        logits: Tensor = self.layers(2 * image - 1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).mean(dim=(1, 2, 3))


class Adversarial(Method):
    """A method with a discriminator, which is trained in turn with what `step` gives the loss of, the generator.

    The discriminator's weights are frozen but for the moments in which it learns, so nothing that trains the generator
    moves them. Both gradients are taken before either network moves.

    Attributes:
        discriminator: Set by `set_adversary`; None: there is none, and the method is like others.
    """

    discriminator: nn.Module | None
    discriminator_lr: float

    def set_adversary(self, discriminator: nn.Module | None, lr: float) -> None:
        """Take a discriminator, and the share of the learning rate that it takes."""
        self.discriminator, self.discriminator_lr = discriminator, lr
        if discriminator is not None:
            discriminator.requires_grad_(False)
            self.automatic_optimization = False

    @abstractmethod
    def judged(self) -> Tensor:
        """The discriminator's loss on what the last step has shown it; no gradient may reach the generator."""

    def judge(self) -> Tensor:
        """`judged`; its gradient is not scaled: in float16, which needs that, it is taken in float32."""
        kind = self.device.type
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and _is_wide(torch.get_autocast_dtype(kind))):
            return self.judged()

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

    def _move(self, discriminator: nn.Module) -> None:
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
