"""Mixup and CutMix: two images and their labels become one, for fine-tuning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_toolkit.augment.base import in_unit_range
from ssl_toolkit.errors import UsageError


class _Mix(nn.Module):
    """Draws the share that each image keeps, and its partner."""

    def __init__(self, classes: int, alpha: float) -> None:
        super().__init__()
        if classes < 2 or alpha <= 0:
            raise UsageError(f"mixing needs at least 2 classes and alpha above 0, not {classes} and {alpha}")
        self.classes = classes
        self.alpha = alpha

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """The share kept, a scalar of Beta(alpha, alpha), and the partners' indices (N,); both on the CPU."""
        alpha = torch.tensor(self.alpha, dtype=torch.float32)
        return torch.distributions.Beta(alpha, alpha).sample(), torch.randperm(count)

    def soft(self, label: Tensor) -> Tensor:
        """(N,) class numbers or (N, K) probabilities -> (N, K) float32."""
        if label.dim() == 2:
            return label.to(torch.float32)
        return F.one_hot(label, self.classes).to(torch.float32)


class Mixup(_Mix):
    """Each image and its label become a convex combination with those of a partner.

    Args:
        classes: Number of classes K.
        alpha: Both parameters of the beta distribution of the share an image keeps, drawn once a batch.

    Source: Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization, section 2.

    Examples:
        >>> image, label = Mixup(classes=3, alpha=0.2)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
        >>> image.shape, label.shape, label.sum(1)
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]), tensor([1., 1., 1., 1.]))
    """

    @torch.no_grad()
    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            image: uint8, uint16 or float (N, C, H, W); integers become float in [0, 1].
            label: (N,) class numbers or (N, K) probabilities.

        Returns:
            The mixed images, float (N, C, H, W), and labels, float32 (N, K).
        """
        share, partner = self.draw(len(image))
        keep = float(share)  # drawn on the CPU: nothing waits for the device
        partner = partner.to(image.device, non_blocking=True)
        image = in_unit_range(image)
        target = self.soft(label)
        return torch.lerp(image[partner], image, keep), torch.lerp(target[partner], target, keep)


class CutMix(_Mix):
    """A rectangle of each image comes from a partner; labels mix by area.

    Args:
        classes: Number of classes K.
        alpha: Both parameters of the beta distribution of the area an image keeps, drawn once a batch.

    Source: Yun et al. 2019, CutMix: Regularization Strategy to Train Strong Classifiers, section 3.1.

    Examples:
        >>> image, label = CutMix(classes=3, alpha=1.0)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
        >>> image.shape, label.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    @torch.no_grad()
    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch; arguments and results as those of `Mixup`."""
        share, partner = self.draw(len(image))
        height, width = image.shape[-2:]
        side = (1 - float(share)) ** 0.5
        centre = torch.rand(2)
        y, x = int(centre[0] * height), int(centre[1] * width)
        half_height, half_width = int(height * side) // 2, int(width * side) // 2
        top, bottom = max(y - half_height, 0), min(y + half_height, height)
        left, right = max(x - half_width, 0), min(x + half_width, width)
        keep = 1 - (bottom - top) * (right - left) / (height * width)  # the part that lies in the image counts
        partner = partner.to(image.device, non_blocking=True)
        mixed = in_unit_range(image).clone()
        mixed[..., top:bottom, left:right] = mixed[partner][..., top:bottom, left:right]
        target = self.soft(label)
        return mixed, torch.lerp(target[partner], target, keep)
