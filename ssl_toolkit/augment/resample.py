"""Crop, resize and flip as one linear map along each axis.

Four ways to the same pixels, by what measured fastest:

- on an accelerator: the few taps of each output pixel are gathered, one axis after the other;
- small images on the CPU: a dense (out, in) matrix an axis and a sample, two batched matrix products;
- larger images on the CPU: PyTorch's antialiased resize of the crop itself, an image at a time; for uint8 it works in
  integers and equals torchvision bit for bit;
- nearest neighbour (masks): a gather of single pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_toolkit.augment.base import Params
from ssl_toolkit.augment.engine import whole
from ssl_toolkit.augment.workspace import take

Mode = Literal["bilinear", "bicubic", "nearest"]

# The longer side, of input or output, up to which the dense products are the faster way on a CPU.
DENSE_SIDE = 48


class Boxes(NamedTuple):
    """What to cut from each image; (N,) tensors, integers in float32 except `flip`."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor  # bool

    def pick(self, rows: Tensor | slice) -> Boxes:
        """The boxes of some of the images."""
        return Boxes(*(field[rows] for field in self))


def boxes_of(params: Params) -> Boxes:
    """Kornia's corner points and our flips as boxes."""
    src = params["src"].to(torch.float32)
    left, top = src[:, 0, 0], src[:, 0, 1]
    right, bottom = src[:, 2, 0], src[:, 2, 1]
    return Boxes(top, left, bottom - top + 1, right - left + 1, params["flip"] > 0.5)


def resample(image: Tensor, boxes: Boxes, size: tuple[int, int], mode: Mode, sources: Tensor | None = None) -> Tensor:
    """Cut `boxes` out of a batch, resize to `size`, flip.

    Args:
        image: uint8 or float (M, C, H, W).
        boxes: N boxes inside the images, on their device.
        size: Height and width of the output.
        mode: "bilinear" and "bicubic" are antialiased when they shrink, as in Pillow; "nearest" never mixes pixels.
        sources: (N,) which image each box is cut from; None: the first from the first, and so on.

    Returns:
        Float32 planes (C, N, h, w): in [0, 1] for uint8 input, else in the scale of the input. On a CPU they are
        working memory, valid until the next call.
    """
    one_by_one = mode != "nearest" and not whole(image) and max(*image.shape[2:], *size) > DENSE_SIDE
    if sources is not None and not one_by_one:
        image = image.index_select(0, sources)
    if one_by_one:
        planes = _one_by_one(image, boxes, size, mode, range(len(image)) if sources is None else sources.tolist())
    elif mode == "nearest":
        planes = _nearest(image, boxes, size)
    elif whole(image):
        planes = _gathered(image, boxes, size, mode)
    else:
        planes = _dense(image, boxes, size, mode)
    # Pillow clips the overshoot of a bicubic kernel at the ends of uint8.
    return planes.clamp_(0, 1) if mode == "bicubic" else planes


def axis_taps(
    start: Tensor, length: Tensor, flip: Tensor | None, size_in: int, size_out: int, mode: Mode
) -> tuple[Tensor, Tensor]:
    """The input pixels that an antialiased resize of one axis reads, and their weights.

    Arguments as those of `axis_matrix`, whose rows these are, without their zeros.

    Returns:
        Pixels, int64, and weights, both (N, size_out, T); a weight is 0 where a pixel lies outside the box.
    """
    reach = 1 if mode == "bilinear" else 2
    taps = min(size_in, math.ceil(2 * reach * max(1.0, size_in / size_out)))
    scale = (length / size_out)[:, None]  # (N, 1)
    row = torch.arange(size_out, dtype=torch.float32, device=start.device) + 0.5
    away = row if flip is None else torch.where(flip[:, None], size_out - row, row)
    centre = start[:, None] + away * scale  # (N, out)
    wide = scale.clamp(min=1)
    first = (centre - reach * wide - 0.5).ceil()
    pixel = first[:, :, None] + torch.arange(taps, dtype=torch.float32, device=start.device)  # (N, out, T)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    distance = ((pixel + 0.5 - centre[:, :, None]) / wide[:, :, None]).abs().clamp(max=reach)
    weight = (1 - distance if mode == "bilinear" else _cubic(distance)) * inside
    return pixel.clamp(0, size_in - 1).long(), weight / weight.sum(-1, keepdim=True)


def _gathered(image: Tensor, boxes: Boxes, size: tuple[int, int], mode: Mode) -> Tensor:
    count, channels, height, width = image.shape
    rows, along_y = axis_taps(boxes.top, boxes.height, None, height, size[0], mode)
    columns, along_x = axis_taps(boxes.left, boxes.width, boxes.flip, width, size[1], mode)
    rows = rows[:, None, :, None].expand(count, channels, size[0], width, rows.shape[2])
    narrow = _weighted(image, 2, rows, along_y[:, None, :, None] * (1.0 if image.is_floating_point() else 1 / 255))
    if mode == "bicubic" and not image.is_floating_point():
        narrow = narrow.clamp(0, 1)  # as integer arithmetic does
    columns = columns[:, None, None].expand(count, channels, *size, columns.shape[2])
    return _weighted(narrow, 3, columns, along_x[:, None, None]).transpose(0, 1)


