"""Models of the open_clip project, the extra ``[open_clip]``: what sees images, under timm's names."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from ssl_toolkit.errors import UsageError, missing_extra, said_by, unknown_name

OPEN_CLIP = "open_clip:"
"""How the name of such a network begins, in the configuration of an encoder or of a text tower."""


def open_clip_model(architecture: str, weights: str | None = None) -> Any:
    """A model of the project, in float32.

    Args:
        architecture: Its name, ``ViT-B-32``.
        weights: File of its weights, or a name of those that the project offers for download; None: random ones.

    Raises:
        UsageError: The extra is missing, or there is no such architecture, or there are no such weights.
    """
    try:
        open_clip = importlib.import_module("open_clip")
    except ImportError as error:
        raise missing_extra(f"the network {OPEN_CLIP}{architecture}", "open_clip", "open_clip_torch") from error
    if architecture not in open_clip.list_models():
        raise unknown_name("architecture of open_clip", architecture, open_clip.list_models())
    try:
        return open_clip.create_model(architecture, pretrained=weights, precision="fp32")
    except Exception as error:  # whatever reads a stranger's file may raise
        raise UsageError(f"the weights {weights} cannot be loaded into {architecture}: {said_by(error)}") from error


class OpenClipImages(nn.Module):
    """Images (N, C, H, W) to vectors in the space of the texts (N, D).

    Args:
        architecture: As for `open_clip_model`.
        visual: Of a model that is there already; None builds one with random weights.

    Attributes:
        num_features: D.
    """

    def __init__(self, architecture: str, visual: Any = None) -> None:
        super().__init__()
        self.visual = open_clip_model(architecture).visual if visual is None else visual
        with torch.no_grad():
            self.num_features = self.eval()(torch.zeros(1, 3, *self.image_size)).shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of its images, pixels."""
        size = self.visual.image_size
        return tuple(size) if isinstance(size, tuple | list) else (size, size)

    def forward(self, image: Tensor) -> Tensor:
        """Features (N, D)."""
        features: Tensor = self.visual(image)
        return features
