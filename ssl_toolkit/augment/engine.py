"""One description of a view, two executors.

An operation is a pure function of planes (C, n, h, w) and of per-image tensors. On an accelerator the whole batch goes
through it at once, every image through every stage, and a compiler makes a few passes of that. On a CPU the batch goes
in pieces that stay in the cache, and a stage works on those images alone that it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ssl_toolkit.augment.base import Params, memory_format, output_dtype, to_planes
from ssl_toolkit.augment.channels import Planes

# Small images go together, as many as make so many bytes of float32 planes: fewer calls, while what they work on stays
# in a last-level cache. An image above `ALONE_BYTES` goes alone, and stays in a second-level one.
PIECE_BYTES = 4 * 1024 * 1024
ALONE_BYTES = 384 * 1024


class Step(Protocol):
    """An operation on planes whose parameters were drawn before."""

    def sort_key(self, params: Params) -> Tensor | None:
        """Images with equal keys (N,) are cheapest side by side on a CPU; None when it makes no difference."""

    def plan(self, params: Params, channels: int) -> tuple[Tensor, ...]:
        """What `run` takes, each (N, ...)."""

    def run(self, planes: Tensor, *plan: Tensor) -> Tensor:
        """Apply to float32 planes (C, n, h, w) with the rows of the plan that are theirs; may change them in place."""


def whole(x: Planes) -> bool:
    """Whether a batch goes through as one piece, every image through every stage."""
    return torch.compiler.is_compiling() or isinstance(x, tuple) or x.device.type != "cpu"


def only(
    on: Tensor, stage: Callable[..., None], x: Planes, *rows: Tensor, neutral: bool = True, **options: Any
) -> None:
    """Let a stage change some of the images, in place.

    Args:
        on: (n,) bool, the images that the stage changes.
        stage: Takes planes, `rows` and `options`.
        x: Planes.
        rows: Per-image tensors (n, ...).
        neutral: Whether `rows` say of all other images that they stay as they are.
        options: The same for all images.
    """
    if whole(x):
        planes = x if isinstance(x, tuple) else (x,)
        before = () if neutral else tuple(plane.clone() for plane in planes)
        stage(x, *rows, **options)
        for now, then in zip(planes, before, strict=False):
            now.copy_(torch.where(on.view(-1, 1, 1), now, then))
        return
    assert isinstance(x, Tensor)  # planes apart are a compiler's
    if len(on) == 1:
        if on.item():
            stage(x, *rows, **options)
        return
    chosen = on.nonzero()[:, 0]
    if len(chosen) == len(on):
        stage(x, *rows, **options)
    elif len(chosen):
        first, last = int(chosen[0]), int(chosen[-1]) + 1
        if last - first == len(chosen):
            stage(x[:, first:last], *(row[first:last] for row in rows), **options)
        else:
            some = x.index_select(1, chosen)
            stage(some, *(row.index_select(0, chosen) for row in rows), **options)
            x.index_copy_(1, chosen, some)


def run_steps(
    image: Tensor,
    steps: Sequence[tuple[Step, Params]],
    crop: Callable[[Tensor | None], Tensor] | None = None,
    size: tuple[int, int] | None = None,
    clamp: bool = False,
) -> Tensor:
    """Apply steps to a batch.

    Args:
        image: uint8 or float (N, C, H, W).
        steps: Operations with their parameters, in order.
        crop: Gives the cropped planes (C, n, h, w) of the images (n,) int64 listed, or of all; None: the images
            themselves.
        size: Height and width of the crops; None without `crop`.
        clamp: Cut off what rounding leaves outside [0, 1].

    Returns:
        (N, C, h, w) in the dtype (float32 for uint8) and memory format of `image`.
    """
    count, channels = image.shape[:2]
    if whole(image):
        steps = [(step, {name: value.to(image.device) for name, value in params.items()}) for step, params in steps]
    plans = [step.plan(params, channels) for step, params in steps]
    if whole(image):
        planes = to_planes(image) if crop is None else crop(None)
        for (step, _), plan in zip(steps, plans, strict=True):
            planes = step.run(planes, *plan)
        planes = planes.clamp(0, 1) if clamp else planes
        return planes.transpose(0, 1).to(output_dtype(image)).contiguous(memory_format=memory_format(image))
    height, width = size or (image.shape[2], image.shape[3])
    piece = _piece(4 * channels * height * width)
    order = torch.arange(count) if piece == 1 else _order(steps, count)
    shape = (count, channels, height, width)
    output = torch.empty(shape, dtype=output_dtype(image), memory_format=memory_format(image))
    for first in range(0, count, piece):
        sources = order[first : first + piece]
        rows = sources if piece > 1 else slice(first, first + 1)
        planes = to_planes(image[rows]) if crop is None else crop(sources)
        for (step, _), plan in zip(steps, plans, strict=True):
            planes = step.run(planes, *(part[rows] for part in plan))
        made = (planes.clamp_(0, 1) if clamp else planes).transpose(0, 1)
        if piece > 1:
            output.index_copy_(0, sources, made.to(output.dtype))
        else:
            output[rows] = made
    return output


def _piece(image_bytes: int) -> int:
    """How many images go through the steps together."""
    return 1 if image_bytes > ALONE_BYTES else max(1, PIECE_BYTES // max(1, image_bytes))


def _order(steps: Sequence[tuple[Step, Params]], count: int) -> Tensor:
    """The images' order in which those alike are neighbours."""
    for step, params in steps:
        if (key := step.sort_key(params)) is not None:
            return key.argsort(stable=True)
    return torch.arange(count)
