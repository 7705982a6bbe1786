"""Random erasing and Cutout: a rectangle of each image is painted over."""

from __future__ import annotations

import math

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor

from ssl_toolkit.augment.base import DeviceAugmentation, Draws, Flags, Params, between, first_that_fits, output_dtype
from ssl_toolkit.augment.engine import run_steps
from ssl_toolkit.errors import UsageError

_TRIES = 10  # as torchvision


class EraseDraws(Draws):
    """Rectangles as torchvision's `RandomErasing` draws them: area, then ratio, ten tries, else none."""

    def __init__(self, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        super().__init__()
        self.scale, self.ratio = scale, ratio

    def __repr__(self) -> str:
        return f"scale={self.scale}, ratio={self.ratio}"

    count = 2 * _TRIES + 2

    def from_uniforms(self, uniforms: Tensor, shape: tuple[int, ...], **place: object) -> Params:
        """``top``, ``left``, ``bottom``, ``right``, (N,) float pixels; empty where no try fits."""
        full_height, full_width = shape[-2:]
        area = between(uniforms[:_TRIES], *self.scale) * (full_height * full_width)
        ratio = between(uniforms[_TRIES : 2 * _TRIES], math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        height, width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (height < full_height) & (width < full_width)
        none = torch.zeros_like(uniforms[0])
        height, width = first_that_fits(height, fits, none), first_that_fits(width, fits, none)
        top = (uniforms[-2] * (full_height - height + 1)).floor()
        left = (uniforms[-1] * (full_width - width + 1)).floor()
        return {"top": top, "left": left, "bottom": top + height, "right": left + width}


class CutoutDraws(Draws):
    """A square whose centre lies anywhere in the image; what sticks out is cut off."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def __repr__(self) -> str:
        return f"side={self.side}"

    count = 2

    def from_uniforms(self, uniforms: Tensor, shape: tuple[int, ...], **place: object) -> Params:
        """``top``, ``left``, ``bottom``, ``right``, (N,) float pixels, possibly outside the image."""
        top = (uniforms[0] * shape[-2]).floor() - self.side // 2
        left = (uniforms[1] * shape[-1]).floor() - self.side // 2
        return {"top": top, "left": left, "bottom": top + self.side, "right": left + self.side}


class _Erase(DeviceAugmentation, IntensityAugmentationBase2D):
    """Paints the drawn rectangles; masks lose the same rectangle."""

    _compute_matrix_lazily = False
    value: float

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        """Erase from (N, C, H, W) by `params`."""
        return run_steps(input, [(self, params)])

    def apply_transform_mask(
        self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None
    ) -> Tensor:
        """Erase from masks (N, C, H, W), with zeros."""
        painted = _inside(self.plan(params, 0)[0].to(input.device), input.shape[-2], input.shape[-1])
        return torch.where(painted[:, None], torch.zeros((), dtype=output_dtype(input), device=input.device), input)

    def sort_key(self, params: Params) -> Tensor | None:
        """The order makes no difference."""
        return None

    def plan(self, params: Params, channels: int) -> tuple[Tensor, ...]:
        """(N, 4): top, left, bottom, right; an empty rectangle where nothing is erased."""
        sides = torch.stack([params[name] for name in ("top", "left", "bottom", "right")], dim=1)
        return (sides * (params["batch_prob"][:, None] > 0.5),)

    def run(self, planes: Tensor, sides: Tensor) -> Tensor:
        """Paint the rectangles of the planes' images (C, n, h, w)."""
        return planes.masked_fill_(_inside(sides, planes.shape[2], planes.shape[3]), self.value)


class RandomErasing(_Erase):
    """Erase a random rectangle, as torchvision does.

    Args:
        scale: Least and largest share of the image's area.
        ratio: Least and largest height over width.
        value: What the rectangle is filled with.
        p: Probability.
        same_on_batch: One draw for the whole batch.
        keepdim: Return the rank of the input.

    Source: Zhong et al. 2020, Random Erasing Data Augmentation, algorithm 1.

    Examples:
        >>> erased = RandomErasing(scale=(0.25, 0.25), ratio=(1.0, 1.0), p=1.0)(torch.ones(2, 3, 8, 8))
        >>> (erased == 0).sum((2, 3))
        tensor([[16, 16, 16],
                [16, 16, 16]])
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float = 0.0,
        p: float = 0.5,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        if not (0 < scale[0] <= scale[1] and 0 < ratio[0] <= ratio[1]):
            raise UsageError(f"erasing scale {scale} and ratio {ratio}: rising pairs above 0 are needed")
        self._param_generator = EraseDraws(scale, ratio)
        self.value = value


class Cutout(_Erase):
    """Erase a square of fixed size around a random pixel.

    Args:
        side: Side of the square, pixels.
        value: What the square is filled with.
        p: Probability.
        same_on_batch: One draw for the whole batch.
        keepdim: Return the rank of the input.

    Source: DeVries and Taylor 2017, Improved Regularization of CNNs with Cutout, section 3.2.

    Examples:
        >>> Cutout(side=4)(torch.ones(2, 3, 8, 8)).amin((1, 2, 3))
        tensor([0., 0.])
    """

    def __init__(
        self, side: int, value: float = 0.0, p: float = 1.0, same_on_batch: bool = False, keepdim: bool = False
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        if side < 1:
            raise UsageError(f"cutout side {side}: at least one pixel is needed")
        self._param_generator = CutoutDraws(side)
        self.value = value


def _inside(sides: Tensor, height: int, width: int) -> Tensor:
    """(n, 4) rectangles -> (n, H, W) bool."""
    y = torch.arange(height, device=sides.device)
    x = torch.arange(width, device=sides.device)
    top, left, bottom, right = sides[:, :, None].unbind(1)  # (n, 1) each
    return ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
