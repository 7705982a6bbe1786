"""Attention maps: where the last block of a vision transformer looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import evaluating
from ssl_toolkit.eval.pictures.sheets import Heat, Scale, Tile, sheet
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme

HEADS = 6
"""Heads of an attention layer that are shown one by one."""


def has_attention(encoder: Encoder) -> bool:
    """Whether `attention_maps` can be made: timm's vision transformers with one attention over all tokens a block."""
    return _last_attention(encoder) is not None


def check_attention(encoder: Encoder) -> None:
    """Refuse an encoder that `attention_maps` cannot be made of.

    Raises:
        UsageError: Naming those that it can.
    """
    if not has_attention(encoder):
        raise UsageError(
            f"{encoder.config.name} has no attention maps: vision transformers have them, such as vit_*, deit_*, "
            "beit_* and eva02_*"
        )


def reads_class_token(encoder: Encoder) -> bool:
    """Whether the encoder's features are its class token, and not a mean over the patches or the like."""
    return bool(encoder.backbone.global_pool == "token")


def attention_maps(encoder: Encoder, image: Tensor) -> Tensor:
    """How much attention each patch gets in the last block: from the class token, or else from the mean patch.

    A class token that the features are not read from (see `reads_class_token`) is never trained to look anywhere, and
    counts as none. A map's sum falls short of 1 by what goes to class and register tokens. The encoder is in eval mode
    meanwhile, and each of its submodules back in its own mode afterwards.

    Args:
        encoder: A vision transformer.
        image: (N, C, H, W) float in [0, 1], on the encoder's device.

    Returns:
        (N, heads, rows, columns) float32, without gradient: a number a patch, in [0, 1].

    Raises:
        UsageError: The encoder has no attention over patches.

    Source: Caron et al. 2021, figure 1 and section 4.2.2.
    """
    check_attention(encoder)
    attn, backbone = _last_attention(encoder), encoder.backbone
    caught: list[Tensor] = []
    hook = attn.attn_drop.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    fused, attn.fused_attn = attn.fused_attn, False  # the fused kernel does not hold the attention as a tensor
    try:
        with torch.no_grad(), evaluating(encoder):
            encoder(image)
    finally:
        attn.fused_attn = fused
        hook.remove()
    (attention,) = caught  # (N, heads, T, T), rows sum to 1
    first = backbone.num_prefix_tokens
    query = slice(0, 1) if reads_class_token(encoder) else slice(first, None)
    to_patches = attention[:, :, query, first:].float().mean(dim=2)
    return to_patches.reshape(*to_patches.shape[:2], *backbone.patch_embed.dynamic_feat_size(image.shape[-2:]))


def _last_attention(encoder: Encoder) -> Any:
    """The attention of the last block if it is one softmax over class, register and patch tokens; else None."""
    backbone = encoder.backbone
    blocks = getattr(backbone, "blocks", None)
    attn = getattr(blocks[-1], "attn", None) if blocks else None
    patches = getattr(backbone, "patch_embed", None)
    tokens = hasattr(backbone, "num_prefix_tokens") and hasattr(patches, "dynamic_feat_size")
    softmax = hasattr(attn, "attn_drop") and hasattr(attn, "fused_attn") and type(attn).__name__ != "DiffAttention"
    return attn if tokens and softmax else None


def attention_figure(images: Sequence[Pixels], maps: NDArray[np.floating[Any]], theme: Theme = LIGHT) -> Figure:
    """Each image at the left, to its right where each head looks; see `attention_maps`.

    The mean over all heads comes first, then the first six of them. A colour is a share of its own map's largest value.

    Args:
        images: N images (C, H, W), uint8 or float in [0, 1]; shown whole.
        maps: (N, heads, rows, columns), at least 0: attention to each patch.
        theme: Colours.

    Raises:
        ValueError: There are no maps of every image.
    """
    if len(images) != len(maps):
        raise ValueError(f"{len(images)} images, but maps of {len(maps)}")
    heads = maps.shape[1]
    mean = {f"mean of {heads}": maps.mean(axis=1)} if heads > 1 else {}
    columns = mean | {f"head {head + 1}": maps[:, head] for head in range(min(heads, HEADS))}
    rows: list[list[Tile]] = [
        [image, *(Heat(each[row], image.shape[1:], 0, float(each[row].max())) for each in columns.values())]
        for row, image in enumerate(images)
    ]
    scale = Scale("0", "the map's largest value")
    return sheet(rows, theme, column_names=["image", *columns], apart="column", scale=scale)
