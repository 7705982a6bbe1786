"""Features, extracted once: every probe, vote, index and plot reads what is written here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_toolkit.augment.base import in_unit_range
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.loader import readers_watched
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.features.growing import Growing
from ssl_toolkit.progress import progress_bar
from ssl_toolkit.randomness import numpy_generator

Encode: TypeAlias = Callable[[Tensor], Tensor]
"""What is evaluated: images in [0, 1], (N, C, H, W) float32, to features (N, D)."""


class NoFeaturesError(ToolkitError):
    """None of the images of a data set could be read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The features of one data set. A row is missing where an image could not be read; `index` says which are there.

    Attributes:
        x: (N, D) float32, finite; memory-mapped when it comes from a folder.
        label: (N,) int64, -1 where there is no label.
        index: (N,) int64, position of each image in its data set.
        paths: N names of images, or None when they were not asked for.
    """

    x: NDArray[np.float32]
    label: NDArray[np.int64]
    index: NDArray[np.int64]
    paths: list[str] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def select(self, rows: NDArray[np.int64]) -> Features:
        """The rows at the given positions, copied into memory."""
        paths = None if self.paths is None else [self.paths[row] for row in rows]
        return Features(self.x[rows], self.label[rows], self.index[rows], paths)


@readers_watched()
def extract(
    encode: Encode,
    loader: Iterable[Batch],
    out: str | os.PathLike[str] | Growing | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
    *,
    view: Encode | None = None,
    paths: Callable[[int], str] | None = None,
) -> Features:
    """Run an encoder over a data set once, in float32 and without gradients.

    Args:
        encode: Images in [0, 1], (N, C, H, W) float32, to features (N, D). A module, or a method of one, is in eval
            mode meanwhile and each of its submodules back in its own mode afterwards. It has to be on `device`.
        loader: Gives batches of images; where it has a `total`, the progress bar counts up to it.
        out: Folder for ``features.npy``, ``labels.npy``, ``index.npy`` and, with `paths`, ``paths.jsonl``. The
            features pass through memory batch by batch and come back memory-mapped. What the folder held before stays
            as it was until the last image is encoded. Or a `Growing`, which is filled behind what it holds, and not
            finished. None: everything stays in memory.
        device: Where images are encoded.
        progress: Show a progress bar on stderr.
        view: Images (N, C, H, W) to float in [0, 1] (N, C, h, w), such as `ssl_toolkit.augment.eval_view(size)`. None
            scales their integers and does no more.
        paths: Name of the image at a position of the loader, such as `ImageSet.path`.

    Raises:
        NoFeaturesError: There is no image that can be read.
        ToolkitError: Features are not finite or not (N, D).

    Examples:
        >>> from ssl_toolkit.data import ImageLoader, open_images
        >>> loader = ImageLoader(open_images("shapes:test:20"), size=32)
        >>> features = extract(lambda image: image.mean((2, 3)), loader)
        >>> features.x.shape, features.label.shape
        ((20, 3), (20,))
    """
    if out is not None and not isinstance(out, Growing):
        with Growing(Path(out)) as growing:
            growing.finish(extract(encode, loader, growing, device, progress, view=view, paths=paths).paths)
        return load_features(out)
    device = torch.device(device)
    blocks: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]] = []
    total, done = getattr(loader, "total", None), 0 if out is None else out.end
    with evaluating(encode), progress_bar(total, "encoding", "image", progress, done) as bar:
        for batch in loader:
            x = _encode(encode, view or in_unit_range, batch, device, paths)
            block = (x, batch.label.numpy(), batch.index.numpy())
            blocks.append(block) if out is None else out.append(*block)
            bar.update(len(batch.index))
    try:
        x, label, index = map(np.concatenate, zip(*blocks, strict=True)) if out is None else out.features()
    except ValueError as error:
        raise NoFeaturesError("no image could be read, so there are no features") from error
    first = 0 if out is None else out.first
    return Features(x, label, index, None if paths is None else [paths(int(place) - first) for place in index])


def load_features(folder: str | os.PathLike[str]) -> Features:
    """The features that `extract` wrote to a folder, memory-mapped.

    Raises:
        UsageError: There are no features in the folder.
        ToolkitError: A file is damaged or they do not belong together.
    """
    folder = Path(folder)
    if not (folder / "features.npy").is_file():
        raise UsageError(f"{folder} holds no features (no features.npy): write them with `ssl-toolkit embed`")
    try:
        x = np.load(folder / "features.npy", mmap_mode="r")
        label, index = np.load(folder / "labels.npy"), np.load(folder / "index.npy")
        names = folder / "paths.jsonl"
        paths = [json.loads(line) for line in names.read_text().splitlines()] if names.exists() else None
    except (OSError, ValueError, EOFError) as error:
        raise ToolkitError(f"the features in {folder} are damaged ({error}): write them again") from error
    lengths = {len(part) for part in (x, label, index, paths) if part is not None}
    if x.ndim != 2 or x.dtype != np.float32 or len(lengths) != 1:
        raise ToolkitError(
            f"the features in {folder} are damaged ({x.dtype} {x.shape}, rows {sorted(lengths)}): write them again"
        )
    return Features(x, label, index, paths)


@contextlib.contextmanager
def evaluating(encode: Encode) -> Iterator[None]:
    """Put the module behind `encode`, if there is one, into eval mode, then each submodule back into its own mode."""
    module = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    if not isinstance(module, nn.Module):
        yield
        return
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


def stratified_split(
    label: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to fit on and positions to choose on: the same share of every class, drawn from `seed`.

    Every class keeps at least one image to fit on, and gives at least one to choose on if it has two.

    Args:
        label: (N,) int64.
        fraction: Share to choose on, in (0, 1).
        seed: Equal seeds give equal splits.

    Raises:
        UsageError: No class has two images, so nothing can be chosen.

    Examples:
        >>> fit, choose = stratified_split(np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]), fraction=0.2, seed=0)
        >>> len(fit), len(choose)
        (8, 2)
    """
    generator = numpy_generator(seed, "split")
    held = []
    for one in np.unique(label):
        rows = generator.permutation(np.flatnonzero(label == one))
        held.append(rows[: min(max(round(fraction * len(rows)), 1), len(rows) - 1)])
    chosen = np.sort(np.concatenate(held))
    if not len(chosen):
        raise UsageError("no class has two labelled images, so there is no part of the training set to choose on")
    return np.setdiff1d(np.arange(len(label)), chosen), chosen


