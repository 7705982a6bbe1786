"""A small convolutional network that learns on a CPU in minutes."""

from __future__ import annotations

from collections.abc import Callable

from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from ssl_toolkit.errors import UsageError


class ConvNet(nn.Module):
    """Five 3x3 convolutions with batch norm, 0.54 M parameters: learns on a CPU in minutes.

    A stride-2 stem and two max-pools leave a feature map of 1/8 of the image's side.

    Args:
        in_chans: Channels of the image.
        widths: Channels of the five layers.
        num_classes: Must be 0; timm passes it to every network.

    Examples:
        >>> import torch
        >>> net = ConvNet()
        >>> net.forward_features(torch.rand(2, 3, 64, 64)).shape, net(torch.rand(2, 3, 64, 64)).shape
        (torch.Size([2, 256, 8, 8]), torch.Size([2, 256]))
    """

    def __init__(
        self, in_chans: int = 3, widths: tuple[int, ...] = (32, 64, 128, 128, 256), num_classes: int = 0
    ) -> None:
        super().__init__()
        if num_classes:
            raise UsageError("ConvNet is an encoder: it has no classifier, num_classes must be 0")
        self.widths, self.num_features, self.head_hidden_size = widths, widths[-1], widths[-1]
        layers: list[nn.Module] = []
        for depth, (c_in, c_out) in enumerate(zip((in_chans, *widths), widths, strict=False)):
            layers += [
                nn.Conv2d(c_in, c_out, 3, stride=2 if depth == 0 else 1, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(inplace=True),
            ]
            if depth in (1, 3):
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Depth of a weight from its name, as timm's networks tell it: how many convolutions are above."""
        convolutions = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.Conv2d)]
        return lambda name: sum(i <= int(name.split(".")[1]) for i in convolutions) - 1

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (N, 256, H/8, W/8)."""
        out: Tensor = self.features(x)
        return out

    def forward_intermediates(self, x: Tensor, indices: int, norm: bool = False) -> tuple[Tensor, list[Tensor]]:
        """The feature map, and those of the last `indices` layers, each after its ReLU; timm's name and order."""
        maps = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return x, maps[-indices:]

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """Global average of the feature map, (N, 256)."""
        out: Tensor = self.global_pool(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features (N, 256)."""
        return self.forward_head(self.forward_features(x))
