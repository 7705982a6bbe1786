"""The papers' augmentation recipes, as small functions that return `Views`.

Every number is an argument, with the paper's value as its default; all but the size are given by name. Sizes are in
pixels of the view; the blur's kernel follows them (a tenth, odd, at least 3).
"""

from __future__ import annotations

from typing import Any, Literal

from kornia.augmentation.auto import RandAugment
from torch import nn

from ssl_toolkit.augment.blur import GaussianBlur
from ssl_toolkit.augment.colour import ColourJitter, say_rgb_only
from ssl_toolkit.augment.crop import ResizedCropFlip
from ssl_toolkit.augment.erasing import RandomErasing
from ssl_toolkit.augment.solarize import Solarize
from ssl_toolkit.augment.views import EvalView, View, Views
from ssl_toolkit.errors import UsageError

Range = tuple[float, float]
Strength = tuple[float, float, float, float]
Interpolation = Literal["bilinear", "bicubic"]
Hue = Literal["exact", "linear"]


def simclr_views(
    size: int,
    *,
    channels: int = 3,
    crop_scale: Range = (0.08, 1.0),
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float = 0.5,
    jitter: Strength = (0.8, 0.8, 0.8, 0.2),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: float = 0.5,
    blur_sigma: Range = (0.1, 2.0),
    interpolation: Interpolation = "bilinear",
    hue: Hue = "exact",
    count: int = 2,
) -> Views:
    """SimCLR's views: crop, flip, strong colour jitter, greyscale, blur.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        crop_ratio: Least and largest width over height of a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        blur_p: Probability of the Gaussian blur.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        interpolation: How crops are resized; both are antialiased.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).
        count: Number of views.

    Returns:
        `count` views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1].

    Source: Chen et al. 2020, A Simple Framework for Contrastive Learning, appendix A.

    Examples:
        >>> import torch
        >>> images = torch.randint(256, (4, 3, 40, 48), dtype=torch.uint8)
        >>> [tuple(view.shape) for view in simclr_views(32, blur_p=0)(images)]
        [(4, 3, 32, 32), (4, 3, 32, 32)]
    """
    return _alike(**locals())


def cifar_views(
    size: int = 32,
    *,
    channels: int = 3,
    crop_scale: Range = (0.08, 1.0),
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.4, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    hue: Hue = "exact",
    count: int = 2,
) -> Views:
    """SimCLR's views for CIFAR-10: half the jitter, no blur.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        crop_ratio: Least and largest width over height of a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).
        count: Number of views.

    Returns:
        `count` views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1].

    Source: Chen et al. 2020, A Simple Framework for Contrastive Learning, appendix B.9.
    """
    return _alike(**locals())


def moco_v1_views(
    size: int = 224,
    *,
    channels: int = 3,
    crop_scale: Range = (0.2, 1.0),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.4, 0.4),
    jitter_p: float = 1.0,
    grey_p: float = 0.2,
    hue: Hue = "exact",
) -> Views:
    """MoCo v1's two views: crop, greyscale, colour jitter on every image, flip.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale, which comes before the jitter.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Two views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1].

    Source: He et al. 2020, Momentum Contrast, section 3.3; the authors' ``main_moco.py``.
    """
    return moco_v2_views(**locals(), blur_p=0.0, grey_first=True)


def moco_v2_views(
    size: int = 224,
    *,
    channels: int = 3,
    crop_scale: Range = (0.2, 1.0),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.4, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: float = 0.5,
    blur_sigma: Range = (0.1, 2.0),
    hue: Hue = "exact",
    grey_first: bool = False,
) -> Views:
    """MoCo v2's two views: SimCLR's with milder jitter and larger crops.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        blur_p: Probability of the Gaussian blur.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).
        grey_first: Whether greyscale comes before the jitter, as in MoCo v1.

    Returns:
        Two views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1].

    Source: Chen et al. 2020, Improved Baselines with Momentum Contrastive Learning, section 3; ``main_moco.py``.
    """
    return _alike(**locals(), count=2)


