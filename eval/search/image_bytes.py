"""Features of an image that somebody sends: bytes of a file, of which nothing is believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_toolkit.data.images import decode_image
from ssl_toolkit.data.reading import center_crop
from ssl_toolkit.encoders import Encoder

MAX_BYTES = 32 << 20
"""Largest file that may be sent, bytes; more is refused unread."""

MAX_PIXELS = 1 << 26
"""Most pixels of an image that may be sent; more is refused before decoding."""

EncodeBytes: TypeAlias = Callable[[bytes], NDArray[np.float32]]


def bytes_encoder(encoder: Encoder, device: str | torch.device = "cpu") -> EncodeBytes:
    """A function from the bytes of an image file to its features (D,).

    It raises `BadImageError` for what is no image that can be read, or has more than `MAX_PIXELS`.
    """
    encoder = encoder.to(device).eval()
    config, view = encoder.config, encoder.eval_view()
    size = config.load_size

    def encode(content: bytes) -> NDArray[np.float32]:
        pixels = decode_image(content, size=size, channels=config.channels, range=config.range, max_pixels=MAX_PIXELS)
        batch = torch.from_numpy(center_crop(pixels, size)[None].copy()).to(device)
        with torch.inference_mode():
            features: NDArray[np.float32] = encoder(view(batch))[0].float().cpu().numpy()
        return features

    return encode
