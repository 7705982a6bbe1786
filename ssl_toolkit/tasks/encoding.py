"""Images to features on the disk, such that a kill costs the last thousand images and no more."""

from __future__ import annotations

import csv
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.features.growing import Growing
from ssl_toolkit.eval.search.index import file_stamp
from ssl_toolkit.progress import say
from ssl_toolkit.runs import local_rank
from ssl_toolkit.tasks.common import encode_all, image_loader, is_nameless

BATCH = 256  # images, of which a run that goes on leaves out whole ones


def states(images: ImageSet, encoder_sha256: str) -> Callable[[int, int], str] | None:
    """See `Growing`: an image is another one if its name, its label or the state of its file is.

    Returns:
        None where the images have no names: arrays that look alike may hold other pixels.
    """
    if not len(images) or is_nameless(images.path(0)):
        return None

    def state(start: int, end: int) -> str:
        digest = sha256(f"{encoder_sha256} {BATCH} {len(images)}".encode())
        for row in range(start, end):
            path = images.path(row)
            digest.update(f"{path}\0{file_stamp(path)}\0{images.labels[row]}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    return state


def encode_into(
    growing: Growing, encoder: Encoder, images: ImageSet, bad_images_file: Path, device: str, **options: Any
) -> tuple[Features, ImageLoader]:
    """Features of the images that `growing` does not hold yet, put behind those that it does.

    Args:
        growing: Of these images.
        encoder: What encodes them.
        images: At least one.
        bad_images_file: Where those that cannot be read are listed.
        device: See `pick_device`; of several processes on a machine, each takes a GPU of its own.
        options: Of `image_loader`.

    Returns:
        All features, memory-mapped, with paths; and the loader, with its list of bad images.
    """
    listed = _listed(bad_images_file)
    loader = image_loader(encoder, images, bad_images_file=bad_images_file, batch_size=BATCH, **options)
    if growing.end:
        loader.position = -(-growing.end // BATCH)
        missing = growing.missing(min(loader.position * BATCH, len(images)))
        loader.bad.record({int(row): listed.get(images.path(int(row)), "it could not be read") for row in missing})
        say(f"going on after image {growing.end} of {len(images)}")
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    return encode_all(encoder, loader, device, options["progress"], growing), loader


def _listed(bad_images_file: Path) -> dict[str, str]:
    if not bad_images_file.exists():
        return {}
    with bad_images_file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        return {row[0]: row[1] for row in csv.reader(lines) if len(row) == 2}
