"""Tasks that are solved on the encoder's feature map, position by position."""

from __future__ import annotations

from typing import Any

import torch

from ssl_toolkit.augment import Views, pretext_views
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig


class MapTask(Method):
    """A task on feature maps, whose views are cropped and flipped.

    Args:
        encoder: What is trained and kept; what stands behind its feature map is frozen.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.

    Attributes:
        width: Channels of the feature map.
        stride: Pixels from one position of it to the next.
    """

    default_views = staticmethod(pretext_views)

    def __init__(self, encoder: Encoder, views: Views, optimizer: OptimizerConfig | None = None) -> None:
        super().__init__(encoder, views, optimizer)
        encoder.freeze_behind_map()
        self.width, self.stride = encoder.width_and_stride()

    def compile_encoder(self, **options: Any) -> None:
        """Compile the way to the feature map, which is all that is asked of the encoder."""
        self.encoder.feature_map = torch.compile(self.encoder.feature_map, **options)  # type: ignore[method-assign]
