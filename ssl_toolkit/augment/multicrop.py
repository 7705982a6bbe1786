"""Recipes of multi-crop: a few large views of an image and many small ones, the large ones first; see `recipes`."""

from __future__ import annotations

from typing import Any

from ssl_toolkit.augment.recipes import Hue, Interpolation, Range, Strength, one_view
from ssl_toolkit.augment.views import Views
from ssl_toolkit.errors import UsageError


def multicrop_views(
    size: int = 224,
    *,
    channels: int = 3,
    local_size: int | None = None,
    global_count: int = 2,
    local_count: int = 8,
    global_scale: Range = (0.4, 1.0),
    local_scale: Range = (0.05, 0.4),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    global_blur_p: Range = (1.0, 0.1),
    local_blur_p: float = 0.5,
    blur_sigma: Range = (0.1, 2.0),
    solarize_p: float = 0.2,
    interpolation: Interpolation = "bicubic",
    hue: Hue = "exact",
) -> Views:
    """DINO's multi-crop: a few large views and many small ones of the same decoded image, the large ones first.

    Args:
        size: Height and width of a global view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        local_size: Height and width of a local view, pixels; if not given, about 3/7 of `size` (96 for 224).
        global_count: Number of global views.
        local_count: Number of local views.
        global_scale: Least and largest share of the image's area in a global crop.
        local_scale: Least and largest share of the image's area in a local crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        global_blur_p: Probability of the Gaussian blur in the first and in every other global view.
        local_blur_p: Probability of the Gaussian blur in a local view.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        solarize_p: Probability of solarisation in every global view but the first.
        interpolation: How crops are resized; both are antialiased.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Views of images (N, C, H, W), float32 in [0, 1]: `global_count` of (N, C, size, size), then `local_count` of
        (N, C, local_size, local_size).

    Source: Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers, section 3.1;
        ``main_dino.py``, ``DataAugmentationDINO``. The idea: Caron et al. 2020 (SwAV), section 3.3.

    Examples:
        >>> import torch
        >>> images = torch.randint(256, (4, 3, 40, 48), dtype=torch.uint8)
        >>> [view.shape[-1] for view in multicrop_views(32, local_size=16, local_count=3)(images)]
        [32, 32, 16, 16, 16]
    """
    _check_counts(global_count, local_count)
    shared: dict[str, Any] = {
        "channels": channels, "flip_p": flip_p, "jitter": jitter, "jitter_p": jitter_p, "grey_p": grey_p,
        "blur_sigma": blur_sigma, "interpolation": interpolation, "hue": hue,
    }  # fmt: skip
    large = [
        one_view(
            size, crop_scale=global_scale, blur_p=global_blur_p[min(n, 1)], solarize_p=solarize_p if n else 0.0,
            **shared,
        )
        for n in range(global_count)
    ]  # fmt: skip
    small = [
        one_view(local_size or _local_size(size), crop_scale=local_scale, blur_p=local_blur_p, **shared)
        for _ in range(local_count)
    ]
    return Views(large + small)


def swav_views(
    size: int = 224,
    *,
    channels: int = 3,
    local_size: int | None = None,
    global_count: int = 2,
    local_count: int = 6,
    global_scale: Range = (0.14, 1.0),
    local_scale: Range = (0.05, 0.14),
    flip_p: float = 0.5,
    jitter: Strength = (0.8, 0.8, 0.8, 0.2),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: float = 0.5,
    blur_sigma: Range = (0.1, 2.0),
    hue: Hue = "exact",
) -> Views:
    """SwAV's multi-crop: SimCLR's colours, the same for global and local views.

    Args:
        size: Height and width of a global view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        local_size: Height and width of a local view, pixels; if not given, about 3/7 of `size` (96 for 224).
        global_count: Number of global views.
        local_count: Number of local views.
        global_scale: Least and largest share of the image's area in a global crop.
        local_scale: Least and largest share of the image's area in a local crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        blur_p: Probability of the Gaussian blur.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Views of images (N, C, H, W), float32 in [0, 1]: `global_count` of (N, C, size, size), then `local_count` of
        (N, C, local_size, local_size).

    Source: Caron et al. 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, section 3.3
        and appendix A; ``multicropdataset.py``.
    """
    given = dict(locals())
    del given["blur_p"]
    return multicrop_views(
        **given, global_blur_p=(blur_p, blur_p), local_blur_p=blur_p, solarize_p=0.0, interpolation="bilinear"
    )


def lejepa_views(
    size: int,
    *,
    channels: int = 3,
    local_size: int | None = None,
    global_count: int = 2,
    local_count: int = 6,
    global_scale: Range = (0.3, 1.0),
    local_scale: Range = (0.05, 0.3),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: float = 0.5,
    blur_sigma: Range = (0.1, 2.0),
    solarize_p: float = 0.2,
    hue: Hue = "exact",
) -> Views:
    """LeJEPA's views: a few large crops and many small ones, all changed alike, the large ones first.

    Args:
        size: Height and width of a global view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        local_size: Height and width of a local view, pixels; if not given, about 3/7 of `size` (96 for 224).
        global_count: Number of global views.
        local_count: Number of local views.
        global_scale: Least and largest share of the image's area in a global crop.
        local_scale: Least and largest share of the image's area in a local crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        blur_p: Probability of the Gaussian blur.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        solarize_p: Probability of solarisation.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Views of images (N, C, H, W), float32 in [0, 1]: `global_count` of (N, C, size, size), then `local_count` of
        (N, C, local_size, local_size).

    Source: Balestriero & LeCun 2025 (LeJEPA); the table in the authors' README.
    """
    _check_counts(global_count, local_count)
    shared: dict[str, Any] = {
        "channels": channels, "flip_p": flip_p, "jitter": jitter, "jitter_p": jitter_p, "grey_p": grey_p,
        "blur_p": blur_p, "blur_sigma": blur_sigma, "solarize_p": solarize_p, "hue": hue,
    }  # fmt: skip
    large = [one_view(size, crop_scale=global_scale, **shared) for _ in range(global_count)]
    small = [one_view(local_size or _local_size(size), crop_scale=local_scale, **shared) for _ in range(local_count)]
    return Views(large + small)


def _check_counts(global_count: int, local_count: int) -> None:
    """Refuse numbers of crops that cannot tell of each other."""
    if global_count < 2:
        raise UsageError(f"--views.global-count is {global_count}: it must be at least 2, for one to tell of another")
    if local_count < 0:
        raise UsageError(f"--views.local-count is {local_count}: it must be at least 0")


def _local_size(size: int) -> int:
    """Side of local crops: about 3/7 of the global ones', in whole patches of the usual ViTs."""
    patch = 16 if size >= 64 else 8
    return max(patch, round(size * 3 / 7 / patch) * patch)
