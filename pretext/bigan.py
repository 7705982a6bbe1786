"""BiGAN: images with their codes, and codes with the images made of them, must not be told apart."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ssl_toolkit.augment import Views, pretext_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.method import TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.adversary import Adversarial, discriminator_loss, halving, hinge_loss
from ssl_toolkit.pretext.decoder import Decoder, psnr

START = 4  # px a side of the generator's first map


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What encoder and generator are to lower: the cross-entropy with the answers exchanged, in nats.

    Args:
        real: Logits of being an image with its code, for images with their codes, (N,).
        fake: The same for images that were made, with the codes that they were made of, (N,).

    Source: Donahue et al. 2017, section 3.4: exchanged answers, whose gradient does not vanish as that of equation 3.
    """
    return discriminator_loss(fake, real)


def hinge_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The same for a discriminator of `hinge_loss`: the difference of the logits, which nothing limits.

    Source: Miyato et al. 2018, equation 17, for both kinds of pairs.
    """
    return (real.mean() - fake.mean()) / 2


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's, of each row with the other's: (N, K) and (N, K) to (N,) in [-1, 1]."""
    one, other = (each - each.mean(dim=1, keepdim=True) for each in (one, other))
    return F.cosine_similarity(one, other)


LOSSES = {"cross_entropy": (discriminator_loss, generator_loss), "hinge": (hinge_loss, hinge_generator_loss)}


class Generator(nn.Module):
    """Codes to images, as an autoencoder's decoder: from 4x4 positions on, twice the size at each convolution.

    Args:
        code_dim: Of the codes.
        channels: Of the images.
        size: Of their sides, pixels.
        dim: Channels of the first map.
    """

    def __init__(self, code_dim: int, channels: int, size: int, dim: int) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        self.start = nn.Linear(code_dim, dim * START**2, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.decoder = Decoder(dim, channels, max(2, size // START), dim)

    def forward(self, code: Tensor) -> Tensor:
        """Codes (N, K) to images (N, C, size, size) in (0, 1)."""
        start = F.relu(self.norm(self.start(code).view(len(code), self.dim, START, START)))
        image: Tensor = self.decoder(start, (self.size, self.size)).sigmoid()
        return image


class JointDiscriminator(nn.Module):
    """Was this image encoded, or made of this code? Judges both together.

    Args:
        code_dim: Of the codes.
        channels: Of the images.
        size: Of their sides, pixels.
        dim: Channels of the first convolution; see `halving`.
        spectral: Whether each layer's largest singular value is kept at 1 (Miyato et al. 2018).
    """

    def __init__(self, code_dim: int, channels: int, size: int, dim: int, spectral: bool) -> None:
        super().__init__()
        self.trunk, width = halving(channels, size, dim)
        with torch.no_grad():
            flat = self.trunk(torch.zeros(1, channels, size, size)).numel()
        hidden = 2 * width
        self.head = nn.Sequential(
            nn.Linear(flat + code_dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )  # fmt: skip
        if spectral:
            for layer in [*self.modules()]:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    spectral_norm(layer)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """Images (N, C, size, size) in [0, 1] and codes (N, K) to logits of being an image with its code (N,)."""
        seen = self.trunk(2 * image - 1).flatten(1)
        logits: Tensor = self.head(torch.cat([seen, code.to(seen.dtype)], dim=1))
        return logits.squeeze(1).to(torch.promote_types(logits.dtype, torch.float32))


class BiGAN(Adversarial):
    """Adversarial feature learning: the encoder learns to invert a generator that it never sees.

    A discriminator sees pairs of image and code: images with the codes that the encoder gives them, and drawn codes
    with the images that the generator makes of them. Where it cannot tell the two apart, one inverts the other.

    Args:
        encoder: What is trained and kept.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        code_dim: Dimension of the codes, each of which is drawn from -1 to 1.
        generator_dim: Channels of the generator's first map.
        discriminator_dim: Channels of the discriminator's first layer.
        discriminator_lr: Share of the learning rate that the discriminator takes.
        adversary: Loss of both sides: ``cross_entropy``, the paper's, or ``hinge``.
        spectral_norm: Whether the discriminator's layers are normalised by their largest singular value.

    Source: Donahue et al. 2017, Adversarial Feature Learning, sections 3 and 4.
    """

    default_views = staticmethod(pretext_views)

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        code_dim: int = 50,
        generator_dim: int = 128,
        discriminator_dim: int = 32,
        discriminator_lr: float = 1.0,
        adversary: Literal["cross_entropy", "hinge"] = "cross_entropy",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            code_dim=code_dim, generator_dim=generator_dim, discriminator_dim=discriminator_dim,
            discriminator_lr=discriminator_lr,
        )  # fmt: skip
        size, channels = encoder.config.image_size, encoder.config.channels
        self.code_dim = code_dim
        self.code = nn.Linear(encoder.feature_dim, code_dim)
        self.generator = Generator(code_dim, channels, size, generator_dim)
        self.told_apart, self.confused = LOSSES[adversary]
        judge = JointDiscriminator(code_dim, channels, size, discriminator_dim, spectral_norm)
        self.set_adversary(judge, discriminator_lr)

    def draw(self, count: int) -> Tensor:
        """Codes (count, K), uniform from -1 to 1."""
        return 2 * torch.rand(count, self.code_dim, device=self.device, dtype=self.code.weight.dtype) - 1

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Encode images, make images of drawn codes; both pairs are to be taken for the other kind."""
        assert self.discriminator is not None
        x, z = self._of_size(views[0]), self.draw(len(views[0]))
        code, made = self.code(self.encoder(x)), self.generator(z)
        self.shown = x, code.detach(), made.detach(), z  # what the discriminator learns from next
        real, fake = self.discriminator(x, code), self.discriminator(made, z)
        return {
            "loss": all_mean(self.confused(real, fake)),
            "told_apart": ((real > 0).float() + (fake < 0).float()).mean() / 2,
        }

    def judged(self) -> Tensor:
        """Of images with their codes, and of codes with what was made of them."""
        assert self.discriminator is not None
        x, code, made, z = self.shown
        return self.told_apart(self.discriminator(x, code), self.discriminator(made, z))

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """Images, what the generator makes of their codes, and what it makes of drawn codes; how well each is found."""
        x, z = views[0], self.draw(len(views[0]))
        again, samples = self.generator(self.code(self.encoder(x))), self.generator(z)
        found = correlation(self.code(self.encoder(samples)), z)
        return TaskPicture(
            "Images, what the generator makes of the encoder's codes of them, which nothing compares with the images, "
            "and what it makes of drawn codes; r is a drawn code's correlation with the encoder's code of its image.",
            {"view": x, "reconstruction": again, "sample": samples},
            {
                "reconstruction": [f"{psnr(one, other):.1f} dB" for one, other in zip(again, x, strict=True)],
                "sample": [f"r {each:.2f}" for each in found],
            },
        )

    def _of_size(self, view: Tensor) -> Tensor:
        """Views as the generator makes images: of another size, they would be told apart by that."""
        size = self.generator.size
        if tuple(view.shape[-2:]) != (size, size):
            raise UsageError(
                f"bigan makes images of {size}x{size} px, the views are {view.shape[-2]}x{view.shape[-1]}: give "
                "--views.size the value of --image-size"
            )
        return view
