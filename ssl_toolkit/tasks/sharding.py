"""A part of the images for each of several processes: which is ours, where it is written, and whether all are there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_toolkit.data.image_set import ImageSet, Subset
from ssl_toolkit.errors import UsageError
from ssl_toolkit.launch import started_by_torchrun
from ssl_toolkit.slurm import started_by_srun
from ssl_toolkit.tasks.settings import AnyIndex

_FOLDER = re.compile(r"shard-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class Shard:
    """One part of a set of images, all but equal parts of which follow one another.

    Attributes:
        number: Which, from 0.
        count: How many there are.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, images: ImageSet) -> ImageSet:
        """Our images.

        Raises:
            UsageError: There are fewer images than parts.
        """
        if len(images) < self.count:
            raise UsageError(f"--shard {self}: '{images.word}' has {len(images)} images, fewer than parts")
        return Subset(images, np.arange(self.first(len(images)), Shard(self.number + 1, self.count).first(len(images))))

    def first(self, total: int) -> int:
        """Position of our first image among `total`."""
        return total * self.number // self.count

    def folder(self, out: str | os.PathLike[str]) -> Path:
        """Where our part is written: every process is given the same `out`."""
        return Path(out) / f"shard-{self.number:05d}-of-{self.count:05d}"


def own_shard(asked: str | None) -> Shard | None:
    """The part that was asked for; else the one of our rank where torchrun or srun has started several processes.

    Args:
        asked: ``i/n``, with i from 0 to n - 1; ``0/1`` and a process alone have all images, which is None.

    Raises:
        UsageError: `asked` is no such thing.
    """
    if asked is None:
        number, count = _rank()
    else:
        found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", asked)
        number, count = (int(found[1]), int(found[2])) if found else (1, 0)
        if number >= count:
            known = f"shards are numbered 0/{count} to {count - 1}/{count}" if count else "it must be i/n, such as 0/8"
            raise UsageError(f"--shard {asked}: {known}")
    return Shard(number, count) if count > 1 else None


def _rank() -> tuple[int, int]:
    """Number of this process among those that torchrun or srun has started, and of these, which share its GPUs."""
    if started_by_srun():
        return int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    if started_by_torchrun():
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def with_all_shards(indexes: Sequence[AnyIndex]) -> list[AnyIndex]:
    """What was given, with all shards in the place of a folder that holds shards.

    Raises:
        UsageError: One of them is missing, or there are such of several numbers of shards.
    """
    found: list[AnyIndex] = []
    for each in indexes:
        found += (_shards_in(Path(each)) if isinstance(each, str | os.PathLike) else []) or [each]
    return found


def _shards_in(folder: Path) -> list[Path]:
    found = [match for path in sorted(folder.glob("shard-*")) if (match := _FOLDER.fullmatch(path.name))]
    counts = {int(match[2]) for match in found}
    if len(counts) > 1:
        several = " and of ".join(map(str, sorted(counts)))
        raise UsageError(f"{folder} holds shards of {several} parts: delete those that are not wanted")
    for count in counts:
        there = {int(match[1]) for match in found}
        if gone := [number for number in range(count) if number not in there]:
            raise UsageError(
                f"{folder} lacks {len(gone)} of {count} shards, first {gone[0]}/{count}: make it with --shard"
            )
    return [folder / match[0] for match in found]
