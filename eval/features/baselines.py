"""What an encoder has to beat: the pixels themselves, and itself before training."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Encode

_Encoder = TypeVar("_Encoder", bound=nn.Module, covariant=True)


class Reinitializable(Protocol[_Encoder]):
    """An encoder that can be built again with other random weights."""

    def reinitialized(self, seed: int) -> _Encoder:
        """The same architecture, fresh weights drawn from `seed`."""


def pixels(size: int = 32) -> Encode:
    """Raw pixels as features.

    Args:
        size: Largest side, in pixels. A longer side is brought down to it by averaging over areas, each side for
            itself; images are never enlarged.

    Returns:
        A function from images in [0, 1], (N, C, H, W), to features (N, C * h * w) in [0, 1], with h = min(H, size) and
        w = min(W, size), channel by channel, row by row.

    Raises:
        UsageError: `size` is below 1.

    Examples:
        >>> import torch
        >>> pixels(size=1)(torch.tensor([0.0, 1.0, 0.5, 0.5]).view(1, 1, 2, 2))
        tensor([[0.5000]])
    """
    if size < 1:
        raise UsageError(f"size must be at least 1 pixel, got {size}")

    def encode(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return F.adaptive_avg_pool2d(image, (min(height, size), min(width, size))).flatten(1)

    return encode


def random_weights(encoder: Reinitializable[_Encoder], seed: int) -> _Encoder:
    """The encoder before any training: the same architecture with weights drawn from `seed`, in eval mode.

    What it scores is owed to the architecture, not to what was learnt.

    Examples:
        >>> from ssl_toolkit.encoders import Encoder, EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> random_weights(encoder, seed=0).sha256 == random_weights(encoder, seed=0).sha256
        True
    """
    fresh = encoder.reinitialized(seed)
    return fresh.eval()
