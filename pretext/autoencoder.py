"""Autoencoder: paint the image again from its code; denoising and variational as options."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ssl_toolkit.augment import Views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive, require_share
from ssl_toolkit.method import TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.decoder import Decoder, psnr
from ssl_toolkit.pretext.map_task import MapTask


def corrupt(image: Tensor, noise: float, masked: float, fill: Tensor) -> Tensor:
    """Add Gaussian noise to every value, then blot out a share of the pixels.

    Args:
        image: (N, C, H, W) in [0, 1].
        noise: Standard deviation, in the unit of the image.
        masked: Probability of a pixel, all channels of it, to be blotted out.
        fill: What takes its place, broadcast to the image.

    Source: Vincent et al. 2008, section 2.3 (masking); Vincent et al. 2010, section 3.3 (noise).
    """
    noisy = image + noise * torch.randn_like(image) if noise else image
    if not masked:
        return noisy
    hidden = torch.rand(len(image), 1, *image.shape[2:], device=image.device) < masked
    return torch.where(hidden, fill, noisy)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of diagonal Gaussians from the standard normal, nats, summed over all but the batch: (N,).

    Source: Kingma & Welling 2014, appendix B.
    """
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return kl.flatten(1).sum(dim=1)


class Autoencoder(MapTask):
    """Autoencoders: plain, denoising and variational, with a code of few channels a position.

    Args:
        encoder: What is trained and kept.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        variant: ``plain``, ``denoising`` or ``variational``.
        code_dim: Channels of the code at each position of the feature map; the fewer, the less can be copied.
        noise: Of denoising: standard deviation of the noise, in [0, 1].
        masked: Of denoising: share of the pixels that are blotted out.
        beta: Of the variational: weight of the divergence; 1 is the evidence lower bound.
        sigma: Of the variational: standard deviation of the pixels around what is painted, in [0, 1].

    Source: Hinton & Salakhutdinov 2006; Vincent et al. 2008 (denoising); Kingma & Welling 2014 (variational), section
        2.3; Higgins et al. 2017 (beta).
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        variant: Literal["plain", "denoising", "variational"] = "denoising",
        code_dim: int = 32,
        noise: float = 0.1,
        masked: float = 0.25,
        beta: float = 1.0,
        sigma: float = 0.1,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(code_dim=code_dim, sigma=sigma)
        require_share(noise=noise, masked=masked)
        if beta < 0:
            raise UsageError(f"--method.beta is {beta}: it must be at least 0")
        self.variant, self.noise, self.masked, self.beta, self.sigma = variant, noise, masked, beta, sigma
        self.code = nn.Conv2d(self.width, (1 + (variant == "variational")) * code_dim, 1)
        self.decoder = Decoder(code_dim, encoder.config.channels, self.stride)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode, narrow, paint; compare with the image as it was."""
        image = views[0]
        code = self.code(self.encoder.feature_map(self._seen(image)))  # (N, code_dim, h, w)
        if self.variant != "variational":
            painted = self.paint(code, image.shape)
            return {"loss": (painted - image).square().mean(), "psnr": psnr(painted.detach(), image)}
        mean, log_variance = code.chunk(2, dim=1)
        painted = self.paint(mean + (0.5 * log_variance).exp() * torch.randn_like(mean), image.shape)
        squared = (painted - image).square().flatten(1).sum(dim=1)
        kl = gaussian_kl(mean, log_variance).mean()
        # In nats a value, so that learning rates do not depend on the size of the images.
        loss = (squared.mean() / (2 * self.sigma**2) + self.beta * kl) / image[0].numel()
        return {"loss": loss, "kl": kl, "psnr": psnr(painted.detach(), image)}

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """What the encoder sees, and what is painted from its code."""
        image, seen = views[0], self._seen(views[0])
        code = self.code(self.encoder.feature_map(seen))
        mean = code.chunk(2, dim=1)[0] if self.variant == "variational" else code
        painted = self.paint(mean, image.shape)
        words = [f"{psnr(one, other):.1f} dB" for one, other in zip(painted, image, strict=True)]
        rows = {"view": image, "seen": seen.clamp(0, 1), "painted": painted.clamp(0, 1)}
        if seen is image:
            del rows["seen"]
        return TaskPicture("Views, and what the network paints from their codes.", rows, {"painted": words})

    def _seen(self, image: Tensor) -> Tensor:
        if self.variant != "denoising":
            return image
        return corrupt(image, self.noise, self.masked, self.encoder.mean)

    def paint(self, code: Tensor, shape: torch.Size) -> Tensor:
        """Code (N, code_dim, h, w) to images (N, C, H, W) of a shape, about [0, 1]; zeros become the mean colour."""
        painted: Tensor = self.decoder(code, (shape[-2], shape[-1]))
        return painted * self.encoder.std + self.encoder.mean
