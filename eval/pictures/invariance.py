"""How far features move as an image is changed more and more: curves of the cosine between both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from kornia.enhance import adjust_hue, adjust_saturation
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.eval.features.corruptions import SEVERITIES, corrupt, moved
from ssl_toolkit.eval.features.extraction import evaluating
from ssl_toolkit.eval.pictures.subject import Subject
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme

ACROSS = 4  # panels
IMAGES = 32


class Change(NamedTuple):
    """A change of images that may be weak or strong.

    Attributes:
        apply: Images in [0, 1] (N, C, H, W) and a strength, to changed ones.
        strengths: Those that are tried, the one that changes nothing first.
        unit: Of the strengths, in words.
        channels: Those that images have to have; None: any.
    """

    apply: Callable[[Tensor, float], Tensor]
    strengths: tuple[float, ...]
    unit: str
    channels: tuple[int, ...] | None = None


def _spoilt(name: str, image: Tensor, severity: float) -> Tensor:
    return corrupt(image, name, int(severity)) if severity else image


CHANGES = {
    "rotation": Change(lambda x, degrees: moved(x, degrees=degrees), (0, 10, 20, 45, 90, 135, 180), "degrees"),
    "zoom": Change(lambda x, zoom: moved(x, zoom=zoom), (1, 1.2, 1.5, 2, 3, 4), "times"),
    "translation": Change(lambda x, aside: moved(x, aside=aside), (0, 0.05, 0.1, 0.2, 0.3, 0.4), "widths"),
    "hue": Change(lambda x, turns: adjust_hue(x, 2 * np.pi * turns), (0, 0.05, 0.1, 0.2, 0.35, 0.5), "turns", (3,)),
    "saturation": Change(adjust_saturation, (1, 0.8, 0.6, 0.4, 0.2, 0), "times", (3,)),
    **{
        name.replace("_", " "): Change(partial(_spoilt, name), (0, *SEVERITIES), "severity", (1, 3))
        for name in ("brightness", "contrast", "defocus_blur", "gaussian_noise", "pixelate", "jpeg", "fog")
    },
}
"""Changes by name, one panel each."""


@torch.no_grad()
def invariance(encoder: Encoder, image: Tensor) -> dict[str, NDArray[np.float32]]:
    """Cosine between the features of images and of the same images changed.

    Args:
        encoder: On the images' device.
        image: (N, C, H, W) in [0, 1].

    Returns:
        By name of `CHANGES` (strengths, N), 1 where nothing is changed. What needs other channels is left out.
    """
    with evaluating(encoder):
        plain = F.normalize(encoder(image), dim=1)
        return {
            name: torch.stack(
                [
                    (F.normalize(encoder(change.apply(image, float(s))), dim=1) * plain).sum(dim=1)
                    for s in change.strengths
                ]
            )
            .cpu()
            .numpy()
            for name, change in CHANGES.items()
            if change.channels is None or image.shape[1] in change.channels
        }


def invariance_figure(
    curves: Mapping[str, NDArray[np.float32]], others: float, theme: Theme = LIGHT, note: str = ""
) -> Figure:
    """A panel a change: the median cosine over the images, from a quarter of them to three quarters in faint.

    Args:
        curves: From `invariance`.
        others: Mean cosine between different images, drawn as a line: what is as low has become another image.
        theme: Colours.
        note: A sentence at the foot.
    """
    down = -(-len(curves) // ACROSS)
    figure = Figure(figsize=(2.6 * ACROSS, 2.0 * down + 0.3), dpi=100, facecolor=theme.background)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    panels = figure.subplots(down, ACROSS, squeeze=False, sharey=True).flat
    low = min(others, *(float(np.quantile(each, 0.25, axis=1).min()) for each in curves.values()))
    for axes, (name, cosine) in zip(panels, curves.items(), strict=False):
        strengths, place = CHANGES[name].strengths, range(len(CHANGES[name].strengths))
        quarter, middle, three = np.quantile(cosine, (0.25, 0.5, 0.75), axis=1)
        axes.fill_between(place, quarter, three, color=theme.accent, alpha=0.2, lw=0)
        axes.plot(place, middle, color=theme.accent, lw=1.8, marker="o", ms=3)
        axes.axhline(others, color=theme.muted, lw=1, ls=(0, (2, 2)))
        axes.set_xticks(place, [f"{strength:g}" for strength in strengths])
        axes.set_title(name, color=theme.ink, fontsize=9, fontweight="bold", loc="left")
        axes.set_xlabel(CHANGES[name].unit, color=theme.muted, fontsize=8, labelpad=1)
        axes.set_ylim(low - 0.05, 1.02)
        axes.set_facecolor(theme.background)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(theme.muted)
        axes.tick_params(color=theme.muted, labelcolor=theme.muted, labelsize=7.5)
    for axes in list(figure.axes)[len(curves) :]:
        axes.set_visible(False)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", color=theme.muted, fontsize=8)
    return figure


def draw_invariance(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """Curves of up to 32 images of a subject's sample."""
    count = min(IMAGES, len(subject.data.features))
    image = subject.data.views(subject.encoder, range(count))
    with torch.no_grad(), evaluating(subject.encoder):
        unit = F.normalize(subject.encoder(image), dim=1)
    others = float((unit @ unit.T)[~torch.eye(count, dtype=torch.bool)].mean())
    note = (
        f"Cosine between the features of an image and of the same image changed: median and middle half of {count} "
        "images. The broken line is the mean between different images."
    )
    return invariance_figure(invariance(subject.encoder, image), others, theme, note)
