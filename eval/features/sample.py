"""Images drawn at random, and their features: what pictures of an encoder show."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.image_set import ImageSet, Labels, Subset
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.shown import Look
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.data.video import ClipSet
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.eval.features.extraction import Features, extract
from ssl_toolkit.randomness import numpy_generator


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The images at some places of an image set, read when they are looked at: (3, H, W), ready to be shown."""

    images: ImageSet
    places: NDArray[np.int64]
    size: int
    channels: tuple[int, ...] = ()

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        image = self.images.load(int(self.places[row]), self.size)
        return Look.of([image], self.channels)(image)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images in random order, and their features.

    Attributes:
        images: The part of an image set that was drawn, in the order drawn.
        features: Of those that can be read; `Features.index` counts in `images`.
        picture_channels: Which are shown, see `Look`.
    """

    images: ImageSet
    features: Features
    picture_channels: tuple[int, ...] = ()

    @classmethod
    def take(
        cls,
        encoder: Encoder,
        images: ImageSet,
        count: int,
        *,
        picture_channels: tuple[int, ...] = (),
        seed: int = 0,
        device: str | torch.device = "cpu",
        workers: int = 0,
        progress: bool = False,
    ) -> Sample:
        """Draw and encode.

        Args:
            encoder: Comes back on the CPU.
            images: Where they are drawn from.
            count: How many, at least 2.
            picture_channels: Which are shown, see `Look`.
            seed: Of the draw.
            device: Where they are encoded.
            workers: Processes that read them.
            progress: Shows a progress bar.

        Raises:
            ToolkitError: None of them can be read, or features are not finite.
        """
        images = images.few()
        part = Subset(images, shuffled(images, seed)[: max(2, count)])
        features = extract(
            encoder.to(device),
            ImageLoader(part, encoder.config.load_size, workers=workers, bad=BadImages(part, max_rate=1.0)),
            device=device,
            progress=progress,
            view=encoder.eval_view(),
        )
        encoder.to("cpu")
        return cls(part, features, picture_channels)

    @property
    def labels(self) -> list[str | None]:
        """The class of each row, by name."""
        classes = self.images.classes or []
        return [classes[label] if 0 <= label < len(classes) else None for label in self.features.label]

    def pictures(self, size: int) -> Pictures:
        """The image of each row, with `size` for its short side, read when it is looked at."""
        return Pictures(self.images, self.features.index, size, self.picture_channels)

    def shown(self, views: Tensor) -> list[NDArray[np.uint8]]:
        """What `views` gave, ready to be shown, (3, H, W) each."""
        images = list(views.numpy())
        look = Look(self.picture_channels)
        if self.images.dtype != np.uint8:
            look = Look.of(images, self.picture_channels)
        return list(map(look, images))

    def views(self, encoder: Encoder, rows: Sequence[int]) -> Tensor:
        """The images of some rows as the encoder is shown them, (n, C, H, W) float32 in [0, 1], on the CPU."""
        size, view = encoder.config.load_size, encoder.eval_view()
        read = (self.images.load(int(self.features.index[row]), size) for row in rows)
        made: list[Tensor] = [view(torch.from_numpy(image)[None]) for image in read]
        return torch.cat(made)


def draw_from(
    word: str, encoder: Encoder, *, root: str | None = None, labels: Labels = "auto", whole_clips: bool = False
) -> ImageSet:
    """The images that a word stands for, with the encoder's channels; of clips, unless asked, their first frames."""
    images = open_images(word, root=root, labels=labels, channels=encoder.config.channels, range=encoder.config.range)
    return images.first_frames() if isinstance(images, ClipSet) and not whole_clips else images


def shuffled(images: ImageSet, seed: int = 0) -> NDArray[np.int64]:
    """An order to draw images in, the same each time."""
    return numpy_generator(seed, "report").permutation(len(images))


def one_a_class(labels: Sequence[str | None], count: int) -> list[int]:
    """Rows of the first image of each class, then the second of each, and so on, until there are `count`."""
    seen: Counter[str | None] = Counter()
    order = []
    for row, label in enumerate(labels):
        order.append((seen[label], row))
        seen[label] += 1
    return [row for _, row in sorted(order)[:count]]
