"""Augmentations: views made on the device, from the batch, as Kornia augmentations."""

from ssl_toolkit.augment.blur import GaussianBlur
from ssl_toolkit.augment.colour import ColourJitter
from ssl_toolkit.augment.crop import ResizedCropFlip
from ssl_toolkit.augment.erasing import Cutout, RandomErasing
from ssl_toolkit.augment.mix import CutMix, Mixup
from ssl_toolkit.augment.multicrop import lejepa_views, multicrop_views, swav_views
from ssl_toolkit.augment.recipes import (
    byol_views,
    cifar_views,
    clip_views,
    cpc_views,
    eval_view,
    finetune_views,
    i_jepa_views,
    jigsaw_views,
    masked_autoencoder_views,
    moco_v1_views,
    moco_v2_views,
    moco_v3_views,
    pirl_views,
    pixpro_views,
    pretext_views,
    ressl_views,
    simclr_views,
    simmim_views,
)
from ssl_toolkit.augment.solarize import Solarize
from ssl_toolkit.augment.views import EvalView, OwnViews, View, Views

__all__ = [
    "ColourJitter",
    "CutMix",
    "Cutout",
    "EvalView",
    "GaussianBlur",
    "Mixup",
    "OwnViews",
    "RandomErasing",
    "ResizedCropFlip",
    "Solarize",
    "View",
    "Views",
    "byol_views",
    "cifar_views",
    "clip_views",
    "cpc_views",
    "eval_view",
    "finetune_views",
    "i_jepa_views",
    "jigsaw_views",
    "lejepa_views",
    "masked_autoencoder_views",
    "moco_v1_views",
    "moco_v2_views",
    "moco_v3_views",
    "multicrop_views",
    "pirl_views",
    "pixpro_views",
    "pretext_views",
    "ressl_views",
    "simclr_views",
    "simmim_views",
    "swav_views",
]
