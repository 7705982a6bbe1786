"""Groups of images that are copies of one another: near by the embedding, and alike pixel by pixel."""

from __future__ import annotations

import dataclasses
import math
import os
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.depth import FULL, Range
from ssl_toolkit.data.items import open_item
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.eval.search.likeness import ALIKE, coarse_likeness, likeness, thumbnails
from ssl_toolkit.randomness import numpy_generator

LIMITS = (0.75, 0.9)
"""Between these the threshold is chosen: measured, see docs/evaluation.md."""

_LINKED = 16  # nearest others of each image that may be its copies
_SAMPLE = 2000  # pairs that show what chance reaches
_DETAIL = 0.5  # share of the most detail in a group that an image to be kept has at least


@dataclasses.dataclass(frozen=True, eq=False)
class Copies:
    """What `duplicates` found.

    Attributes:
        groups: Positions of each group's images in the index, the one to keep first; the largest group first.
        likeness: Of each of them to the one to keep, 1 for itself.
        threshold: The least likeness of a copy.
        unread: Positions of the images that could not be read any more, which are in no group.
    """

    groups: list[list[int]]
    likeness: list[list[float]]
    threshold: float
    unread: list[int]


def duplicates(
    index: EmbeddingIndex,
    threshold: float | None = None,
    *,
    channels: int = 3,
    root: str | os.PathLike[str] | None = None,
    range: Range | None = None,
    progress: bool = False,
) -> Copies:
    """Groups of copies: resized, compressed again, flipped, turned, cut by some percent, brighter or darker.

    Of each image the nearest others by the embedding are looked at, pixel by pixel. A group is one image to keep and
    the copies of it: each was compared with that image itself, so that no chain of small differences joins two that
    are unlike. To keep is the one of most pixels among those that have at least half of the most detail in the group
    (which an enlargement has not), the larger file of equal ones.

    Args:
        index: What to look through; its images are read again from where they lie.
        threshold: Least `likeness` of a copy, in [0, 1]. None: what a tenth of a pair is expected to reach by chance,
            judged by a sample of pairs, most of which are no copies; within `LIMITS`.
        channels: Channels of the images.
        root: Folder of torchvision's data sets.
        range: Of the images, see `open_images`.
        progress: Whether a progress bar is shown.

    Raises:
        UsageError: None of the images can be read any more.
    """
    small, there = thumbnails(index.paths, channels, root, progress, range)
    if not there.any():
        raise UsageError(f"none of the {len(index)} images of the index can be read any more, such as {index.paths[0]}")
    pairs = candidate_pairs(index)
    pairs = pairs[there[pairs].all(axis=1)]
    coarse, orientation = coarse_likeness(small, pairs)
    if threshold is None:
        threshold = chance_level(small, pairs, orientation)
    near = coarse >= ALIKE
    pairs, alike = pairs[near], likeness(small, pairs[near], orientation[near])
    pairs, alike = pairs[alike >= threshold], alike[alike >= threshold]
    value = {int(place): worth(index.paths[place], channels, root, range) for place in np.unique(pairs)}
    known = {(int(one), int(two)): float(score) for (one, two), score in zip(pairs, alike, strict=True)}
    groups = stars(known, value, small, threshold)
    return Copies(
        [[place for place, _ in group] for group in groups],
        [[score for _, score in group] for group in groups],
        threshold,
        np.flatnonzero(~there).tolist(),
    )


def candidate_pairs(index: EmbeddingIndex) -> NDArray[np.int64]:
    """Each image with its nearest others by the embedding, every pair once, (P, 2), ascending."""
    position = index.neighbours(_LINKED)[1]
    own = np.repeat(np.arange(len(index)), position.shape[1])
    return np.unique(np.sort(np.stack([own, position.ravel()], axis=1), axis=1), axis=0)


