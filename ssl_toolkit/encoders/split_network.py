"""Two networks as one: half of it sees the lightness, the other half the colours, and neither hears of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models import ConvNeXt, ResNet, VisionTransformer, group_parameters
from torch import Tensor, nn

from ssl_toolkit.errors import UsageError


class SplitNetwork(nn.Module):
    """Two networks of one architecture, over the first channel and over the others; their features are concatenated.

    It answers to the methods and attributes of timm's networks.

    Args:
        lightness: Sees L, (N, 1, H, W).
        colour: Sees a and b, (N, 2, H, W).

    Raises:
        UsageError: If timm cannot take the architecture apart.

    Source: Zhang et al. 2017, section 3.2.
    """

    def __init__(self, lightness: nn.Module, colour: nn.Module) -> None:
        super().__init__()
        if not hasattr(lightness, "forward_intermediates") or not hasattr(lightness, "forward_head"):
            raise UsageError(
                f"no split encoder can be made of {type(lightness).__name__}, which timm cannot take apart: "
                "give another --encoder, such as resnet18"
            )
        self.lightness, self.colour = lightness, colour
        width: Any = lightness.num_features
        head: Any = getattr(lightness, "head_hidden_size", 0) or width
        self.num_features, self.head_hidden_size = 2 * width, 2 * head

    def forward(self, x: Tensor) -> Tensor:
        """Lab (N, 3, H, W), centred and scaled, to pooled features (N, D)."""
        return torch.cat([half(part) for half, part in self._halves(x)], dim=1)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map or tokens of both."""
        return self._joined([half.forward_features(part) for half, part in self._halves(x)])

    def forward_intermediates(
        self, x: Tensor, indices: int, norm: bool = False, return_prefix_tokens: bool = False
    ) -> tuple[Tensor, list[Any]]:
        """Those of both, and the feature maps of the last `indices` depths, beside each its prefix tokens if asked."""
        more = {"return_prefix_tokens": True} if return_prefix_tokens else {}
        (last, depths), (other, others) = (
            half.forward_intermediates(part, indices=indices, norm=norm, **more) for half, part in self._halves(x)
        )
        joined: list[Any] = []
        for one, two in zip(depths, others, strict=True):
            if return_prefix_tokens:
                joined.append((torch.cat([one[0], two[0]], dim=1), torch.cat([one[1], two[1]], dim=2)))
            else:
                joined.append(torch.cat([one, two], dim=1))
        return self._joined([last, other]), joined

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """What `forward_features` gave to pooled features (N, D)."""
        parts = x.chunk(2, dim=self._axis(x))
        halves: list[Any] = [self.lightness, self.colour]
        pooled = [half.forward_head(part, pre_logits=pre_logits) for half, part in zip(halves, parts, strict=True)]
        return torch.cat(pooled, dim=1)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Depth of a weight from its name: that which it has in its half.

        Raises:
            UsageError: If timm does not know the depths of the architecture.
        """
        if not hasattr(self.lightness, "group_matcher"):
            raise UsageError(f"timm knows no layers of {type(self.lightness).__name__}: give --layer-decay 1")
        depths = {}
        for name in ("lightness", "colour"):
            half: Any = getattr(self, name)
            found = group_parameters(half, half.group_matcher(coarse=coarse), reverse=True)
            depths.update({f"{name}.{weight}": depth for weight, depth in found.items()})
        return depths.__getitem__

    @property
    def output_fmt(self) -> Any:
        """Order of the axes of `forward_features`, as timm has it."""
        return self.lightness.output_fmt

    @property
    def global_pool(self) -> Any:
        """How features are pooled, as timm has it."""
        return self.lightness.global_pool

    @property
    def patch_embed(self) -> Any:
        """How images are cut into patches, if they are."""
        return self.lightness.patch_embed

    @property
    def num_prefix_tokens(self) -> Any:
        """How many tokens come before those of the patches, of a transformer."""
        return self.lightness.num_prefix_tokens

    def _halves(self, x: Tensor) -> list[tuple[Any, Tensor]]:
        return [(self.lightness, x[:, :1]), (self.colour, x[:, 1:])]

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=self._axis(parts[0]))

    def _axis(self, x: Tensor) -> int:
        """Where the channels are."""
        return 1 if x.ndim == 4 and str(getattr(self, "output_fmt", "NCHW")) == "NCHW" else -1


def half_width(network: nn.Module) -> dict[str, Any]:
    """Arguments that make timm build an architecture at half the width.

    Known of ResNets, whose stem keeps its width, ConvNeXts and ViTs; empty for others, which then stay as they are.
    """
    if isinstance(network, ResNet):
        expansion = network.layer1[0].expansion
        return {"channels": tuple(stage["num_chs"] // expansion // 2 for stage in network.feature_info[1:])}
    if isinstance(network, ConvNeXt):
        return {"dims": tuple(stage["num_chs"] // 2 for stage in network.feature_info)}
    if isinstance(network, VisionTransformer):
        heads = network.blocks[0].attn.num_heads
        return {"embed_dim": network.embed_dim // 2, "num_heads": heads if heads % 2 else heads // 2}
    return {}
