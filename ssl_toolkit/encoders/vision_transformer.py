"""What is changed in timm's vision transformers: first weights, positions, pooling, dropped paths, what is kept."""

from __future__ import annotations

import math

import torch
from timm.layers import DropPath, build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_toolkit.encoders.config import EncoderConfig, Init
from ssl_toolkit.errors import UsageError


def adapt_vision_transformer(network: nn.Module, config: EncoderConfig) -> None:
    """Give a new network the first weights, the positions and the pooling that `config` asks for.

    Raises:
        UsageError: If it is no vision transformer of timm's, or has no positions to fix.
    """
    if isinstance(network, VisionTransformer):
        if config.init != "timm":
            start_as(network, config.init)
        if config.positions == "sincos":
            fix_positions(network, config.name)
        if config.pool == "mean" and pools_by_token(network):
            network.global_pool = "avg"  # behind the norm, whose weights keep their name
        return
    for option, default in (("heads", 0), ("registers", 0), ("init", "timm"), ("positions", "learned")):
        if (value := getattr(config, option)) != default:
            raise UsageError(
                f"--encoder.{option} {value} is for vision transformers of timm's, {config.name} is none: leave it out"
            )


def pools_by_token(network: nn.Module) -> bool:
    """Whether a network's features are a class token."""
    return bool(getattr(network, "global_pool", None) == "token")


@torch.no_grad()
def start_as(network: VisionTransformer, init: Init) -> None:
    """Draw first weights as the authors of a method do: linear layers, and that of the patches, by Glorot & Bengio.

    Args:
        network: Its norms stay as they are.
        init: ``moco_v3``: queries, keys and values are three layers, a class token of standard deviation 1e-6; ``mae``:
            they are one layer, and that deviation is 0.02.

    Source: the authors' code of Chen et al. 2021 (``vits.py``) and He et al. 2022 (``models_mae.py``).
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            parts = 3 if init == "moco_v3" and name.endswith("qkv") else 1
            _glorot(module.weight, module.in_features, module.out_features // parts)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    patches = network.patch_embed.proj
    _glorot(patches.weight, patches.weight[0].numel(), len(patches.weight))
    if patches.bias is not None:
        nn.init.zeros_(patches.bias)
    if network.cls_token is not None:
        nn.init.normal_(network.cls_token, std=1e-6 if init == "moco_v3" else 0.02)


def _glorot(weight: Tensor, fan_in: int, fan_out: int) -> None:
    bound = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -bound, bound)


@torch.no_grad()
def fix_positions(network: VisionTransformer, name: str) -> None:
    """Sines and cosines of row and column in the place of learned positions; class and register tokens have zeros.

    Raises:
        UsageError: If `name`, the network, has no such positions, or a width that is no multiple of 4.

    Source: Chen et al. 2021 (MoCo v3), section 4; He et al. 2022, appendix A.1. The channels' order is timm's.
    """
    if network.pos_embed is None or network.embed_dim % 4:
        raise UsageError(f"--encoder.positions sincos does not fit {name}: leave it out")
    positions = build_sincos2d_pos_embed(list(network.patch_embed.grid_size), network.embed_dim)  # (L, D)
    network.pos_embed.zero_()
    network.pos_embed[0, -len(positions) :] = positions
    network.pos_embed.requires_grad_(False)


def drop_paths(network: nn.Module, rate: float, name: str) -> None:
    """Let residual branches be dropped in training, image by image (stochastic depth).

    Args:
        network: A vision transformer of timm's.
        rate: Share that is dropped in the last block, in [0, 1]; it rises in a straight line from 0 in the first.
        name: Of the network.

    Raises:
        UsageError: If it is none.

    Source: Huang et al. 2016, section 3; as in the code of DINO.
    """
    blocks = list(network.blocks) if isinstance(network, VisionTransformer) else []
    if not blocks or not all(hasattr(block, "drop_path1") for block in blocks):
        raise UsageError(f"--method.drop-path is for vision transformers of timm's, {name} is none: leave it out")
    for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        for branch in ("drop_path1", "drop_path2"):
            setattr(block, branch, DropPath(share).train(block.training))


class CheckpointedBlocks(nn.Sequential):
    """Blocks of which the backward pass computes again what is in them, from what went in, with the same draws.

    Source: Chen et al. 2016, Training deep nets with sublinear memory cost, section 3.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, D) to tokens (N, T, D)."""
        for block in self:
            x = checkpoint(block, x, use_reentrant=False) if torch.is_grad_enabled() else block(x)
        return x


def checkpoint_activations(network: nn.Module, name: str) -> None:
    """Keep what goes into each block of a vision transformer, and compute the rest again for the backward pass.

    Args:
        network: One of timm's, or two of them in a split one; the names of its weights stay.
        name: Of the network.

    Raises:
        UsageError: If it is none.
    """
    found = [each for each in network.modules() if isinstance(each, VisionTransformer)]
    if not found:
        raise UsageError(
            f"--encoder.checkpoint-activations is for vision transformers of timm's, {name} is none: leave it out"
        )
    for each in found:
        each.blocks = CheckpointedBlocks(*each.blocks)
