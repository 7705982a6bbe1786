"""Gaussian blur, one standard deviation an image."""

from __future__ import annotations

import math

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor
from torch.nn import functional as F

from ssl_toolkit.augment.base import DeviceAugmentation, Draws, Flags, Params, between
from ssl_toolkit.augment.engine import only, run_steps, whole
from ssl_toolkit.augment.workspace import take
from ssl_toolkit.errors import UsageError

# Beyond so many standard deviations a kernel's weights sum to less than 1e-5.
_CUT = 4.5
# Half the longest kernel that is applied tap by tap, unless a compiler makes one pass of the taps; longer ones are
# small matrices that slide over bands.
_MOST_TAPS = 4
_BAND = 32


class SigmaDraws(Draws):
    """Standard deviations, uniform within a range, pixels."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        super().__init__()
        self.sigma = sigma

    def __repr__(self) -> str:
        return f"sigma={self.sigma}"

    count = 1

    def from_uniforms(self, uniforms: Tensor, shape: tuple[int, ...], **place: object) -> Params:
        """``sigma``, (N,)."""
        return {"sigma": between(uniforms[0], *self.sigma)}


class GaussianBlur(DeviceAugmentation, IntensityAugmentationBase2D):
    """Gaussian blur with its own standard deviation for each image; edges are reflected.

    `sigma` is the standard deviation of the Gaussian in pixels of the image at hand, as in torchvision. (Pillow's
    ``GaussianBlur(radius)``, which the code of MoCo, SwAV and DINO calls, means the same number; it approximates the
    Gaussian by box filters, and cuts it off nowhere, where this one ends with its kernel.)

    Args:
        sigma: Least and largest standard deviation, pixels.
        p: Probability.
        kernel: Length of the kernel, pixels, odd. None: a tenth of the longer side, made odd, at least 3 (SimCLR). A
            kernel longer than the image is cut to it.
        same_on_batch: One draw for the whole batch.
        keepdim: Return the rank of the input.

    Source: Chen et al. 2020, A Simple Framework for Contrastive Learning, appendix A.
    """

    _compute_matrix_lazily = False

    def __init__(
        self,
        sigma: tuple[float, float] = (0.1, 2.0),
        p: float = 0.5,
        kernel: int | None = None,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        if not 0 < sigma[0] <= sigma[1]:
            raise UsageError(f"blur sigma {sigma}: two rising standard deviations above 0 are needed")
        if kernel is not None and (kernel < 1 or kernel % 2 == 0):
            raise UsageError(f"blur kernel {kernel}: an odd number of pixels is needed")
        self._param_generator = SigmaDraws(sigma)
        self.kernel = kernel

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        """Blur (N, C, H, W) by `params`."""
        return run_steps(input, [(self, params)])

    def sort_key(self, params: Params) -> Tensor | None:
        """The order makes no difference."""
        return None

    def plan(self, params: Params, channels: int) -> tuple[Tensor, ...]:
        """Standard deviations (N,), 0 where nothing is blurred."""
        return (torch.where(params["batch_prob"] > 0.5, params["sigma"], torch.zeros_like(params["sigma"])),)

    def run(self, planes: Tensor, sigma: Tensor) -> Tensor:
        """Blur planes (C, n, h, w)."""
        height, width = planes.shape[2:]
        radius = min(self.radius(height, width), height - 1, width - 1)
        tap_by_tap = torch.compiler.is_compiling() or radius <= _MOST_TAPS
        only(sigma > 0, blur_taps_ if tap_by_tap else blur_bands_, planes, sigma, radius=radius)
        return planes

    def radius(self, height: int, width: int) -> int:
        """Half the kernel, pixels."""
        kernel = max(3, max(height, width) // 10) if self.kernel is None else self.kernel
        return kernel // 2


def blur_taps_(planes: Tensor, sigma: Tensor, radius: int) -> None:
    """Blur planes (C, n, h, w) in place, each image by its `sigma` (n,): shifted copies, weighted and added.

    A `sigma` of 0 leaves an image as it is; pixels beyond an edge are its mirror image.
    """
    height, width = planes.shape[2:]
    weights = _weights(sigma, torch.arange(radius + 1, dtype=torch.float32, device=sigma.device))
    centre, *sides = (weights / (2 * weights.sum(-1, keepdim=True) - 1))[:, :, None, None].unbind(1)  # (n, 1, 1) each
    padded = F.pad(planes, (radius, radius, radius, radius), mode="reflect")
    rows = padded[..., radius : radius + width] * centre
    for step, weight in enumerate(sides, start=1):
        rows.addcmul_(padded[..., radius - step : radius - step + width], weight)
        rows.addcmul_(padded[..., radius + step : radius + step + width], weight)
    torch.mul(rows[:, :, radius : radius + height], centre, out=planes)
    for step, weight in enumerate(sides, start=1):
        planes.addcmul_(rows[:, :, radius - step : radius - step + height], weight)
        planes.addcmul_(rows[:, :, radius + step : radius + step + height], weight)


def _weights(sigma: Tensor, distance: Tensor) -> Tensor:
    """The Gaussian at distances, not normalised: (n,) and (...) -> (n, ...)."""
    # The smallest sigma is far below where the neighbours' weight vanishes in float32.
    scale = -0.5 / sigma.clamp(min=0.01).square()
    return torch.exp(distance.square() * scale.view(-1, *(1,) * distance.dim()))


def blur_bands_(planes: Tensor, sigma: Tensor, radius: int) -> None:
    """`blur_taps_` as matrix products: a small matrix slides over bands of rows, then of columns.

    On an accelerator one band is the whole axis.
    """
    channels, count, height, width = planes.shape
    band = max(height, width) if whole(planes) else _BAND
    if not whole(planes):
        radius = min(radius, math.ceil(_CUT * float(sigma.max())))
    padded = F.pad(planes, (radius, radius, radius, radius), mode="reflect")
    smooth = take("narrow", (channels, count, height, width + 2 * radius), planes.device)
    matrix = _band_matrix(sigma, radius, min(band, height))
    for start in _starts(height, matrix.shape[1]):
        smooth[:, :, start : start + matrix.shape[1]] = matrix @ padded[:, :, start : start + matrix.shape[2]]
    matrix = _band_matrix(sigma, radius, min(band, width)).transpose(1, 2)
    if count == 1:  # one product for the rows of all channels
        smooth, matrix = smooth.view(-1, width + 2 * radius), matrix[0]
    for start in _starts(width, matrix.shape[-1]):
        made = smooth[..., start : start + matrix.shape[-2]] @ matrix
        planes[..., start : start + matrix.shape[-1]] = made.view(channels, count, height, -1)


def _band_matrix(sigma: Tensor, radius: int, band: int) -> Tensor:
    """(n, band, band + 2 radius): each row holds the kernel around its own pixel."""
    distance = torch.arange(band + 2 * radius, dtype=torch.float32, device=sigma.device)
    distance = distance - torch.arange(band, dtype=torch.float32, device=sigma.device)[:, None] - radius
    weight = _weights(sigma, distance) * (distance.abs() <= radius)
    return weight / weight.sum(-1, keepdim=True)


def _starts(size: int, band: int) -> list[int]:
    """First pixels of bands that cover the axis; the last one may overlap its neighbour."""
    return [*range(0, size - band, band), size - band]
