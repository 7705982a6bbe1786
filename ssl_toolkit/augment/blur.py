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
# Half the longest kernel that is applied tap by tap. Longer ones are products with matrices: on a CPU with a small one
# that slides over bands of one image, elsewhere with one of the whole axis.
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

    Examples:
        >>> import torch
        >>> edge = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
        >>> GaussianBlur(sigma=(1.0, 1.0), p=1.0, kernel=3)(edge)[0, 0, 0].round(decimals=2)
        tensor([0.0000, 0.2700, 0.7300, 1.0000])
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
        return (params["sigma"] * (params["batch_prob"] > 0.5),)

    def run(self, planes: Tensor, sigma: Tensor) -> Tensor:
        """Blur planes (C, n, h, w)."""
        height, width = planes.shape[2:]
        radius = min(self.radius(height, width), height - 1, width - 1)
        if radius <= _MOST_TAPS:
            only(sigma > 0, blur_taps_, planes, sigma, radius=radius)
        elif whole(planes):
            only(sigma > 0, blur_dense_, planes, sigma, radius=radius, neutral=False)
        else:
            for row in (sigma > 0).nonzero()[:, 0].tolist():
                blur_bands_(planes[:, row], float(sigma[row]), radius)
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
    centre, *sides = _weights(sigma, radius)[..., None, None].unbind(1)  # (n, 1, 1) each
    padded = F.pad(planes, (radius, radius, radius, radius), mode="reflect")
    rows = padded[..., radius : radius + width] * centre
    for step, weight in enumerate(sides, start=1):
        rows.addcmul_(padded[..., radius - step : radius - step + width], weight)
        rows.addcmul_(padded[..., radius + step : radius + step + width], weight)
    torch.mul(rows[:, :, radius : radius + height], centre, out=planes)
    for step, weight in enumerate(sides, start=1):
        planes.addcmul_(rows[:, :, radius - step : radius - step + height], weight)
        planes.addcmul_(rows[:, :, radius + step : radius + step + height], weight)


def _weights(sigma: Tensor, radius: int) -> Tensor:
    """The kernel's weights by distance from its centre, (N, radius + 1); both sides together sum to one."""
    distance = torch.arange(radius + 1, dtype=torch.float32, device=sigma.device)
    # The smallest sigma is far below where the neighbours' weight vanishes in float32.
    weight = torch.exp(-distance.square() / (2 * sigma[:, None].clamp(min=0.01).square()))
    return weight / (2 * weight.sum(-1, keepdim=True) - 1)


def blur_dense_(planes: Tensor, sigma: Tensor, radius: int) -> None:
    """Blur planes (C, n, h, w) in place, each image by its `sigma` (n,), as two products with matrices of whole axes.

    In half precision, whose 11 bits are a tenth of the step between two bytes.
    """
    height, width = planes.shape[2:]
    along_x = blur_matrix(sigma, radius, width).half()
    along_y = along_x if height == width else blur_matrix(sigma, radius, height).half()
    for plane in planes:
        plane.copy_(torch.bmm(torch.bmm(along_y, plane.half()), along_x.transpose(1, 2)))


def blur_matrix(sigma: Tensor, radius: int, size: int) -> Tensor:
    """The blur of one axis as a matrix, one a sample; pixels beyond an edge are its mirror image.

    Args:
        sigma: (n,) standard deviations, pixels; 0 leaves the image as it is.
        radius: Half the kernel, pixels; less than `size`.
        size: Pixels along the axis.

    Returns:
        (n, size, size): output pixel, input pixel; each row sums to one.
    """
    # By distance, and nothing beyond the kernel; the mirror images of an axis are up to twice its length away.
    weight = F.pad(_weights(sigma, radius), (0, 2 * size - radius - 1))
    pixel = torch.arange(size, device=sigma.device)
    near = (pixel + pixel[:, None]).where(pixel > 0, 2 * size - 1)
    far = (2 * (size - 1) - pixel - pixel[:, None]).where(pixel < size - 1, 2 * size - 1)
    return weight[:, (pixel - pixel[:, None]).abs()] + weight[:, near] + weight[:, far]


def blur_bands_(image: Tensor, sigma: float, radius: int) -> None:
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
    if not image.is_contiguous():
        image.copy_(output.view(image.shape))


def _starts(size: int, band: int) -> list[int]:
    """First pixels of bands that cover the axis; the last one may overlap its neighbour."""
    return [*range(0, size - band, band), size - band]
