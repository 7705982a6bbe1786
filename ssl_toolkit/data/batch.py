"""The batch: the one thing that data hands to everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssl_toolkit.errors import UsageError

IMAGE_KEYS = ("image", "images", "img", "x", "pixel_values")
LABEL_KEYS = ("label", "labels", "target", "y", "fine_label")
CAPTION_KEYS = ("caption", "captions", "text")


class Batch(NamedTuple):
    """A batch of images as they leave the loader: as deep as their source, not yet augmented, not yet normalised.

    Attributes:
        image: (N, C, H, W) uint8, uint16 or float in [0, 1]; smaller images lie in the top left, zeros around them.
        label: (N,) int64, -1 where there is no label.
        index: (N,) int64, position of each image in its data set; -1 where the loader does not say.
        box: (N, 2) int64, height and width of each image in the batch; None where all of them fill it.
        caption: N texts that say what is in the images, empty where one has none; None where none of them has.
        sound: (N, mels, steps) float, the log-mel spectrogram of what was heard at each image; None where nothing was.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides `tuple.index`, which nobody needs here
    box: Tensor | None = None
    caption: list[str] | None = None
    sound: Tensor | None = None

    def to(self, device: torch.device | str, **kwargs: Any) -> Batch:
        """The batch on a device; nothing is copied of one that is there."""
        return self.each(lambda part: part.to(device, **kwargs))

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A function of every tensor."""
        changed: dict[str, Any] = {n: function(part) for n, part in self._asdict().items() if isinstance(part, Tensor)}
        return self._replace(**changed)


def image_and_label(item: Any) -> tuple[Any, Any]:
    """Image and label, None where there is none, of what a data set or a loader gives.

    Args:
        item: An image, a tuple or list that begins with image and label, or a dictionary that has them under one of
            `IMAGE_KEYS` and of `LABEL_KEYS`.

    Raises:
        UsageError: If it holds no image.
    """
    if isinstance(item, Mapping):
        image = next((item[key] for key in IMAGE_KEYS if key in item), None)
        if image is None:
            raise UsageError(
                f"no image under {', '.join(IMAGE_KEYS)}: there are {', '.join(map(str, item)) or 'no keys'}"
            )
        return image, next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(item, Sequence) and not isinstance(item, str | bytes):
        if not item:
            raise UsageError("an empty tuple holds no image")
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def caption_of(item: Any) -> Any:
    """The text of an item, a dictionary that has it under one of `CAPTION_KEYS`; None where there is none."""
    return next((item[key] for key in CAPTION_KEYS if key in item), None) if isinstance(item, Mapping) else None


def as_batch(given: Any) -> Batch:
    """What any loader gives as a `Batch`; floats are taken as [0, 1].

    Args:
        given: A `Batch`, images (N, C, H, W), or what `image_and_label` knows; N texts may be where `caption_of` finds
            them.

    Raises:
        UsageError: If there are no such images in it.

    Examples:
        >>> as_batch((torch.rand(2, 3, 8, 8), torch.tensor([4, 5]))).label
        tensor([4, 5])
    """
    if isinstance(given, Batch):
        return given
    image, label = image_and_label(given)
    if not isinstance(image, Tensor) or image.ndim != 4:
        form = tuple(image.shape) if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise UsageError(
            f"the loader's images are {form}: they must be a tensor (N, C, H, W), uint8, uint16 or float in [0, 1]"
        )
    unknown = torch.full((len(image),), -1, device=image.device)
    whole = isinstance(label, Tensor) and label.shape == (len(image),) and not label.is_floating_point()
    caption = caption_of(given)
    captions = list(map(str, caption)) if isinstance(caption, list | tuple) and len(caption) == len(image) else None
    return Batch(image, label.long() if whole else unknown, unknown, caption=captions)
