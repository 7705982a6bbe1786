"""What speaks for a class that a linear probe names, by several explanations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.sample import one_a_class
from ssl_toolkit.eval.pictures import explain
from ssl_toolkit.eval.pictures.sheets import Heat, Scale, Tile, sheet
from ssl_toolkit.eval.pictures.subject import Subject
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme

Explain: TypeAlias = Callable[[explain.ProbedEncoder, Tensor, Tensor], Tensor]


def _occlusion(model: explain.ProbedEncoder, image: Tensor, target: Tensor) -> Tensor:
    patch = max(2, image.shape[-1] // 8 * 2)
    return explain.occlusion(model, image, target, model.encoder.mean, patch=patch, stride=max(1, patch // 2))


def _shapley(model: explain.ProbedEncoder, image: Tensor, target: Tensor) -> Tensor:
    grid = (min(8, image.shape[2]), min(8, image.shape[3]))
    return explain.shapley(model, image, target, model.encoder.mean, grid=grid)


EXPLANATIONS: dict[str, Explain] = {
    "occlusion": _occlusion,
    "saliency": explain.saliency,
    "guided": explain.guided_backprop,
    "smoothgrad": explain.smoothgrad,
    "shapley": _shapley,
}
"""Name to model, images (N, C, H, W) and classes (N,) to a number a position, (N, h, w)."""

SIGNED = ("occlusion", "shapley")
_TITLES = {"guided": "guided", "smoothgrad": "SmoothGrad", "shapley": "Shapley"}


def draw_explanation(name: str, subject: Subject, theme: Theme = LIGHT) -> Figure:
    """Images, and below each what speaks for the class that a linear probe names, or for the one that was asked for."""
    probe, sample = subject.probe, subject.data
    model = explain.ProbedEncoder(subject.encoder, probe.softmax)
    labels = sample.labels
    chosen = one_a_class([labels[row] for row in probe.held_out], subject.images)
    rows = [int(probe.held_out[place]) for place in chosen]
    image = sample.views(subject.encoder, rows)
    with torch.no_grad():
        share = model(image).softmax(dim=1)
    target = share.argmax(dim=1)
    if subject.target is not None:
        target = torch.full_like(target, subject.column(subject.target))
    value = EXPLANATIONS[name](model, image, target).numpy()
    signed = name in SIGNED
    heats: list[Tile] = []
    pictures = sample.shown(image)
    for one, each in zip(pictures, value, strict=True):
        # A few pixels with huge gradients would leave the rest dark (Smilkov et al. 2017, section 3.1).
        high = float(np.abs(each).max() if signed else np.quantile(each, 0.99)) or 1.0
        heats.append(Heat(each, one.shape[1:], -high if signed else 0, high, signed, one if signed else None))
    classes = sample.images.classes or []
    said = [classes[int(probe.softmax.classes[column])] for column in target.tolist()]
    sure = share.gather(1, target[:, None])[:, 0].tolist()
    scale = (
        Scale("against the class", "for it", signed=True)
        if signed
        else Scale("no change", "the picture's strongest pixels")
    )
    return sheet(
        [pictures, heats], theme, row_names=["image", _TITLES.get(name, name)], apart="row",
        captions=[[f"is {labels[row]}" for row in rows],
                  [f"{word}: {100 * p:.0f} %" for word, p in zip(said, sure, strict=True)]],
        scale=scale,
        note=f"A linear probe on {probe.train:,} images gives the class below each picture its share; it names "
        f"{100 * probe.top1:.0f} % of {len(probe.held_out):,} others right. Each picture has a scale of its own.",
    )  # fmt: skip


def check_captum(encoder: Encoder) -> None:
    """Say at once, and not after minutes, what is not installed.

    Raises:
        UsageError: Explanations need it.
    """
    explain.captum()


def check_relu(encoder: Encoder) -> None:
    """Refuse an encoder that guided backpropagation is not for.

    Raises:
        UsageError: It has no ReLU.
    """
    check_captum(encoder)
    if not explain.has_relu(encoder):
        raise UsageError(f"{encoder.config.name} has no ReLU, which guided backpropagation is for: plot smoothgrad")
