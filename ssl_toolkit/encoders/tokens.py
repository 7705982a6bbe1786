"""Vision transformers token by token: with patches left out, or hidden behind a mask token."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ssl_toolkit.encoders.encoder import Encoder
from ssl_toolkit.errors import UsageError


def require_patches(encoder: Encoder, asker: str) -> int:
    """Refuse an encoder whose patches cannot be hidden.

    Args:
        encoder: It may be any.
        asker: The method that hides them.

    Returns:
        Side of its patches, pixels.

    Raises:
        UsageError: If it is no timm ``VisionTransformer`` that cuts images into square patches by one convolution, has
            a pooling of its own to learn, or has fewer than two patches.
    """
    name, backbone = encoder.config.name, encoder.backbone
    plain = isinstance(backbone, VisionTransformer) and isinstance(backbone.patch_embed, PatchEmbed)
    if not plain or len(set(backbone.patch_embed.patch_size)) > 1:
        raise UsageError(
            f"{asker} hides patches, which {name} cannot: give a vision transformer of timm's that cuts images into "
            "square patches, such as --encoder vit_tiny_patch16_224 or vit_small_patch16_224"
        )
    if backbone.attn_pool is not None:
        raise UsageError(
            f"{name} pools its patches by attention, which {asker} does not train: give a vision transformer with a "
            "class token or a mean, such as --encoder vit_tiny_patch16_224"
        )
    patch = int(backbone.patch_embed.patch_size[0])
    require_two_patches(encoder.config.image_size, patch)
    return patch


def require_two_patches(side: int, patch: int) -> None:
    """Refuse images that have no patch to hide beside one to show.

    Raises:
        UsageError: Naming the sizes.
    """
    if side < 2 * patch:
        raise UsageError(
            f"images of {side} px have one patch of {patch} px, so there is none to hide: give smaller patches "
            f"(--encoder.patch_size {max(1, side // 8)}) or larger images"
        )


def patch_grid(encoder: Encoder, image: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches of images (N, C, H, W).

    Raises:
        UsageError: If there is one patch only.
    """
    patch = int(encoder.backbone.patch_embed.patch_size[0])
    require_two_patches(min(image.shape[-2:]), patch)
    return image.shape[-2] // patch, image.shape[-1] // patch


def embed(encoder: Encoder, image: Tensor, hidden: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
    """Tokens of images as they come in front of the first block, with their positions.

    Args:
        encoder: A vision transformer; see `require_patches`.
        image: (N, C, H, W) in [0, 1].
        hidden: Patches in whose place the mask token stands, (N, L) bool; None: none.
        mask_token: (D,).

    Returns:
        (N, P + L, D): the P class and register tokens, then the patches row by row.
    """
    backbone: Any = encoder.backbone
    patches = backbone.patch_embed(encoder.normalize(image))  # (N, h, w, D) or (N, L, D)
    if hidden is not None and mask_token is not None:
        patches = torch.where(hidden.view(*patches.shape[:-1], 1), mask_token.to(patches.dtype), patches)
    tokens: Tensor = backbone._pos_embed(patches)
    return tokens


def keep(encoder: Encoder, tokens: Tensor, visible: Tensor) -> Tensor:
    """Leave patches out of the tokens (N, P + L, D) of `embed`: the others do not exist for the network's blocks.

    Args:
        encoder: Whose tokens they are.
        tokens: (N, P + L, D).
        visible: Places of the patches that stay, (N, V) int64.

    Returns:
        (N, P + V, D): the class and register tokens, then the patches in the order of `visible`.

    Source: He et al. 2022, section 3: positions are added before patches are taken out.
    """
    first = encoder.backbone.num_prefix_tokens
    shown = tokens[:, first:].gather(1, visible[..., None].expand(-1, -1, tokens.shape[2]))
    return torch.cat([tokens[:, :first], shown], dim=1)


def encode(encoder: Encoder, tokens: Tensor) -> Tensor:
    """Tokens (N, T, D) of `embed` or `keep` through the blocks and, where it is not behind the pooling, the norm."""
    backbone: Any = encoder.backbone
    encoded: Tensor = backbone.norm(backbone.blocks(backbone.norm_pre(tokens)))
    return encoded


def visible_tokens(encoder: Encoder, image: Tensor, visible: Tensor) -> Tensor:
    """Encode some patches of each image alone.

    Args:
        encoder: A vision transformer; see `require_patches`.
        image: (N, C, H, W) in [0, 1].
        visible: Places of the patches that are encoded, (N, V) int64.

    Returns:
        Tokens (N, P + V, D): the P class and register tokens, then the patches in the order of `visible`.
    """
    return encode(encoder, keep(encoder, embed(encoder, image), visible))


def pool(encoder: Encoder, tokens: Tensor) -> Tensor:
    """The features (N, D) that the encoder makes of its tokens (N, T, D)."""
    features: Tensor = encoder.backbone.forward_head(tokens, pre_logits=True)
    return features


def patch_tokens(encoder: Encoder, tokens: Tensor) -> Tensor:
    """Of tokens (N, P + V, D) those of patches, (N, V, D), normed by networks that norm behind their pooling too."""
    patches: Tensor = encoder.backbone.fc_norm(tokens[:, encoder.backbone.num_prefix_tokens :])
    return patches


def mlp_outputs(encoder: Encoder, image: Tensor, count: int) -> list[Tensor]:
    """What the MLPs of the last blocks give, before it is added to what came in.

    Args:
        encoder: A vision transformer; see `require_patches`.
        image: (N, C, H, W) in [0, 1].
        count: Number of blocks.

    Returns:
        One (N, L, D) a block, of the patches alone.
    """
    found: list[Tensor] = []
    first = encoder.backbone.num_prefix_tokens
    hooks = [
        block.mlp.register_forward_hook(lambda module, args, output: found.append(output[:, first:]))
        for block in list(encoder.backbone.blocks)[-count:]
    ]
    try:
        encode(encoder, embed(encoder, image))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def put_back(tokens: Tensor, visible: Tensor, mask_token: Tensor, length: int) -> Tensor:
    """Visible tokens (N, V, D) at their places (N, V), and the mask token (D,) at all others: (N, `length`, D)."""
    places = visible[..., None].expand_as(tokens)
    return mask_token.to(tokens.dtype).expand(len(tokens), length, -1).scatter(1, places, tokens)
