"""Random resized crop and horizontal flip in one operation."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from kornia.augmentation import GeometricAugmentationBase2D
from kornia.augmentation import random_generator as rg
from kornia.constants import Resample
from kornia.geometry.transform import warp_affine
from torch import Generator, Tensor

from ssl_toolkit.augment.base import (
    DeviceAugmentation,
    Draws,
    Flags,
    Params,
    RangeGuard,
    between,
    first_that_fits,
    like,
    output_dtype,
)
from ssl_toolkit.augment.resample import Boxes, Mode, boxes_of, by_axis, resample
from ssl_toolkit.errors import UsageError

_TRIES = 10  # as torchvision


class CropDraws(Draws, rg.ResizedCropGenerator):
    """Crop boxes as torchvision draws them: area, then ratio, ten tries, else the centre.

    The names and the form of the parameters are those of Kornia's generator. The draws are torchvision's: inside each
    image's own valid box, with a fallback in the centre, from a generator that can be given.

    Args:
        size: Height and width of the output.
        scale: Least and largest share of the image's area.
        ratio: Least and largest width over height.
        flip_p: Probability of a horizontal flip.
    """

    def __init__(
        self, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], flip_p: float
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise UsageError(f"crop scale {scale}: two rising shares of the area, above 0, are needed")
        if not 0 < ratio[0] <= ratio[1]:
            raise UsageError(f"crop ratio {ratio}: two rising ratios of width to height, above 0, are needed")
        super().__init__(size, scale, ratio)
        self.flip_p = flip_p

    count = 2 * _TRIES + 3

    def from_uniforms(
        self, uniforms: Tensor, shape: tuple[int, ...], box: Tensor | None = None, **place: object
    ) -> Params:
        """N boxes, see `boxes`, as Kornia writes them.

        Returns:
            ``src`` and ``dst``, (N, 4, 2), the corners (x, y) of the box and of the output (inclusive, clockwise from
            the top left), ``flip``, (N,) bool, and ``output_size``, (N, 2).
        """
        boxes = self.boxes(uniforms, shape, box)
        output = torch.stack([torch.full_like(uniforms[0], side) for side in self.output_size])
        return {
            "src": _corners(boxes.start, boxes.length),
            "dst": _corners(torch.zeros_like(output), output),
            "flip": boxes.flip,
            # What follows in a Kornia container draws for this size.
            "output_size": output.t().long(),
        }

    def boxes(self, uniforms: Tensor, shape: tuple[int, ...], box: Tensor | None = None) -> Boxes:
        """N boxes.

        Args:
            uniforms: (count, N).
            shape: (N, C, H, W).
            box: (N, 2) heights and widths of the valid top left part of each image; None for all of it.
        """
        area, ratio, place, flip = torch.split(uniforms, [_TRIES, _TRIES, 2, 1])
        if box is None:
            full = by_axis(shape[-2], shape[-1], place.device).expand_as(place)
        else:
            full = box.to(uniforms.device, torch.float32, non_blocking=True).t()
        area = between(area, *self.scale) * full.prod(0)
        ratio = between(ratio, math.log(self.ratio[0]), math.log(self.ratio[1]))
        # A side is the root of the area, over or times the root of the ratio.
        share = (ratio[:, None] * by_axis(-0.5, 0.5, ratio.device)).exp()
        tries = (area.sqrt()[:, None] * share).round()  # (tries, 2, N)
        fits = ((tries > 0) & (tries <= full)).all(1, keepdim=True)
        length = first_that_fits(tries, fits, self._central(full))
        room = full - length
        start = torch.where(fits.any(0), place * (room + 1), room / 2).floor()
        return Boxes(start, length, flip[0] < self.flip_p)

    def _central(self, full: Tensor) -> Tensor:
        """Where no try fits: the whole image, cut to the nearest allowed ratio."""
        longest = full.flip(0) * by_axis(1 / self.ratio[0], self.ratio[1], full.device)
        return torch.minimum(full, longest.round()).clamp(min=1)


class ResizedCropFlip(DeviceAugmentation, GeometricAugmentationBase2D):
    """Random resized crop, antialiased as torchvision's, and random horizontal flip, in one resampling.

    Args:
        size: Height and width of the output, pixels.
        scale: Least and largest share of the image's area in the crop.
        ratio: Least and largest width over height of the crop.
        flip_p: Probability of the flip. The crop itself always happens: a batch has one size.
        resample: Interpolation: "bilinear" or "bicubic", both antialiased when they shrink; "nearest".
        same_on_batch: One draw for the whole batch.
        keepdim: Return the rank of the input.

    Masks are resampled to the nearest pixel; boxes and keypoints follow `transform_matrix`, which maps pixel centres.

    Source: Szegedy et al. 2015, Going Deeper with Convolutions, section 6 (the crop).

    Examples:
        >>> crop = ResizedCropFlip((32, 32), scale=(0.3, 1.0))
        >>> view = crop(torch.randint(256, (4, 3, 40, 48), dtype=torch.uint8))
        >>> view.shape, view.dtype
        (torch.Size([4, 3, 32, 32]), torch.float32)
    """

    _compute_matrix_lazily = False  # Kornia would hold the batch until the matrix is read

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_p: float = 0.5,
        resample: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=1.0, same_on_batch=same_on_batch, keepdim=keepdim)
        self._param_generator = CropDraws(size, scale, ratio, flip_p)
        self.flags = {"size": size, "resample": Resample.get(resample), "padding_mode": "zeros", "align_corners": True}
        self._guard = RangeGuard()

    def forward(
        self,
        input: Tensor,
        params: Params | None = None,
        generator: Generator | None = None,
        box: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Crop and flip a batch.

        Args:
            input: uint8, uint16 or float; (N, C, H, W), (C, H, W) or (H, W).
            params: Parameters of an earlier call, to repeat it.
            generator: CPU generator to draw from; the global one when None.
            box: (N, 2) heights and widths of the valid top left part of each image of a padded batch: crops are drawn
                inside it and no pixel beyond it is read.
            kwargs: Overrides of flags, as Kornia's containers pass them.

        Returns:
            (N, C, h, w); the input's dtype, float32 in [0, 1] for integers.
        """
        if params is None:
            params = self.forward_parameters(tuple(self.transform_tensor(input).shape), generator, box=box)
        return super().forward(input, params, generator, **kwargs)

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        """Crop, resize and flip (N, C, H, W) by `params`."""
        return like(self.planes(input, boxes_of(params).to(input.device), flags), input)

    def boxes(self, uniforms: Tensor, shape: tuple[int, ...], box: Tensor | None = None) -> Boxes:
        """The boxes that uniforms (draws, N) mean, on their device."""
        boxes: Boxes = self._param_generator.boxes(uniforms[1:], shape, box)
        return boxes

    def planes(self, image: Tensor, boxes: Boxes, flags: Flags | None = None, sources: Tensor | None = None) -> Tensor:
        """The crops as float32 planes (C, N, h, w); `sources` as in `resample`."""
        flags = self.flags if flags is None else flags
        mode: Mode = flags["resample"].name.lower()
        if mode == "bicubic" and not torch.compiler.is_compiling():
            self._guard(image, type(self).__name__)  # its overshoot is clipped at 0 and 1
        return resample(image, boxes, flags["size"], mode, sources)

    def compute_transformation(self, input: Tensor, params: Params, flags: Flags) -> Tensor:
        """(N, 3, 3): input to output pixel coordinates (x, y, 1), pixel centres at integers."""
        (top, left), (height, width), flip = boxes_of(params)
        out_height, out_width = flags["size"]
        zoom_x, zoom_y = out_width / width, out_height / height
        shift_x = (0.5 - left) * zoom_x - 0.5
        shift_y = (0.5 - top) * zoom_y - 0.5
        matrix = torch.zeros(len(zoom_x), 3, 3, device=zoom_x.device)
        matrix[:, 0, 0] = torch.where(flip, -zoom_x, zoom_x)
        matrix[:, 0, 2] = torch.where(flip, out_width - 1 - shift_x, shift_x)
        matrix[:, 1, 1], matrix[:, 1, 2] = zoom_y, shift_y
        matrix[:, 2, 2] = 1
        return matrix.to(input.device, output_dtype(input))

    def inverse_transform(
        self, input: Tensor, flags: Flags, transform: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Lay the crop back onto a canvas of `size`; zeros around it."""
        if transform is None or size is None:
            raise TypeError("the inverse needs the matrix and the size of the input")
        back: Tensor = warp_affine(
            input.to(output_dtype(input)),
            transform[:, :2],
            size,
            mode="nearest" if flags["resample"] == Resample.NEAREST else "bilinear",
            padding_mode=flags["padding_mode"],
            align_corners=True,  # pixel centres, as `transform` counts them
        )
        return back


def _corners(start: Tensor, length: Tensor) -> Tensor:
    """(N, 4, 2): inclusive corners (x, y), clockwise from the top left, of boxes (2, N), (2, N)."""
    (top, left), (bottom, right) = start, start + length - 1
    return torch.stack([left, top, right, top, right, bottom, left, bottom], dim=1).view(-1, 4, 2)
