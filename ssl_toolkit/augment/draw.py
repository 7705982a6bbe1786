"""A picture of what a method sees: each image beside its views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_toolkit.augment.views import Views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = 1.3


def draw_views(
    images: Tensor | Sequence[Tensor], views: Views, titles: Sequence[str] | None = None, again: int = 1
) -> Figure:
    """Draw a row an image: the original, then its views.

    Args:
        images: uint8 in [0, 255] or float in [0, 1]; (N, C, H, W), or N tensors (C, H, W) of any sizes.
        views: What to make of them. Draws from the global generator: seed it for the same picture again.
        titles: Heads of the view columns; numbers when None.
        again: How often to make the views, side by side.

    Returns:
        A Matplotlib figure; ``figure.savefig("views.png")`` writes it. Images of other than 3 channels are shown by
        their first one, in grey.

    Raises:
        ValueError: No image.
    """
    from matplotlib.figure import Figure

    if len(images) == 0:
        raise ValueError("draw_views needs at least one image")
    rows = [[image, *_made(image, views, again)] for image in images]
    heads = ["original", *(titles or [str(number + 1) for number in range(len(rows[0]) - 1)])]
    figure = Figure(figsize=(_INCHES * len(rows[0]), _INCHES * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for number, (row, line) in enumerate(zip(rows, axes, strict=True)):
        for column, (image, axis) in enumerate(zip(row, line, strict=True)):
            axis.imshow(_pixels(image), cmap="grey", vmin=0, vmax=1, interpolation="nearest")
            axis.set_axis_off()
            if number == 0 and column < len(heads):
                axis.set_title(heads[column], fontsize=8)
    return figure


def _made(image: Tensor, views: Views, again: int) -> list[Tensor]:
    return [view[0] for _ in range(again) for view in views(image[None])]


def _pixels(image: Tensor) -> object:
    """(C, H, W) -> (H, W, 3) or (H, W), float [0, 1], as Matplotlib takes it."""
    values = image.to("cpu", torch.float32) / (1 if image.is_floating_point() else 255)
    return (values.permute(1, 2, 0) if len(values) == 3 else values[0]).numpy()
