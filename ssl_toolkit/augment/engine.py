"""Runs a crop and a row of intensity steps over a batch, in pieces that stay in the cache.

On a CPU an image (or a few small ones) goes through all steps before the next is touched: the intermediate planes
never leave the cache. On an accelerator the whole batch is one piece.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ssl_toolkit.augment.base import Params, memory_format, output_dtype, to_planes

# Small images go together, as many as make so many bytes of float32 planes: fewer calls, while what they work on stays
# in a last-level cache. An image above `ALONE_BYTES` goes alone, and stays in a second-level one.
PIECE_BYTES = 4 * 1024 * 1024
ALONE_BYTES = 384 * 1024


class Step(Protocol):
    """An operation on planes whose parameters were drawn before."""

    def sort_key(self, params: Params) -> list[int] | None:
        """Images with equal keys are cheapest side by side; None when it makes no difference."""

    def plan(self, params: Params, channels: int, device: torch.device) -> Any:
        """Everything that the whole batch needs, prepared once."""

    def run(self, planes: Tensor, plan: Any, first: int, last: int) -> Tensor:
        """Apply to float32 planes (C, n, h, w) of the images `first` to `last`; may change them in place."""


def run_steps(
    image: Tensor,
    steps: Sequence[tuple[Step, Params]],
    crop: Callable[[list[int]], Tensor] | None = None,
    size: tuple[int, int] | None = None,
    clamp: bool = False,
) -> Tensor:
    """Apply steps to a batch.

    Args:
        image: uint8 or float (N, C, H, W).
        steps: Operations with their parameters, in order.
        crop: Gives the cropped planes (C, n, h, w) of the images listed; None: the images themselves.
        size: Height and width of the crops; None without `crop`.
        clamp: Cut off what rounding leaves outside [0, 1].

    Returns:
        (N, C, h, w) in the dtype (float32 for uint8) and memory format of `image`.
    """
    count, channels = image.shape[:2]
    height, width = size or (image.shape[2], image.shape[3])
    order = _order(steps, count)
    taken = None if order is None else torch.tensor(order, dtype=torch.long)
    plans = [step.plan(_reordered(params, taken), channels, image.device) for step, params in steps]
    piece = _piece(count, 4 * channels * height * width, image.device)
    order = list(range(count)) if order is None else order
    output = torch.empty(
        (count, channels, height, width),
        dtype=output_dtype(image),
        device=image.device,
        memory_format=memory_format(image),
    )
    for first in range(0, count, piece):
        last = min(first + piece, count)
        sources = order[first:last]
        planes = _whole(image, sources, taken is None) if crop is None else crop(sources)
        for (step, _), plan in zip(steps, plans, strict=True):
            planes = step.run(planes, plan, first, last)
        if clamp:
            planes.clamp_(0, 1)
        if taken is None:
            output[first:last] = planes.transpose(0, 1)
        elif last - first == count:
            back = taken.argsort().to(image.device, non_blocking=True)
            torch.index_select(planes.transpose(0, 1).to(output.dtype), 0, back, out=output)
        elif last - first == 1:
            output[sources[0]] = planes[:, 0]
        else:
            index = taken[first:last].to(image.device, non_blocking=True)
            output.index_copy_(0, index, planes.transpose(0, 1).to(output.dtype))
    return output


def _piece(count: int, image_bytes: int, device: torch.device) -> int:
    """How many images go through the steps together."""
    if device.type != "cpu":
        return max(1, count)
    return 1 if image_bytes > ALONE_BYTES else max(1, PIECE_BYTES // max(1, image_bytes))


def _order(steps: Sequence[tuple[Step, Params]], count: int) -> list[int] | None:
    """The images' order in which those alike are neighbours; None for their own."""
    for step, params in steps:
        key = step.sort_key(params)
        if key is not None and any(earlier > later for earlier, later in itertools.pairwise(key)):
            return sorted(range(count), key=key.__getitem__)
    return None


def _reordered(params: Params, taken: Tensor | None) -> Params:
    if taken is None:
        return params
    # Beside the drawn tensors a Kornia container leaves its own keywords here.
    return {
        name: value[taken] if isinstance(value, Tensor) and name != "forward_input_shape" else value
        for name, value in params.items()
    }


def _whole(image: Tensor, sources: list[int], in_order: bool) -> Tensor:
    if in_order or len(sources) == 1:
        return to_planes(image[sources[0] : sources[-1] + 1])
    return to_planes(image.index_select(0, torch.tensor(sources).to(image.device, non_blocking=True)))
