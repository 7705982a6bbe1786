"""What several commands do in the same way."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import cached
from ssl_toolkit.data.image_set import ImageSet, Labels, read_some
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, TextTower, load_text, text_beside
from ssl_toolkit.encoders.weights_file import versions
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.baselines import random_weights
from ssl_toolkit.eval.features.extraction import Features, extract
from ssl_toolkit.eval.features.growing import Growing
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.files import write_atomic
from ssl_toolkit.objects import describe, is_object
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.settings import AnyIndex, AnyTrained, Weights


def pick_device(name: str) -> torch.device:
    """The device that `name` stands for; ``auto`` takes a GPU if there is one.

    Raises:
        UsageError: If it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    check_device("--device", name)
    return torch.device(name)


def check_device(option: str, name: str) -> None:
    """Refuse a type of device that is not there; `option` is what asked for it.

    Raises:
        UsageError: Naming the option.
    """
    cuda = torch.cuda.is_available()
    if not {"cuda": cuda, "gpu": cuda, "mps": torch.backends.mps.is_available()}.get(name, True):
        raise UsageError(f"{option} {name}: there is none on this machine; leave it out, or give cpu")


def natural_size(images: ImageSet) -> int:
    """The short side that most images have, from 16 to 224 px; from 64 px on a multiple of 8."""
    images = images.few()
    sides = [min(image.shape[1:]) for image in read_some(images, np.linspace(0, len(images) - 1, 16).astype(int), 16)]
    if not sides:
        return 224
    side = int(np.median(sides))
    return min(224, max(16, side if side < 64 else side // 8 * 8))


def default_load_size(size: int) -> int:
    """Short side to read images at, for views of `size`: larger from 64 px on, as ImageNet's protocol has it."""
    return size if size < 64 else round(size * 8 / 7)


def default_patch_size(name: str, size: int) -> int:
    """Side of a ViT's patches where images of `size` px would have few of them; 0 for the architecture's own."""
    found = re.match(r"(?:vit|deit)\w*_patch(8|16|32)_", name)
    own = patch = int(found[1]) if found else 0
    while patch > max(2, size // 8):
        patch //= 2
    return 0 if patch == own else patch


def open_index(index: AnyIndex, argument: str = "index") -> EmbeddingIndex:
    """An index, which may be open already; `argument` is what asked for it.

    Raises:
        UsageError: If there is none, or it is something else.
    """
    if isinstance(index, EmbeddingIndex):
        return index
    if not isinstance(index, str | os.PathLike):
        raise UsageError(f"{argument} is {describe(index)}: give an index folder or an EmbeddingIndex")
    return EmbeddingIndex.load(index)


def open_loader(
    encoder: Encoder, data: Any, *, data_root: str, labels: Labels, argument: str = "data", **options: Any
) -> ImageLoader:
    """The images of `data` in their order; see `open_stills`, options as of `image_loader`.

    Raises:
        UsageError: If there are no such images, or a number is out of range.
    """
    images = open_stills(encoder, data, data_root=data_root, labels=labels, argument=argument)
    return image_loader(encoder, images, **options)


def open_stills(encoder: Encoder, data: Any, *, data_root: str, labels: Labels, argument: str = "data") -> ImageSet:
    """The images of `data` with the channels that `encoder` wants, in the range that it knows.

    Args:
        encoder: What they are for.
        data: See `open_images`.
        data_root: Folder of torchvision's data sets.
        labels: How a folder is read.
        argument: What `data` is to the user.

    Raises:
        UsageError: If there are no such images, or they are clips.
    """
    try:
        images = open_images(
            data, root=data_root, labels=labels, channels=encoder.config.channels, range=encoder.config.range
        )
    except UsageError as error:
        raise UsageError(re.sub("^data(?= is | was | <|:)", argument, str(error))) from error
    if images.frames > 1:
        raise UsageError(
            f"'{images.word}' has clips of {images.frames} frames: give single frames as images, clips:PATH:1"
        )
    return images


def text_tower(encoder: Any, feature_dim: int) -> TextTower:
    """The text tower that belongs to an encoder.

    Args:
        encoder: Its file, or the folder of its run.
        feature_dim: Width of its features.

    Raises:
        UsageError: There is none.
    """
    file = text_beside(encoder) if isinstance(encoder, str | os.PathLike) else None
    if file is None:
        given = encoder if isinstance(encoder, str | os.PathLike) else describe(encoder)
        raise UsageError(f"texts need an encoder with a text tower, and beside {given} is none: clip trains both")
    tower = load_text(file)
    if tower.config.dim != feature_dim:
        raise UsageError(f"{file} gives {tower.config.dim} features, the encoder {feature_dim}: they are not of a run")
    return tower


def check_reading(workers: int, max_bad_rate: float) -> None:
    """Refuse what images cannot be read with, before anything is written.

    Raises:
        UsageError: A number is out of range.
    """
    if not 0 <= workers <= 256:
        raise UsageError(f"--workers is {workers}: it must be from 0 to 256")
    if not 0 <= max_bad_rate <= 1:
        raise UsageError(f"--max-bad-rate is {max_bad_rate}: it must be from 0 to 1")


def is_nameless(path: str) -> bool:
    """Whether the name of an image says what Python held, and not which image it was.

    Examples:
        >>> is_nameless("<numpy.ndarray (9, 8, 8, 3) uint8>#3"), is_nameless("shapes:test#3")
        (True, False)
    """
    return is_object(path.rpartition("#")[0].removeprefix("data "))


def image_loader(
    encoder: Encoder,
    images: ImageSet,
    *,
    workers: int,
    max_bad_rate: float,
    progress: bool,
    bad_images_file: Path | None = None,
    cache: str = "none",
    total: int | None = None,
    **training: Any,
) -> ImageLoader:
    """Images in their order as `encoder` wants them or, with ``shuffle``, ``batch_size`` and ``seed``, for training.

    Args:
        encoder: Says at what size images are read.
        images: The images.
        workers: Processes that read them.
        max_bad_rate: Share that may be unreadable.
        progress: Show a progress bar where all are read at once.
        bad_images_file: See `BadImages`.
        cache: See `cached`.
        total: See `BadImages`.
        training: See `ImageLoader`.

    Raises:
        UsageError: If a number is out of range.
    """
    check_reading(workers, max_bad_rate)
    if bad_images_file is not None and bad_images_file.exists():
        bad_images_file.unlink()  # of other images
    size = encoder.config.load_size
    bad = BadImages(images, bad_images_file, max_bad_rate, total)
    images = cached(images, size, bad, cache, workers, progress)
    return ImageLoader(images, size, workers=workers, bad=bad, **training)


def encode_all(
    encoder: Encoder, loader: ImageLoader, device: str, progress: bool, out: Growing | None = None
) -> Features:
    """Features of all images of a loader, with their paths."""
    place = pick_device(device)
    return extract(
        encoder.to(place),
        loader,
        out=out,
        device=place,
        progress=progress,
        view=encoder.eval_view(),
        paths=loader.images.path,
    )


def random_baseline(encoder: Encoder, seed: int) -> dict[str, Encoder]:
    """The encoder with random weights, by its name in results; nothing of one that cannot have any, which is said."""
    try:
        return {"random": random_weights(encoder, seed)}
    except UsageError as error:
        say(f"no baseline: {error}")
        return {}


class Results:
    """What a task that scores an encoder leaves behind, with what is needed to believe it; its time starts here.

    Args:
        run: Where the encoder is from; of an object, there is a description.
        encoder: It.
        metadata: Of its file.
        seed: Of the command.
    """

    def __init__(self, run: AnyTrained, encoder: Encoder, metadata: dict[str, str], seed: int) -> None:
        self.started, self.seed = time.time(), seed
        path = Weights.of(run).path
        self.encoder = {
            "path": os.fspath(path) if isinstance(path, str | os.PathLike) else describe(path),
            "name": encoder.config.name,
            "method": metadata["method"],
            "sha256": metadata["sha256"],
            "image_size": encoder.config.image_size,
        }

    def write(self, found: dict[str, Any], files: Iterable[Path]) -> dict[str, Any]:
        """Write what was `found` to JSON files, and return all that they say."""
        summary = {
            "encoder": self.encoder,
            **found,
            "seed": self.seed,
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.time() - self.started, 1),
        }
        text = json.dumps(summary, indent=2) + "\n"
        for file in files:
            write_atomic(file, lambda temporary: temporary.write_text(text))
        return summary