def ressl_views(
    size: int = 224,
    *,
    channels: int = 3,
    crop_scale: Range = (0.2, 1.0),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.4, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: float = 0.5,
    blur_sigma: Range = (0.1, 2.0),
    hue: Hue = "exact",
) -> Views:
    """ReSSL's two views: the first is MoCo v2's, the second is cropped and flipped and no more.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        blur_p: Probability of the Gaussian blur.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Two views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1].

    Source: Zheng et al. 2021, ReSSL, section 3.3.
    """
    options = locals()
    return Views([one_view(**options), one_view(size, channels=channels, crop_scale=crop_scale, flip_p=flip_p)])


def byol_views(
    size: int = 224,
    *,
    channels: int = 3,
    crop_scale: Range = (0.08, 1.0),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: Range = (1.0, 0.1),
    blur_sigma: Range = (0.1, 2.0),
    solarize_p: Range = (0.0, 0.2),
    interpolation: Interpolation = "bicubic",
    hue: Hue = "exact",
) -> Views:
    """BYOL's two views, which differ: the first is always blurred, the second rarely, and sometimes solarised.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        blur_p: Probability of the Gaussian blur in the first and in the second view.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        solarize_p: Probability of solarisation in the first and in the second view.
        interpolation: How crops are resized; both are antialiased.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Two views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1].

    Source: Grill et al. 2020, Bootstrap Your Own Latent, appendix B, table 6.
    """
    given = dict(locals())
    return Views([one_view(**given | {"blur_p": blur_p[n], "solarize_p": solarize_p[n]}) for n in range(2)])


def moco_v3_views(
    size: int = 224,
    *,
    channels: int = 3,
    crop_scale: Range = (0.08, 1.0),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: Range = (1.0, 0.1),
    blur_sigma: Range = (0.1, 2.0),
    solarize_p: Range = (0.0, 0.2),
    hue: Hue = "exact",
) -> Views:
    """MoCo v3's two views: BYOL's with bilinear crops.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        blur_p: Probability of the Gaussian blur in the first and in the second view.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        solarize_p: Probability of solarisation in the first and in the second view.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Two views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1].

    Source: Chen et al. 2021, An Empirical Study of Training Self-Supervised Vision Transformers, appendix A;
        ``main_moco.py``.
    """
    return byol_views(**locals(), interpolation="bilinear")


def pixpro_views(
    size: int = 224,
    *,
    channels: int = 3,
    crop_scale: Range = (0.08, 1.0),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.2,
    blur_p: Range = (1.0, 0.1),
    blur_sigma: Range = (0.1, 2.0),
    solarize_p: Range = (0.0, 0.2),
    interpolation: Interpolation = "bicubic",
    hue: Hue = "exact",
) -> Views:
    """PixPro's two views: BYOL's, followed by where they lie.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        blur_p: Probability of the Gaussian blur in the first and in the second view.
        blur_sigma: Least and largest standard deviation of the blur, pixels of the view.
        solarize_p: Probability of solarisation in the first and in the second view.
        interpolation: How crops are resized; both are antialiased.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Two views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1]; then where each lies,
        float32 (N, 4), see `View.place`.

    Source: Xie et al. 2021, Propagate Yourself, section 4.1; the authors' ``pixpro_base_r50_100ep.sh``.

    Examples:
        >>> import torch
        >>> images = torch.randint(256, (4, 3, 40, 48), dtype=torch.uint8)
        >>> [tuple(each.shape) for each in pixpro_views(32)(images)]
        [(4, 3, 32, 32), (4, 3, 32, 32), (4, 4), (4, 4)]
    """
    return Views([*byol_views(**locals()).transforms], places=True)


def cpc_views(
    size: int,
    *,
    channels: int = 3,
    crop_scale: Range = (0.3, 1.0),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.4, 0.1),
    jitter_p: float = 0.8,
    grey_p: float = 0.25,
    hue: Hue = "exact",
) -> Views:
    """CPC's one view: crop, flip, colour jitter, greyscale; the method cuts it into patches.

    Args:
        size: Height and width of the view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        crop_scale: Least and largest share of the image's area in a crop.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        One view of images (N, C, H, W), float32 (N, C, size, size) in [0, 1].

    Source: van den Oord et al. 2018, section 3.3; Hénaff et al. 2020 (CPC v2), section 4.1.
    """
    return _alike(**locals(), count=1)