def _weighted(image: Tensor, dim: int, index: Tensor, weight: Tensor) -> Tensor:
    """The sum over taps of gathered pixels, weighted."""
    first, *others = zip(index.unbind(-1), weight.unbind(-1), strict=True)
    total = image.gather(dim, first[0]) * first[1]
    for tap, its_weight in others:
        total = total + image.gather(dim, tap) * its_weight
    return total


def axis_matrix(
    start: Tensor,
    length: Tensor,
    flip: Tensor | None,
    size_in: int,
    size_out: int,
    mode: Mode = "bilinear",
) -> Tensor:
    """The linear map of an antialiased resize of one axis, one a sample.

    Row i holds the kernel centred at ``start + (i + 1/2) length / size_out`` (from the far end when flipped), as wide
    as the larger of an input and an output pixel, cut at the box's ends and normalised.

    Args:
        start: (N,) first input pixel of the box.
        length: (N,) length of the box, input pixels.
        flip: (N,) bool, or None for never.
        size_in: Input pixels along the axis.
        size_out: Output pixels along the axis.
        mode: "bilinear" (triangle) or "bicubic" (Keys' kernel with a = -1/2, as in Pillow).

    Returns:
        (N, size_out, size_in); each row sums to one.
    """
    column = torch.arange(size_in, dtype=torch.float32, device=start.device) + 0.5
    row = torch.arange(size_out, dtype=torch.float32, device=start.device) + 0.5
    start, length = start[:, None], length[:, None]
    scale = length / size_out  # (N, 1)
    away = row if flip is None else torch.where(flip[:, None], size_out - row, row)
    centre = start + away * scale  # (N, out)
    if size_in <= size_out and mode == "bilinear":
        # Never shrinks: two neighbours, or the last pixel alone, and their weights sum to one as they are.
        centre = torch.minimum(torch.maximum(centre, start + 0.5), start + length - 0.5)
        return torch.sub(column, centre[:, :, None]).abs_().clamp_(max=1).neg_().add_(1)
    narrow = scale.clamp(min=1).reciprocal()
    inside = (column > start) & (column < start + length)
    column = (column * narrow).where(inside, torch.inf)  # (N, in); too far away outside the box
    weight = torch.sub(column[:, None, :], (centre * narrow)[:, :, None]).abs_()
    if mode == "bilinear":
        weight.sub_(1).clamp_(max=0)  # the triangle upside down: normalising turns it
    else:
        weight = weight.copy_(_cubic(weight.clamp_(max=2)))
    return weight.div_(weight.sum(-1, keepdim=True))


def _cubic(distance: Tensor) -> Tensor:
    """Keys 1981 with a = -1/2, of distances from 0 to 2."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far)


def _dense(image: Tensor, boxes: Boxes, size: tuple[int, int], mode: Mode) -> Tensor:
    count, channels, height, width = image.shape
    along_y = axis_matrix(boxes.top, boxes.height, None, height, size[0], mode)
    along_x = axis_matrix(boxes.left, boxes.width, boxes.flip, width, size[1], mode).transpose(1, 2)
    if not image.is_floating_point():
        along_y = along_y.mul_(1 / 255)  # fewer numbers than the planes
    pixels = take("pixels", (channels, count, height, width), image.device).copy_(image.transpose(0, 1))
    narrow = take("narrow", (channels, count, height, size[1]), image.device)
    planes = take("planes", (channels, count, *size), image.device)
    for plane, half, done in zip(pixels, narrow, planes, strict=True):  # two products a channel, and no copy
        torch.bmm(plane, along_x, out=half)
        if mode == "bicubic" and not image.is_floating_point():
            half.clamp_(0, 255)  # as integer arithmetic does
        torch.bmm(along_y, half, out=done)
    return planes


def _one_by_one(image: Tensor, boxes: Boxes, size: tuple[int, int], mode: Mode, sources: Sequence[int]) -> Tensor:
    planes = take("planes", (image.shape[1], len(sources), *size), image.device)
    columns = zip(sources, *(field.tolist() for field in boxes), strict=True)
    for row, (source, top, left, height, width, flip) in enumerate(columns):
        y, x = int(top), int(left)
        crop = image[source : source + 1, :, y : y + int(height), x : x + int(width)]
        if crop.is_floating_point():
            crop = crop.to(torch.float32)
        view = F.interpolate(crop, size, mode=mode, antialias=True, align_corners=False)[0]
        planes[:, row] = view.flip(-1) if flip else view
    return planes if image.is_floating_point() else planes.mul_(1 / 255)


def _nearest(image: Tensor, boxes: Boxes, size: tuple[int, int]) -> Tensor:
    top, left, height, width, flip = boxes
    row = torch.arange(size[0], device=image.device) + 0.5
    column = torch.arange(size[1], device=image.device) + 0.5
    away = torch.where(flip[:, None], size[1] - column, column)
    y = (top[:, None] + row * (height / size[0])[:, None]).long()  # (N, h)
    x = (left[:, None] + away * (width / size[1])[:, None]).long()  # (N, w)
    sample = torch.arange(len(image), device=image.device)
    picked = image[sample[:, None, None], :, y[:, :, None], x[:, None, :]]  # (N, h, w, C)
    planes = picked.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return planes if image.is_floating_point() else planes.mul_(1 / 255)
