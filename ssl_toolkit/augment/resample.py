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
    """What to cut from each of N images; the first axis is y, x."""

    start: Tensor  # (2, N) first pixels, integers in float32
    length: Tensor  # (2, N) pixels, integers in float32
    flip: Tensor  # (N,) bool, left and right exchanged

    def pick(self, rows: Tensor | slice) -> Boxes:
        """The boxes of some of the images."""
        return Boxes(self.start[:, rows], self.length[:, rows], self.flip[rows])

    def to(self, device: torch.device) -> Boxes:
        """On another device."""
        return Boxes(*(field.to(device) for field in self))


def boxes_of(params: Params) -> Boxes:
    """Kornia's corner points and our flips as boxes."""
    first, last = (params["src"][:, corner].to(torch.float32).t().flip(0) for corner in (0, 2))
    return Boxes(first, last - first + 1, params["flip"] > 0.5)


def by_axis(y: float, x: float, device: torch.device) -> Tensor:
    """A number for each axis, (2, 1) float32, made on the device."""
    if y == x:
        return torch.full((2, 1), y, dtype=torch.float32, device=device)
    return torch.arange(2, dtype=torch.float32, device=device)[:, None] * (x - y) + y


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


def taps(boxes: Boxes, size_in: tuple[int, int], size: tuple[int, int], mode: Mode) -> tuple[Tensor, Tensor]:
    """The input pixels that an antialiased resize reads along each axis, and their weights.

    Args:
        boxes: N boxes.
        size_in: Height and width of the images.
        size: Height and width of the output.
        mode: "bilinear" or "bicubic".

    Returns:
        Pixels, int64, and weights, both (2, N, max(size), T): of either axis the rows of `axis_matrix` without their
        zeros; a weight is 0 where its pixel lies outside the box. The rows beyond the shorter side mean nothing.
    """
    reach = 1 if mode == "bilinear" else 2
    count = math.ceil(2 * reach * max(1.0, *(full / pixels for full, pixels in zip(size_in, size, strict=True))))
    scale = (boxes.length / by_axis(*size, boxes.length.device))[..., None]
    row = torch.arange(max(size), dtype=torch.float32, device=scale.device) + 0.5
    flip = torch.gt(boxes.flip, by_axis(1, 0, scale.device))[..., None]  # never along y
    centre = torch.addcmul((boxes.start - 0.5)[..., None], torch.where(flip, size[1] - row, row), scale)  # (2, N, out)
    wide = scale.clamp(min=1)
    first = torch.sub(centre, wide, alpha=reach).ceil()
    pixel = first[..., None] + torch.arange(count, dtype=torch.float32, device=scale.device)  # (2, N, out, T)
    last = boxes.start + boxes.length - 1
    inside = pixel.clamp(boxes.start[..., None, None], last[..., None, None])
    distance = ((pixel - centre[..., None]) / wide[..., None]).abs().clamp(max=reach)
    weight = (1 - distance if mode == "bilinear" else _cubic(distance)) * (inside == pixel)
    return inside.long(), weight / weight.sum(-1, keepdim=True)


def _gathered(image: Tensor, boxes: Boxes, size: tuple[int, int], mode: Mode) -> Tensor:
    channels, height, width = image.shape[1:]
    (along_y, along_x), (weight_y, weight_x) = taps(boxes, (height, width), size, mode)
    weight_y = weight_y if image.is_floating_point() else weight_y * (1 / 255)
    along_y = along_y[:, None, : size[0], None].expand(-1, channels, -1, width, -1)
    narrow = _weighted(image, 2, along_y, weight_y[:, None, : size[0], None])
    if mode == "bicubic" and not image.is_floating_point():
        narrow = narrow.clamp(0, 1)  # as integer arithmetic does
    along_x = along_x[:, None, None, : size[1]].expand(-1, channels, size[0], -1, -1)
    return _weighted(narrow, 3, along_x, weight_x[:, None, None, : size[1]]).transpose(0, 1)


def _weighted(image: Tensor, dim: int, index: Tensor, weight: Tensor) -> Tensor:
    """The sum over taps of gathered pixels, weighted."""
    first, *others = zip(index.unbind(-1), weight.unbind(-1), strict=True)
    total = image.gather(dim, first[0]) * first[1]
    for tap, its_weight in others:
        total = torch.addcmul(total, image.gather(dim, tap), its_weight)
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
    along_y = axis_matrix(boxes.start[0], boxes.length[0], None, height, size[0], mode)
    along_x = axis_matrix(boxes.start[1], boxes.length[1], boxes.flip, width, size[1], mode).transpose(1, 2)
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
    columns = zip(sources, *boxes.start.tolist(), *boxes.length.tolist(), boxes.flip.tolist(), strict=True)
    for row, (source, top, left, height, width, flip) in enumerate(columns):
        y, x = int(top), int(left)
        crop = image[source : source + 1, :, y : y + int(height), x : x + int(width)]
        if crop.is_floating_point():
            crop = crop.to(torch.float32)
        view = F.interpolate(crop, size, mode=mode, antialias=True, align_corners=False)[0]
        planes[:, row] = view.flip(-1) if flip else view
    return planes if image.is_floating_point() else planes.mul_(1 / 255)


def _nearest(image: Tensor, boxes: Boxes, size: tuple[int, int]) -> Tensor:
    (top, left), (height, width), flip = boxes
    row = torch.arange(size[0], device=image.device) + 0.5
    column = torch.arange(size[1], device=image.device) + 0.5
    away = torch.where(flip[:, None], size[1] - column, column)
    y = (top[:, None] + row * (height / size[0])[:, None]).long()  # (N, h)
    x = (left[:, None] + away * (width / size[1])[:, None]).long()  # (N, w)
    sample = torch.arange(len(image), device=image.device)
    picked = image[sample[:, None, None], :, y[:, :, None], x[:, None, :]]  # (N, h, w, C)
    planes = picked.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return planes if image.is_floating_point() else planes.mul_(1 / 255)
