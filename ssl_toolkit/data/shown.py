"""How images are shown, of any depth and with any number of channels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Pixels, at_depth
from ssl_toolkit.errors import UsageError

STRETCH = (1, 99)  # percentiles of a channel that become black and white, of images deeper than 8 bits
_VALUES = 1 << 14  # of an image, that are looked at for it


def parse_picture_channels(given: str | Sequence[int] | None) -> tuple[int, ...]:
    """Channels as users choose them: ``"3,2,1"``, numbers, or None for none of their own.

    Raises:
        UsageError: They are not one or three numbers from 1.

    Examples:
        >>> parse_picture_channels("4,3,2"), parse_picture_channels(8), parse_picture_channels(None)
        ((4, 3, 2), (8,), ())
    """
    if given is None:
        return ()
    try:
        words = re.split(r"\s*,\s*", str(given).strip("[]() "))
        channels = tuple(int(word) for word in words if word)
    except ValueError:
        channels = ()
    if len(channels) not in (1, 3) or min(channels) < 1:
        raise UsageError(f"--picture-channels is {given}: it must be one number or three, counted from 1, as in 3,2,1")
    return channels


@dataclass(frozen=True)
class Look:
    """What becomes red, green and blue of an image, and how dark and bright.

    Attributes:
        channels: Three channels for red, green and blue, or one for grey, counted from 1; empty: the first three or, of
            fewer, the first.
        ends: What becomes black and white, (shown channels, 2), in [0, 1]; None: 0 and 1.
    """

    channels: tuple[int, ...] = ()
    ends: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, images: Sequence[Pixels], channels: tuple[int, ...] = ()) -> Look:
        """The look of images (C, H, W): if they are deeper than 8 bits, each channel is stretched, alike in all."""
        look = cls(channels)
        if all(image.dtype == np.uint8 for image in images):
            return look
        chosen = [_floats(look._chosen(image)) for image in images]
        flat = [image.reshape(len(image), -1) for image in chosen]
        every = np.concatenate([part[:, :: 1 + part.shape[1] // _VALUES] for part in flat], axis=1)
        ends = np.percentile(every, STRETCH, axis=1).T
        ends = np.where(np.ptp(ends, axis=1, keepdims=True) > 1e-5, ends, [0, 1])  # a flat channel as it is
        return cls(channels, ends.astype(np.float32))

    def __call__(self, image: Pixels) -> NDArray[np.uint8]:
        """An image (C, H, W), uint8, uint16 or float in [0, 1], as (3, H, W) uint8.

        Raises:
            UsageError: It has not the channels.
        """
        shown = self._chosen(image)
        if shown.dtype != np.uint8 or self.ends is not None:
            floats = _floats(shown)
            if self.ends is not None:
                black, white = self.ends.T[..., None, None]
                floats = (floats - black) / (white - black)
            # Arithmetic on views may leave the range by a rounding error.
            shown = at_depth(floats.clip(0, 1), np.uint8)
        return np.ascontiguousarray(np.repeat(shown, 3, axis=0) if len(shown) == 1 else shown)

    def _chosen(self, image: Pixels) -> Pixels:
        if not self.channels:
            return image[:3] if len(image) >= 3 else image[:1]
        if max(self.channels) > len(image):
            asked = ",".join(map(str, self.channels))
            raise UsageError(f"--picture-channels {asked}: the images have {len(image)} channels")
        return image[[channel - 1 for channel in self.channels]]


def _floats(image: Pixels) -> NDArray[np.float32]:
    return image.astype(np.float32) if image.dtype.kind == "f" else at_depth(image, np.float32)