def chance_level(small: NDArray[np.uint8], pairs: NDArray[np.int64], orientation: NDArray[np.int64]) -> float:
    """The likeness that a tenth of a pair is expected to reach among so many that are no copies, within `LIMITS`.

    Fisher's z of the likeness is near to normal. Its middle and spread are taken from a sample of the pairs, and from
    its lower half: copies, if there are some, are in the upper.
    """
    count = len(pairs)
    if not count:
        return LIMITS[0]
    rows = numpy_generator(0, "copies").choice(count, min(_SAMPLE, count), replace=False)
    z = np.arctanh(likeness(small, pairs[rows], orientation[rows]).clip(-0.999, 0.999))
    low, middle = np.quantile(z, (NormalDist().cdf(-1), 0.5))
    reached = math.tanh(middle + (middle - low) * NormalDist().inv_cdf(1 - 0.1 / count))
    return min(max(reached, LIMITS[0]), LIMITS[1])


def worth(
    path: str, channels: int, root: str | os.PathLike[str] | None, range: Range | None = None
) -> tuple[float, int, int]:
    """What decides whether an image is kept: its detail, its pixels and the bytes of its file.

    Detail is the number of pixels times the variance of the Laplacian, in units of the image's own variance.
    """
    try:
        pixels = open_item(path, channels, root=root, range=range)
    except (ToolkitError, OSError):  # gone since its thumbnail was made
        return 0.0, 0, 0
    image = pixels.mean(axis=0, dtype=np.float32) * np.float32(255 / FULL[pixels.dtype])  # in grey levels
    x = np.pad(image, 1, mode="edge")
    edges = 4 * image - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
    return image.size * float(edges.var()) / (float(image.var()) + 1), image.size, file_bytes(path)


def file_bytes(path: str) -> int:
    """Size of an image's file; 0 where it is an item of a set."""
    return os.path.getsize(path) if os.path.isfile(path) else 0


def stars(
    known: dict[tuple[int, int], float],
    value: dict[int, tuple[float, int, int]],
    small: NDArray[np.uint8],
    threshold: float,
) -> list[list[tuple[int, float]]]:
    """Groups around the images to keep; see `duplicates`.

    Args:
        known: Likeness of the pairs that are copies; the smaller position first.
        value: `worth` of the images in them.
        small: Thumbnails of all images.
        threshold: Least likeness of a copy.

    Returns:
        Groups of positions and likeness to the first, the largest group first.
    """
    linked: dict[int, set[int]] = {place: set() for place in value}
    for one, two in known:
        linked[one].add(two)
        linked[two].add(one)
    left, groups = set(value), []
    while left:
        # The copies of its copies too: of a hundred that are equal, each knows the same few.
        around = connected(min(left), linked, left)
        most = max(value[place][0] for place in around)
        kept = max(around, key=lambda place: (value[place][0] >= _DETAIL * most, *value[place][1:], -place))
        near = {other for place in linked[kept] for other in linked[place] | {place}} & left - {kept}
        group = {kept: 1.0} | _alike(kept, sorted(near), known, small, threshold)
        left -= set(group)
        if len(group) > 1:
            first, *others = sorted(group.items(), key=lambda item: (item[0] != kept, -item[1], item[0]))
            groups.append([first, *others])
    return sorted(groups, key=lambda group: (-len(group), group[0][0]))


def connected(start: int, linked: dict[int, set[int]], left: set[int]) -> set[int]:
    """What can be reached from an image over links between those that are left."""
    found, waiting = {start}, [start]
    while waiting:
        new = (linked[waiting.pop()] & left) - found
        found |= new
        waiting += new
    return found


def _alike(
    kept: int, others: list[int], known: dict[tuple[int, int], float], small: NDArray[np.uint8], threshold: float
) -> dict[int, float]:
    """Which of the others are copies of an image, and how alike they are."""
    score = {other: known.get((min(kept, other), max(kept, other)), -1.0) for other in others}
    if unknown := [other for other in others if score[other] < 0]:
        few = small[[kept, *unknown]]
        pairs = np.stack([np.zeros(len(unknown), dtype=np.int64), np.arange(1, len(few))], axis=1)
        score |= zip(unknown, likeness(few, pairs, coarse_likeness(few, pairs)[1]).tolist(), strict=True)
    return {other: one for other, one in score.items() if one >= threshold}
