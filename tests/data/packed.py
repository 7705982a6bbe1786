"""Small sets of images in the forms that other programs write."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["ant", "bee", "cat"]


def jpegs(count: int, side: int = 24, seed: int = 0) -> list[bytes]:
    """Image files of noise on a gradient, no two alike."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        file = io.BytesIO()
        pixels = np.linspace(0, 200, side * side * 3).reshape(side, side, 3) + rng.integers(0, 56, (side, side, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
        made.append(file.getvalue())
    return made


def folder(path: Path, images: Sequence[bytes]) -> Path:
    """A folder whose subfolders are classes, and whose order is that of the images."""
    count = len(images)
    for i, data in enumerate(images):
        place = path / CLASSES[3 * i // count] / f"{i:04d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return path


def labels(count: int) -> list[int]:
    """Those of `folder`."""
    return [3 * i // count for i in range(count)]


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar file."""
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def shards(path: Path, images: Sequence[bytes], count: int = 3) -> str:
    """Shards with a .cls each, and the word for them."""
    path.mkdir(exist_ok=True)
    for shard, rows in enumerate(np.array_split(np.arange(len(images)), count)):
        members = []
        for i in rows.tolist():
            members += [(f"{i:04d}.jpg", images[i]), (f"{i:04d}.cls", str(labels(len(images))[i]).encode())]
        tar(path / f"s-{shard:03d}.tar", members)
    return f"wds:{path}/s-{{000..{count - 1:03d}}}.tar"