def pretext_views(
    size: int,
    *,
    channels: int = 3,
    crop_scale: Range = (0.5, 1.0),
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float = 0.5,
    count: int = 1,
) -> Views:
    """Crop and flip only: for pretext tasks, whose labels colour changes would not serve.

    The recipe that the classical tasks share; their papers differ in the crop (Gidaris et al. 2018, section 3.1, flips
    and crops too).

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images.
        crop_scale: Least and largest share of the image's area in a crop.
        crop_ratio: Least and largest width over height of a crop.
        flip_p: Probability of a horizontal flip.
        count: Number of views.

    Returns:
        `count` views of images (N, C, H, W), each float32 (N, C, size, size) in [0, 1].
    """
    return _alike(**locals())


def clip_views(
    size: int, *, channels: int = 3, crop_scale: Range = (0.9, 1.0), crop_ratio: Range = (3 / 4, 4 / 3)
) -> Views:
    """CLIP's one view: a large crop, and no flip, after which "left of" would be false.

    Args:
        size: Height and width of a view, pixels.
        channels: Channels of the images.
        crop_scale: Least and largest share of the image's area in a crop: what a caption names should be in it.
        crop_ratio: Least and largest width over height of a crop.

    Returns:
        One view of images (N, C, H, W), float32 (N, C, size, size) in [0, 1].

    Source: Radford et al. 2021 (CLIP), section 2.4: a square crop; the scale is of the open_clip project.
    """
    return _alike(**locals(), flip_p=0.0, count=1)


def jigsaw_views(
    size: int,
    *,
    channels: int = 3,
    crop_scale: Range = (0.5, 1.0),
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float = 0.5,
    grey_p: float = 0.3,
) -> Views:
    """The jigsaw puzzle's one view: crop, flip, and greyscale, so that colour fringes do not solve it.

    Args:
        size: Height and width of the view, pixels.
        channels: Channels of the images; for other numbers than 3 there is no greyscale.
        crop_scale: Least and largest share of the image's area in a crop.
        crop_ratio: Least and largest width over height of a crop.
        flip_p: Probability of a horizontal flip.
        grey_p: Probability of greyscale.

    Returns:
        One view of images (N, C, H, W), float32 (N, C, size, size) in [0, 1].

    Source: Noroozi & Favaro 2016, section 4.2.
    """
    return _alike(**locals(), count=1)


def pirl_views(
    size: int,
    *,
    channels: int = 3,
    jigsaw_size: int | None = None,
    crop_scale: Range = (0.08, 1.0),
    jigsaw_scale: Range = (0.6, 1.0),
    flip_p: float = 0.5,
    jitter: Strength = (0.4, 0.4, 0.4, 0.2),
    jitter_p: float = 1.0,
    grey_p: float = 0.2,
    hue: Hue = "exact",
) -> Views:
    """PIRL's two views: one that is seen whole, and a larger one that the method cuts into tiles.

    Args:
        size: Height and width of the whole view, pixels.
        channels: Channels of the images; for other numbers than 3 the colour operations that need RGB are left out.
        jigsaw_size: Height and width of the view for the tiles, pixels; if not given, 255/224 of `size`, at least 36.
        crop_scale: Least and largest share of the image's area in the whole view.
        jigsaw_scale: Least and largest share of the image's area in the view for the tiles.
        flip_p: Probability of a horizontal flip.
        jitter: Strength of brightness, contrast, saturation (factors within 1 - s to 1 + s) and hue (turns, up to 0.5).
        jitter_p: Probability of the colour jitter.
        grey_p: Probability of greyscale.
        hue: "exact" (HSV) or "linear" (cheaper, one matrix an image).

    Returns:
        Two views of images (N, C, H, W), float32 in [0, 1]: (N, C, size, size) and
        (N, C, jigsaw_size, jigsaw_size).

    Source: Misra & van der Maaten 2020, section 3.2; VISSL's ``pirl_jigsaw_4node_resnet50.yaml``.

    Examples:
        >>> import torch
        >>> images = torch.randint(256, (4, 3, 40, 48), dtype=torch.uint8)
        >>> [tuple(view.shape) for view in pirl_views(32)(images)]
        [(4, 3, 32, 32), (4, 3, 36, 36)]
    """
    shared: dict[str, Any] = {
        "channels": channels, "flip_p": flip_p, "jitter": jitter, "jitter_p": jitter_p, "grey_p": grey_p, "hue": hue,
    }  # fmt: skip
    tiled = jigsaw_size or max(36, round(size * 255 / 224))
    return Views([one_view(size, crop_scale=crop_scale, **shared), one_view(tiled, crop_scale=jigsaw_scale, **shared)])


