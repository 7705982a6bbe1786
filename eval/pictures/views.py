"""What a method sees: views of images, made as training makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_toolkit.augment import Views
from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.reading import pad
from ssl_toolkit.eval.pictures.sheets import sheet
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme


def views_of(images: Sequence[NDArray[np.uint8]], views: Views, seed: int) -> list[NDArray[np.float32]]:
    """What `views` makes of images of any sizes: V arrays (N, C, h, w) in [0, 1], the same for the same seed.

    Args:
        images: N images (C, H, W).
        views: A method's views.
        seed: Decides the draws; the caller's own are not disturbed.
    """
    pixels, box = pad(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = views(torch.from_numpy(pixels), None if box is None else torch.from_numpy(box))
    return [view.numpy() for view in made[: len(views)]]


def views_figure(images: Sequence[Pixels], views: Sequence[Sequence[Pixels] | Pixels], theme: Theme = LIGHT) -> Figure:
    """Images in the top row, the views made of each below it.

    Args:
        images: N images (C, H, W), uint8 or float in [0, 1], of any sizes; shown whole.
        views: V lists of N views (C, h, w) of the same images, as a method's `Views` gives them.
        theme: Colours.

    Raises:
        ValueError: There is not a view of every image.
    """
    if any(len(view) != len(images) for view in views):
        raise ValueError(f"{len(images)} images, but views of {[len(view) for view in views]}")
    names = ["image", *(["view"] if len(views) == 1 else [f"view {i + 1}" for i in range(len(views))])]
    return sheet([images, *[list(view) for view in views]], theme, row_names=names, apart="row")
