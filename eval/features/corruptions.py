"""Images spoilt as cameras, weather and files spoil them: corruptions of ImageNet-C's kind, where the images are.

Twelve of its fifteen: glass blur moves pixels one by one, frost needs photographs of ice, and snow is much like fog.
Strengths are near those of its images of 224 px; lengths are in proportion to the side.

Source: Hendrycks & Dietterich 2019, Benchmarking Neural Network Robustness, section 3.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import filter2d, gaussian_blur2d, motion_blur
from PIL import Image
from torch import Generator, Tensor

from ssl_toolkit.randomness import derive_seed

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(image: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Spoil images.

    Args:
        image: (N, C, H, W) in [0, 1], of one channel or three.
        name: A key of `CORRUPTIONS`.
        severity: From 1 to 5.
        seed: Of what is drawn; another name or severity draws something else.

    Returns:
        (N, C, H, W) in [0, 1].
    """
    generator = Generator(image.device).manual_seed(derive_seed(seed, name, severity))
    return CORRUPTIONS[name](image, severity - 1, generator).clamp(0, 1)


def _scaled(image: Tensor, length: float) -> float:
    """A length in an image of 224 px, in the pixels of another."""
    return length * min(image.shape[-2:]) / 224


def _normal(image: Tensor, generator: Generator) -> Tensor:
    return torch.randn(image.shape, generator=generator, device=image.device)


def _gaussian_noise(image: Tensor, level: int, generator: Generator) -> Tensor:
    return image + (0.08, 0.12, 0.18, 0.26, 0.38)[level] * _normal(image, generator)


def _shot_noise(image: Tensor, level: int, generator: Generator) -> Tensor:
    photons = (60, 25, 12, 5, 3)[level]
    return torch.poisson(image * photons, generator) / photons


def _impulse_noise(image: Tensor, level: int, generator: Generator) -> Tensor:
    """Values that are black or white, each half of the share."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    drawn = torch.rand(image.shape, generator=generator, device=image.device)
    return image.masked_fill(drawn < share, 0.0).masked_fill(drawn < share / 2, 1.0)


def _defocus_blur(image: Tensor, level: int, generator: Generator) -> Tensor:
    """The mean over a disk, its rim weighted by how much of a pixel is in it."""
    radius = _scaled(image, (3, 4, 6, 8, 10)[level])
    reach = math.ceil(radius)
    place = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    disk = (radius + 0.5 - torch.hypot(place[:, None], place)).clamp(0, 1)
    blurred: Tensor = filter2d(image, (disk / disk.sum())[None], border_type="reflect")
    return blurred


def _motion_blur(image: Tensor, level: int, generator: Generator) -> Tensor:
    length = max(3, round(_scaled(image, (9, 13, 19, 27, 35)[level])) // 2 * 2 + 1)
    angle = 90 * torch.rand(len(image), generator=generator, device=image.device) - 45
    blurred: Tensor = motion_blur(image, length, angle, torch.zeros_like(angle), border_type="reflect")
    return blurred


def _zoom_blur(image: Tensor, level: int, generator: Generator) -> Tensor:
    """The mean of the image and of its centre, enlarged by more and more."""
    end, step = ((0.11, 0.01), (0.16, 0.01), (0.21, 0.02), (0.26, 0.02), (0.31, 0.03))[level]
    zooms = [1 + step * number for number in range(math.ceil(end / step))]
    return torch.stack([moved(image, zoom=zoom) for zoom in zooms]).mean(dim=0)


def _fog(image: Tensor, level: int, generator: Generator) -> Tensor:
    """Clouds of all sizes, the larger the stronger; the image gives way as much as it is covered."""
    cover, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    count, _, height, width = image.shape
    clouds = image.new_zeros(count, 1, height, width)
    for octave in range(1, math.ceil(math.log2(max(height, width))) + 1):
        grid = torch.rand(count, 1, 2**octave + 1, 2**octave + 1, generator=generator, device=image.device)
        clouds += F.interpolate(grid, (height, width), mode="bilinear", align_corners=True) / decay**octave
    low, high = clouds.amin(dim=(2, 3), keepdim=True), clouds.amax(dim=(2, 3), keepdim=True)
    brightest = image.amax(dim=(1, 2, 3), keepdim=True)
    return (image + cover * (clouds - low) / (high - low)) * brightest / (brightest + cover)


def _brightness(image: Tensor, level: int, generator: Generator) -> Tensor:
    """More of the V of HSV; hue and saturation stay."""
    value = image.amax(dim=1, keepdim=True)
    brighter = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clamp(max=1)
    return torch.where(value > 0, image * brighter / value.clamp(min=1e-6), brighter)


def _contrast(image: Tensor, level: int, generator: Generator) -> Tensor:
    mean = image.mean(dim=(2, 3), keepdim=True)
    return mean + (0.4, 0.3, 0.2, 0.1, 0.05)[level] * (image - mean)


def _elastic(image: Tensor, level: int, generator: Generator) -> Tensor:
    """Pulled about smoothly; a place moves by as much as is said, in the root mean square."""
    far, smooth = _scaled(image, (2, 3, 4, 5, 6.5)[level]), max(1.0, _scaled(image, 9))
    count, _, height, width = image.shape
    field = torch.randn(count, 2, height, width, generator=generator, device=image.device)
    size = 2 * min(math.ceil(2 * smooth), (min(height, width) - 1) // 2) + 1
    field = gaussian_blur2d(field, (size, size), (smooth, smooth))
    field = far * field / field.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    shift = field * 2 / field.new_tensor([width, height]).view(1, 2, 1, 1)  # of grid_sample's [-1, 1]
    grid = F.affine_grid(torch.eye(2, 3, device=image.device).expand(count, -1, -1), list(image.shape), False)
    return F.grid_sample(image, grid + shift.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)


def _pixelate(image: Tensor, level: int, generator: Generator) -> Tensor:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    small = [max(1, int(share * side)) for side in image.shape[-2:]]
    return F.interpolate(F.interpolate(image, small, mode="area"), image.shape[-2:], mode="nearest")


def _jpeg(image: Tensor, level: int, generator: Generator) -> Tensor:
    """Written as a JPEG each and read again, on the CPU: Kornia's codec takes ten times as long there."""
    pixels = (255 * image).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    read = []
    for each in pixels:
        file = io.BytesIO()
        Image.fromarray(each.squeeze(2) if each.shape[2] == 1 else each).save(
            file, "JPEG", quality=(25, 18, 15, 10, 7)[level]
        )
        read.append(np.asarray(Image.open(file)).reshape(each.shape))
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).to(image.device).float() / 255


def moved(image: Tensor, degrees: float = 0.0, zoom: float = 1.0, aside: float = 0.0) -> Tensor:
    """Images (N, C, H, W) turned about their centre, enlarged, and moved aside; mirrored beyond their edges.

    Args:
        image: The images.
        degrees: Counter-clockwise.
        zoom: Above 1 shows the centre only.
        aside: To the right, in widths.
    """
    if (degrees, zoom, aside) == (0, 1, 0):
        return image
    c, s = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    stretch = image.shape[-2] / image.shape[-1]
    matrix = image.new_tensor([[c, -s * stretch, -2 * aside], [s / stretch, c, 0]])
    grid = F.affine_grid(matrix.expand(len(image), -1, -1), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


CORRUPTIONS: dict[str, Callable[[Tensor, int, Generator], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""Images in [0, 1], how strong (0 to 4) and where what is drawn comes from, to images that may leave [0, 1]."""