def masked_autoencoder_views(
    size: int,
    *,
    channels: int = 3,
    crop_scale: Range = (0.2, 1.0),
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float = 0.5,
    interpolation: Interpolation = "bicubic",
) -> Views:
    """The masked autoencoder's one view: crop and flip; colour changes do it no good.

    Args:
        size: Height and width of the view, pixels, a multiple of the encoder's patches.
        channels: Channels of the images.
        crop_scale: Least and largest share of the image's area in a crop.
        crop_ratio: Least and largest width over height of a crop.
        flip_p: Probability of a horizontal flip.
        interpolation: How crops are resized; both are antialiased.

    Returns:
        One view of images (N, C, H, W), float32 (N, C, size, size) in [0, 1].

    Source: He et al. 2022, table 1e and appendix A.1; the authors' ``main_pretrain.py``.
    """
    return _alike(**locals(), count=1)


def simmim_views(
    size: int,
    *,
    channels: int = 3,
    crop_scale: Range = (0.67, 1.0),
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float = 0.5,
) -> Views:
    """SimMIM's one view: a large crop and a flip.

    Args:
        size: Height and width of the view, pixels, a multiple of the encoder's patches.
        channels: Channels of the images.
        crop_scale: Least and largest share of the image's area in a crop.
        crop_ratio: Least and largest width over height of a crop.
        flip_p: Probability of a horizontal flip.

    Returns:
        One view of images (N, C, H, W), float32 (N, C, size, size) in [0, 1].

    Source: Xie et al. 2022 (SimMIM), section 4.1; the authors' ``data_simmim.py``.
    """
    return _alike(**locals(), count=1)


def i_jepa_views(
    size: int,
    *,
    channels: int = 3,
    crop_scale: Range = (0.3, 1.0),
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float = 0.0,
) -> Views:
    """I-JEPA's one view: a crop, and nothing else.

    Args:
        size: Height and width of the view, pixels, a multiple of the encoder's patches.
        channels: Channels of the images.
        crop_scale: Least and largest share of the image's area in a crop.
        crop_ratio: Least and largest width over height of a crop.
        flip_p: Probability of a horizontal flip.

    Returns:
        One view of images (N, C, H, W), float32 (N, C, size, size) in [0, 1].

    Source: Assran et al. 2023 (I-JEPA); the authors' ``in1k_vith14_ep300.yaml``.
    """
    return _alike(**locals(), count=1)


