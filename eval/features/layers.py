"""Features of several depths or places, encoded in one pass and kept beside each other in one row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Encode


class Layers(nn.Module):
    """An encoder whose features are those of all its depths, one behind the other.

    Args:
        encode: If it has a method `layers`, as `ssl_toolkit.encoders.Encoder` has, that is asked; anything else has one
            depth, its ``output``.

    Attributes:
        widths: How many columns each depth has, by name, in order; known once something was encoded.

    Examples:
        >>> import torch
        >>> layers = Layers(lambda image: image.flatten(1))
        >>> layers(torch.zeros(2, 3, 4, 4)).shape, layers.inputs()
        (torch.Size([2, 48]), {'output': slice(0, 48, None)})
    """

    def __init__(self, encode: Encode) -> None:
        super().__init__()
        self.encode = encode
        self.widths: dict[str, int] = {}

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to features (N, sum of the widths)."""
        find = getattr(self.encode, "layers", None)
        found: dict[str, Tensor] = {"output": self.encode(image)} if find is None else find(image)
        self.widths = {name: part.shape[1] for name, part in found.items()}
        return torch.cat(list(found.values()), dim=1)

    def inputs(self) -> dict[str, slice]:
        """Columns that a classifier may read, by name: the output, each depth, the last ones together, the mean patch.

        With and without the mean patch, and of one or of four blocks, is DINOv2's choice (its ``linear.py``); the mean
        patch alone is there for encoders whose class token learns less than their patches.
        """
        ends = np.cumsum(list(self.widths.values())).tolist()
        columns = {name: slice(end - width, end) for (name, width), end in zip(self.widths.items(), ends, strict=True)}
        mean, output = columns.pop("mean", None), columns["output"]
        inputs = {name: columns[name] for name in reversed(columns)}  # the output comes first
        if len(columns) > 1:
            inputs[f"last {len(columns)}"] = slice(0, output.stop)
        if mean is not None:
            inputs["mean"] = mean
            inputs["output + mean"] = slice(output.start, mean.stop)
            inputs[f"last {len(columns)} + mean"] = slice(0, mean.stop)
        return inputs


class Tokens(nn.Module):
    """An encoder whose features are those of all places of an image, one behind the other.

    Args:
        encode: If it is an `Encoder`, its patch tokens or the places of its last feature map; anything else has one
            token, its output.

    Attributes:
        width: Features of a token; known once something was encoded.
    """

    def __init__(self, encode: Encode) -> None:
        super().__init__()
        self.encode, self.width = encode, 0

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to features (N, T D)."""
        encode = self.encode
        tokens = encode.tokens(image) if isinstance(encode, Encoder) else encode(image)[:, None]  # (N, T, D)
        self.width = tokens.shape[2]
        return tokens.flatten(1)


def token_count(encode: Encode) -> int:
    """Tokens that `Tokens` has of an image of the size that an encoder is for; 1 where it gives no map."""
    if not isinstance(encode, Encoder):
        return 1
    try:
        _, height, width = encode.map_shape()
    except (UsageError, AttributeError):  # a network of the user's own, or one that timm cannot take apart
        return 1
    return height * width
