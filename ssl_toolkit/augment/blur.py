"""Gaussian blur, one standard deviation an image."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Generator, Tensor
from torch.nn import functional as F

from ssl_toolkit.augment.base import DeviceAugmentation, Draws, Flags, Params, rows, uniform
from ssl_toolkit.augment.engine import run_steps
from ssl_toolkit.augment.resample import apply_axes
from ssl_toolkit.augment.workspace import take
from ssl_toolkit.errors import UsageError

# Beyond so many standard deviations a kernel's weights sum to less than 1e-5.
_CUT = 4.5
# Half the longest kernel that a CPU applies tap by tap; longer ones are small matrices that slide over bands.
_MOST_TAPS = 4
_BAND = 32


class SigmaDraws(Draws):
    """Standard deviations, uniform within a range, pixels."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        super().__init__()
        self.sigma = sigma

    def __repr__(self) -> str:
        return f"sigma={self.sigma}"

    def forward(
        self, batch_shape: tuple[int, ...], same_on_batch: bool = False, generator: Generator | None = None
    ) -> Params:
        """``sigma``, (N,)."""
        return {"sigma": uniform((batch_shape[0],), *self.sigma, same_on_batch, generator)}


@dataclass
class _Plan:
    blurred: list[int]
    sigma: list[float]
    sigma_or_none: Tensor  # on the device; 0 where nothing is blurred


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

    def sort_key(self, params: Params) -> list[int] | None:
        """The order makes no difference."""
        return None

    def plan(self, params: Params, channels: int, device: torch.device) -> _Plan:
        """Which images are blurred, and by how much."""
        sigma = params["sigma"]
        chosen = torch.where(params["batch_prob"] > 0.5, sigma, torch.zeros(()))
        return _Plan(rows(params["batch_prob"]), sigma.tolist(), chosen.to(device, non_blocking=True))

    def run(self, planes: Tensor, plan: _Plan, first: int, last: int) -> Tensor:
        """Blur those of the planes' images that were drawn, in place."""
        chosen = [row for row in plan.blurred if first <= row < last]
        if not chosen:
            return planes
        radius = self.radius(planes.shape[2], planes.shape[3])
        if planes.device.type != "cpu":  # picking and putting back costs as much as it saves
            return blur_dense(planes, plan.sigma_or_none[first:last], radius)
        if radius > _MOST_TAPS:
            for row in chosen:
                blur_bands(planes[:, row - first], plan.sigma[row], radius)
            return planes
        index = torch.tensor(chosen)
        sigma = plan.sigma_or_none.index_select(0, index)
        index -= first
        return planes.index_copy_(1, index, blur_taps(planes.index_select(1, index), sigma, radius))

    def radius(self, height: int, width: int) -> int:
        """Half the kernel, pixels."""
        kernel = max(3, max(height, width) // 10) if self.kernel is None else self.kernel
        return kernel // 2


def blur_matrix(sigma: Tensor, radius: int, size: int, axis: str = "x") -> Tensor:
    """The blur of one axis as a matrix, one a sample; pixels beyond an edge are its mirror image.

    Args:
        sigma: (N,) standard deviations, pixels; 0 leaves the image as it is.
        radius: Half the kernel, pixels; cut to `size` - 1.
        size: Pixels along the axis.
        axis: Name of the working memory for the result, which the next call of the same name overwrites.

    Returns:
        (N, size, size); each row sums to one.
    """
    radius = min(radius, size - 1)
    weight = _weights(sigma, radius)
    times = _times(radius, size, sigma.device)
    matrix = take(f"blur {axis}", (len(sigma), size * size), sigma.device)
    return torch.mm(weight, times, out=matrix).view(len(sigma), size, size)


def _weights(sigma: Tensor, radius: int) -> Tensor:
    """The kernel's weights by distance from its centre, (N, radius + 1); both sides together sum to one."""
    distance = torch.arange(radius + 1, dtype=torch.float32, device=sigma.device)
    # The smallest sigma is far below where the neighbours' weight vanishes in float32.
    weight = torch.exp(-distance.square() / (2 * sigma[:, None].clamp(min=0.01).square()))
    return weight / (2 * weight.sum(-1, keepdim=True) - 1)


@functools.lru_cache(maxsize=32)
def _times(radius: int, size: int, device: torch.device) -> Tensor:
    """How often an input pixel stands at each distance from an output pixel, itself and as a mirror image.

    Returns:
        (radius + 1, size * size) float32: distance; output pixel, input pixel.
    """
    pixel = torch.arange(size)
    ahead = (pixel - pixel[:, None]).abs()  # (out, in)
    near = (pixel + pixel[:, None]).where(pixel > 0, size)  # beyond the near edge
    far = (2 * (size - 1) - pixel - pixel[:, None]).where(pixel < size - 1, size)  # beyond the far edge
    distance = torch.stack([ahead, near, far])
    taps = torch.arange(radius + 1)[:, None, None, None]
    return (distance == taps).sum(dim=1).to(device, torch.float32).flatten(1)


def blur_dense(planes: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur planes (C, n, h, w) in place, each image by its `sigma` (n,), as two batched matrix products."""
    height, width = planes.shape[2:]
    along_x = blur_matrix(sigma, radius, width)
    along_y = along_x if height == width else blur_matrix(sigma, radius, height, "y")
    return apply_axes(planes, along_y, along_x, planes)


def blur_taps(planes: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur planes (C, n, h, w) in place, each image by its `sigma` (n,): shifted copies, weighted and added."""
    height, width = planes.shape[2:]
    radius = min(radius, height - 1, width - 1)
    centre, *sides = _weights(sigma, radius)[:, :, None, None].unbind(1)  # (n, 1, 1) each
    padded = F.pad(planes, (radius, radius, radius, radius), mode="reflect")
    rows = padded[..., radius : radius + width] * centre
    for step, weight in enumerate(sides, start=1):
        rows.addcmul_(padded[..., radius - step : radius - step + width], weight)
        rows.addcmul_(padded[..., radius + step : radius + step + width], weight)
    torch.mul(rows[:, :, radius : radius + height], centre, out=planes)
    for step, weight in enumerate(sides, start=1):
        planes.addcmul_(rows[:, :, radius - step : radius - step + height], weight)
        planes.addcmul_(rows[:, :, radius + step : radius + step + height], weight)
    return planes


def blur_bands(image: Tensor, sigma: float, radius: int) -> Tensor:
    """Blur one image (C, h, w) in place: a small dense matrix slides over bands of rows, then of columns."""
    channels, height, width = image.shape
    radius = min(radius, math.ceil(_CUT * sigma), height - 1, width - 1)
    tap = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weight = torch.exp(-tap.square() / (2 * sigma**2))
    band = min(_BAND, height, width)
    matrix = torch.zeros(band, band + 2 * radius)
    matrix.as_strided((band, len(tap)), (band + 2 * radius + 1, 1)).copy_(weight / weight.sum())
    padded = F.pad(image[None], (radius, radius, radius, radius), mode="reflect")[0]
    smooth = take("narrow", (channels, height, width + 2 * radius), image.device)
    for start in _starts(height, band):
        smooth[:, start : start + band] = torch.matmul(matrix, padded[:, start : start + band + 2 * radius])
    lines = smooth.view(channels * height, width + 2 * radius)
    output = image.view(channels * height, width) if image.is_contiguous() else take("lines", image.shape, image.device)
    for start in _starts(width, band):
        output.view(channels * height, width)[:, start : start + band] = (
            lines[:, start : start + band + 2 * radius] @ matrix.t()
        )
    return image if image.is_contiguous() else image.copy_(output.view(image.shape))


def _starts(size: int, band: int) -> list[int]:
    """First pixels of bands that cover the axis; the last one may overlap its neighbour."""
    return [*range(0, size - band, band), size - band]
