"""Crop, resize and flip as one linear map along each axis.

Three ways to the same pixels, by what measured fastest:

- small images on the CPU and everything on an accelerator: a dense (out, in) matrix an axis and a sample, two batched
  matrix products for the whole batch;
- larger images on the CPU: PyTorch's antialiased resize of the crop itself, an image at a time; for uint8 it works in
  integers and equals torchvision bit for bit;
- nearest neighbour (masks): a gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_toolkit.augment.workspace import take

Mode = Literal["bilinear", "bicubic", "nearest"]

# The longer side, of input or output, up to which the dense products are the faster way on a CPU.
DENSE_SIDE = 48


class Boxes(NamedTuple):
    """What to cut from each image; (N,) tensors on the CPU, integers in float32 except `flip`."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor  # bool

    def pick(self, rows: Tensor | slice) -> Boxes:
        """The boxes of some of the images."""
        return Boxes(*(field[rows] for field in self))


def resample(
    image: Tensor, boxes: Boxes, size: tuple[int, int], mode: Mode, sources: Sequence[int] | None = None
) -> Tensor:
    """Cut `boxes` out of a batch, resize to `size`, flip.

    Args:
        image: uint8 or float (M, C, H, W).
        boxes: N boxes inside the images.
        size: Height and width of the output.
        mode: "bilinear" and "bicubic" are antialiased when they shrink, as in Pillow; "nearest" never mixes pixels.
        sources: Which image each box is cut from; None: the first from the first, and so on.

    Returns:
        Contiguous float32 planes (C, N, h, w): in [0, 1] for uint8 input, else in the scale of the input. On a CPU they
        are working memory, valid until the next call.
    """
    if mode != "nearest" and not is_dense(image, size):
        planes = _one_by_one(image, boxes, size, mode, range(len(image)) if sources is None else sources)
    else:
        if sources is not None:
            image = image.index_select(0, torch.tensor(sources).to(image.device, non_blocking=True))
        planes = _nearest(image, boxes, size) if mode == "nearest" else _dense(image, boxes, size, mode)
    # Pillow clips the overshoot of a bicubic kernel at the ends of uint8.
    return planes.clamp_(0, 1) if mode == "bicubic" else planes


def is_dense(image: Tensor, size: tuple[int, int]) -> bool:
    """Whether a batch is resampled whole, by matrix products, and not image by image."""
    return image.device.type != "cpu" or max(*image.shape[2:], *size) <= DENSE_SIDE


def axis_matrix(
    start: Tensor,
    length: Tensor,
    flip: Tensor | None,
    size_in: int,
    size_out: int,
    mode: Mode = "bilinear",
    out: Tensor | None = None,
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
        out: (N, size_out, size_in) memory for the result.

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
        return torch.sub(column, centre[:, :, None], out=out).abs_().clamp_(max=1).neg_().add_(1)
    narrow = scale.clamp(min=1).reciprocal()
    inside = (column > start) & (column < start + length)
    column = (column * narrow).where(inside, torch.inf)  # (N, in); too far away outside the box
    weight = torch.sub(column[:, None, :], (centre * narrow)[:, :, None], out=out).abs_()
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


def apply_axes(planes: Tensor, along_y: Tensor, along_x: Tensor, out: Tensor, clip: bool = False) -> Tensor:
    """``along_y @ plane @ along_x^T`` for each channel and image: two batched products a channel, and no copy.

    Args:
        planes: (C, n, H, W).
        along_y: (n, h, H).
        along_x: (n, w, W).
        out: (C, n, h, w); may be `planes` itself.
        clip: Clamp to [0, 255] between the products, as integer arithmetic does.
    """
    channels, count, height, _ = planes.shape
    narrow = take("narrow", (channels, count, height, along_x.shape[1]), planes.device)
    for plane, half, done in zip(planes, narrow, out, strict=True):
        torch.bmm(plane, along_x.transpose(1, 2), out=half)
        if clip:
            half.clamp_(0, 255)
        torch.bmm(along_y, half, out=done)
    return out


def _dense(image: Tensor, boxes: Boxes, size: tuple[int, int], mode: Mode) -> Tensor:
    count, channels, height, width = image.shape
    device = image.device
    top, left, box_height, box_width, flip = (field.to(device, non_blocking=True) for field in boxes)
    if (height, size[0]) == (width, size[1]):  # both axes in one go
        never = torch.zeros_like(flip)
        both = take("along", (2 * count, size[0], height), device)
        starts, lengths = torch.cat([top, left]), torch.cat([box_height, box_width])
        axis_matrix(starts, lengths, torch.cat([never, flip]), height, size[0], mode, out=both)
        along_y, along_x = both[:count], both[count:]
    else:
        along_y = axis_matrix(top, box_height, None, height, size[0], mode)
        along_x = axis_matrix(left, box_width, flip, width, size[1], mode)
    pixels = take("pixels", (channels, count, height, width), device).copy_(image.transpose(0, 1))
    planes = take("planes", (channels, count, *size), device)
    if image.is_floating_point():
        return apply_axes(pixels, along_y, along_x, planes)
    along_y = along_y.mul_(1 / 255)  # fewer numbers than the planes
    return apply_axes(pixels, along_y, along_x, planes, clip=mode == "bicubic")


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
    top, left, height, width, flip = (field.to(image.device, non_blocking=True) for field in boxes)
    row = torch.arange(size[0], device=image.device) + 0.5
    column = torch.arange(size[1], device=image.device) + 0.5
    away = torch.where(flip[:, None], size[1] - column, column)
    y = (top[:, None] + row * (height / size[0])[:, None]).long()  # (N, h)
    x = (left[:, None] + away * (width / size[1])[:, None]).long()  # (N, w)
    sample = torch.arange(len(image), device=image.device)
    picked = image[sample[:, None, None], :, y[:, :, None], x[:, None, :]]  # (N, h, w, C)
    planes = picked.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return planes if image.is_floating_point() else planes.mul_(1 / 255)
