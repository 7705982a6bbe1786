"""The pictures of an encoder by name, as ``ssl-toolkit plot`` and the report draw them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.eval.pictures import units
from ssl_toolkit.eval.pictures.attention import attention_figure, attention_maps, check_attention
from ssl_toolkit.eval.pictures.class_plots import EXPLANATIONS, check_captum, check_relu, draw_explanation
from ssl_toolkit.eval.pictures.invariance import draw_invariance
from ssl_toolkit.eval.pictures.maps import PROJECTIONS, map_figure
from ssl_toolkit.eval.pictures.neighbours import neighbours_figure
from ssl_toolkit.eval.pictures.pixels import tile
from ssl_toolkit.eval.pictures.subject import Subject
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme
from ssl_toolkit.eval.pictures.unit_plots import draw_ascent, draw_feature_maps, draw_filters, draw_patches
from ssl_toolkit.eval.scores.knn import nearest, not_own

NEIGHBOURS = 8


def draw_map(name: str, subject: Subject, theme: Theme = LIGHT) -> Figure:
    """The sample's features in two dimensions, with images in their places."""
    sample = subject.data
    projection = PROJECTIONS[name](sample.features.x)
    return map_figure(projection, sample.features.label, sample.images.classes, sample.pictures(48), theme)


def draw_neighbours(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """Images and the nearest of the others in the sample."""
    sample, rows = subject.data, subject.rows
    x, labels, pictures = sample.features.x, sample.labels, sample.pictures(128)
    similarity, position = nearest(x, x[rows], min(NEIGHBOURS, len(x) - 1) + 1)
    keep = not_own(position, np.array(rows))
    near, scores = position[keep].reshape(len(rows), -1).tolist(), similarity[keep].reshape(len(rows), -1).tolist()
    return neighbours_figure(
        [tile(pictures[row], 128) for row in rows],
        [[tile(pictures[place], 128) for place in places] for places in near],
        [
            [{"score": score, "label": labels[place]} for place, score in zip(places, some, strict=True)]
            for places, some in zip(near, scores, strict=True)
        ],
        [os.path.basename(sample.images.path(int(sample.features.index[row]))) for row in rows],
        [labels[row] for row in rows],
        theme,
    )


def draw_attention(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """Where the heads of the last block look."""
    image = subject.data.views(subject.encoder, subject.rows)
    return attention_figure(subject.data.shown(image), attention_maps(subject.encoder, image).numpy(), theme)


@dataclasses.dataclass(frozen=True)
class Plot:
    """A picture by name.

    Attributes:
        draw: Draws it.
        data: Which images it needs: none, those that are shown (few), or a sample's features (many); `maybe` takes a
            sample's features where there are images, and can do without.
        suits: Raises `UsageError` where the encoder has no such picture.
    """

    draw: Callable[..., Figure]
    data: Literal["none", "few", "many", "maybe"] = "many"
    suits: Callable[[Encoder], Any] = lambda encoder: None


PLOTS: dict[str, Plot] = {
    **{name: Plot(partial(draw_map, name)) for name in PROJECTIONS},
    "neighbours": Plot(draw_neighbours),
    "filters": Plot(draw_filters, data="none", suits=units.first_filters),
    "features": Plot(draw_feature_maps, data="few", suits=units.pick_layer),
    "patches": Plot(draw_patches, suits=units.pick_layer),
    **{name: Plot(partial(draw_explanation, name), suits=check_captum) for name in EXPLANATIONS},
    "guided": Plot(partial(draw_explanation, "guided"), suits=check_relu),
    "attention": Plot(draw_attention, data="few", suits=check_attention),
    "invariance": Plot(draw_invariance, data="few"),
    "ascent": Plot(draw_ascent, data="maybe"),
}
"""Every picture of an encoder that has a name: functions of a `Subject` and a `Theme`."""