def finetune_views(
    size: int,
    *,
    channels: int = 3,
    crop_scale: Range = (0.3, 1.0),
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float = 0.5,
    randaugment: int = 0,
    magnitude: float = 9.0,
    erase_p: float = 0.0,
) -> Views:
    """The one view of supervised training: crop and flip, then RandAugment and random erasing if wanted.

    Args:
        size: Height and width of the view, pixels.
        channels: Channels of the images; RandAugment needs 3.
        crop_scale: Least and largest share of the image's area in a crop; ImageNet's recipes begin at 0.08.
        crop_ratio: Least and largest width over height of a crop.
        flip_p: Probability of a horizontal flip.
        randaugment: Number of RandAugment's operations, the same for all images of a batch; 0 for none.
        magnitude: Their magnitude, above 0 and below 30.
        erase_p: Probability of erasing a rectangle.

    Returns:
        One view of images (N, C, H, W), float32 (N, C, size, size) in [0, 1].

    Raises:
        UsageError: RandAugment of images that are not RGB.

    Source: Szegedy et al. 2015 (crop); Cubuk et al. 2020, RandAugment; Zhong et al. 2020, Random Erasing.

    Examples:
        >>> import torch
        >>> images = torch.randint(256, (4, 3, 40, 48), dtype=torch.uint8)
        >>> (view,) = finetune_views(32, randaugment=2, erase_p=0.25)(images)
        >>> view.shape
        torch.Size([4, 3, 32, 32])
    """
    view = one_view(size, channels=channels, crop_scale=crop_scale, crop_ratio=crop_ratio, flip_p=flip_p)
    then: list[nn.Module] = []
    if randaugment:
        if channels != 3:
            raise UsageError(f"--randaugment needs RGB images, these have {channels} channels: leave it out")
        then.append(RandAugment(randaugment, magnitude))
    if erase_p > 0:
        then.append(RandomErasing(p=erase_p))
    return Views([View(view.crop, then=then)])


def eval_view(size: int, *, resize: int | None = None, interpolation: Interpolation = "bilinear") -> EvalView:
    """The one view that evaluation sees: short side resized, centre crop.

    Args:
        size: Height and width of the view, pixels.
        resize: Length that the short side is resized to first; None: `size`. ImageNet's protocol is 256 for 224.
        interpolation: How it is resized; both are antialiased.

    Returns:
        A module from images (N, C, H, W) to float32 (N, C, size, size) in [0, 1].

    Examples:
        >>> import torch
        >>> images = torch.randint(256, (4, 3, 40, 48), dtype=torch.uint8)
        >>> eval_view(32, resize=36)(images).shape
        torch.Size([4, 3, 32, 32])
    """
    return EvalView(size, resize, interpolation)


def _alike(size: int, *, count: int, **options: Any) -> Views:
    """So many views, all made in the same way; options as of `one_view`."""
    return Views([one_view(size, **options) for _ in range(count)])


def one_view(
    size: int,
    *,
    channels: int,
    crop_scale: Range,
    crop_ratio: Range = (3 / 4, 4 / 3),
    flip_p: float,
    interpolation: Interpolation = "bilinear",
    jitter: Strength = (0.0, 0.0, 0.0, 0.0),
    jitter_p: float = 0.0,
    grey_p: float = 0.0,
    grey_first: bool = False,
    hue: Hue = "exact",
    blur_p: float = 0.0,
    blur_sigma: Range = (0.1, 2.0),
    solarize_p: float = 0.0,
) -> View:
    """One view; what cannot happen is left out."""
    if size < 1 or channels < 1:
        raise UsageError(f"view of size {size} with {channels} channels: both are at least 1")
    for name, p in (("flip_p", flip_p), ("jitter_p", jitter_p), ("grey_p", grey_p), ("blur_p", blur_p)):
        if not 0 <= p <= 1:
            raise UsageError(f"--views.{name} is {p}: a probability is from 0 to 1")
    if channels != 3:
        if any(jitter[2:]) or grey_p > 0:
            say_rgb_only(channels)
        jitter, grey_p = (*jitter[:2], 0.0, 0.0), 0.0
    steps: list[nn.Module] = []
    if (jitter_p > 0 and any(jitter)) or grey_p > 0:
        steps.append(ColourJitter(jitter, jitter_p, grey_p, grey_first, hue=hue))
    if blur_p > 0:
        steps.append(GaussianBlur(blur_sigma, blur_p))
    if solarize_p > 0:
        steps.append(Solarize(0.5, solarize_p))
    return View(ResizedCropFlip((size, size), crop_scale, crop_ratio, flip_p, interpolation), steps)