def check_labelled(train: Features, test: Features) -> None:
    """Raise `UsageError` unless every image has a label, every test class can be learnt, and the widths agree."""
    for name, part in (("training", train), ("test", test)):
        if missing := int((part.label < 0).sum()):
            raise UsageError(f"{missing} of {len(part)} images of the {name} set have no label: scores need them all")
        if not len(part):
            raise UsageError(f"the {name} set is empty")
    if len(unknown := np.setdiff1d(test.label, train.label)):
        listed = ", ".join(map(str, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise UsageError(f"{len(unknown)} classes are in the test set but not in the training set: labels {listed}")
    if train.x.shape[1] != test.x.shape[1]:
        raise UsageError(f"training features have {train.x.shape[1]} columns, test features {test.x.shape[1]}")


def _encode(
    encode: Encode, view: Encode, batch: Batch, device: torch.device, paths: Callable[[int], str] | None
) -> NDArray[np.float32]:
    """The features of one batch, (N, D), checked."""
    # no_grad and not inference_mode: a module may keep a tensor that it makes here (position tables), and autograd
    # refuses inference tensors when training goes on.
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        x = encode(view(batch.image.to(device, non_blocking=True)))
    if x.ndim != 2 or len(x) != len(batch.index):
        raise ToolkitError(f"{len(batch.index)} images gave features of shape {tuple(x.shape)}, expected (N, D)")
    block: NDArray[np.float32] = x.float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad):
        first = int(batch.index[int(bad[0])])
        name = f"position {first}" if paths is None else paths(first)
        raise ToolkitError(
            f"{len(bad)} of {len(block)} images in a batch have features that are not finite, first {name}: "
            "the encoder has diverged, or its input is far from what it was trained on"
        )
    return block
