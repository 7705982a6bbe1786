"""The pictures of an encoder by name, as ``ssl-toolkit plot`` and the report draw them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features.extraction import Features, stratified_split
from ssl_toolkit.eval.features.sample import Sample, one_a_class
from ssl_toolkit.eval.pictures import explain, units
from ssl_toolkit.eval.pictures.ascent import ascend
from ssl_toolkit.eval.pictures.attention import attention_maps, check_attention
from ssl_toolkit.eval.pictures.maps import PROJECTIONS, map_figure
from ssl_toolkit.eval.pictures.neighbours import neighbours_figure
from ssl_toolkit.eval.pictures.visualize import LIGHT, Heat, Pixels, Scale, Theme, attention_figure, sheet, tile
from ssl_toolkit.eval.scores.knn import nearest, not_own
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.linear_probe import fit_softmax, linear_probe

Tile: TypeAlias = Pixels | Heat | None

PATCHES = 9  # of a unit
FILTERS, COMPONENTS = 64, 32  # shown
NEIGHBOURS = 8
_BATCH = 64
_ACROSS = 8


@dataclasses.dataclass(frozen=True)
class Subject:
    """An encoder and what its pictures are to be of.

    Attributes:
        encoder: On the CPU.
        sample: Images and their features; None where none were given.
        images: How many images, units or classes are shown.
        layer: Of the units, a name of `units.map_layers`; None picks one, see `units.pick_layer`.
        unit: The only unit to show; None picks some.
        target: Name of the class to explain; None takes what the probe names.
        seed: Of all draws.
    """

    encoder: Encoder
    sample: Sample | None = None
    images: int = 8
    layer: str | None = None
    unit: int | None = None
    target: str | None = None
    seed: int = 0

    @property
    def data(self) -> Sample:
        """The images; only asked for by plots that need them."""
        assert self.sample is not None
        return self.sample

    @cached_property
    def probe(self) -> Probe:
        """Fitted once."""
        return Probe.fit(self.data, self.seed)

    @cached_property
    def rows(self) -> list[int]:
        """The images that are shown, one a class as far as they go."""
        return one_a_class(self.data.labels, self.images)

    def units_of(self, found: int) -> list[int] | None:
        """The unit that was asked for, of `found`; None if none was.

        Raises:
            UsageError: There is no such unit.
        """
        if self.unit is None:
            return None
        if not 0 <= self.unit < found:
            raise UsageError(f"--unit is {self.unit}: the layer has units 0 to {found - 1}")
        return [self.unit]


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear probe on four fifths of a sample, and how it does on the rest.

    Attributes:
        softmax: The probe.
        train: How many images it was fitted on.
        held_out: Rows of the sample that it has not seen.
        top1: Share of them that it names right, in [0, 1].
    """

    softmax: LinearClassifier
    train: int
    held_out: NDArray[np.int64]
    top1: float

    @classmethod
    def fit(cls, sample: Sample, seed: int = 0) -> Probe:
        """Fit on the labelled images of a sample.

        Raises:
            UsageError: There are none, or all are of one class.
        """
        labelled = np.flatnonzero(sample.features.label >= 0)
        if sample.images.classes is None or len(np.unique(sample.features.label[labelled])) < 2:
            raise UsageError(
                f"--data '{sample.images.word}' has no labels of two classes: a probe whose classes are explained "
                "needs them"
            )
        features: Features = sample.features.select(labelled)
        fitted, held = stratified_split(features.label, 0.2, seed)
        train, test = features.select(fitted), features.select(held)
        scored = linear_probe(train, test, seed=seed)
        return cls(fit_softmax(train, scored["l2"]), len(train), labelled[held], scored["top1"])


# --- maps and neighbours ---------------------------------------------------------------------------------------------


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


# --- what units compute ----------------------------------------------------------------------------------------------


def draw_filters(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """First-layer filters on one scale, grey for 0; of a patch embedding, its principal components."""
    filters = units.first_filters(subject.encoder)
    count, (height, width) = len(filters), filters.shape[2:]
    shown = filters[:FILTERS]
    which = f"all {count} filters" if count <= FILTERS else f"the {FILTERS} largest of {count} filters"
    note = f"{which} of {height} x {width} pixels"
    if units.has_patch_embedding(subject.encoder):
        shown = units.filter_components(filters)[:COMPONENTS]
        note = f"the first {len(shown)} principal components of {count} filters of {height} x {width} pixels"
    pictures: list[Tile] = list(0.5 + 0.5 * shown / max(float(np.abs(shown).max()), 1e-12))
    across = 16 if len(pictures) > 32 else 8
    rows = [pictures[start : start + across] for start in range(0, len(pictures), across)]
    return sheet(rows, theme, side=0.6, note=f"{note}; grey is 0")


def draw_feature_maps(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """Images at the left, and what units of a layer answer at each position."""
    encoder = subject.encoder
    layer, count = units.pick_layer(encoder, subject.layer)
    wanted = subject.units_of(count)
    image = subject.data.views(encoder, subject.rows)
    with torch.no_grad():
        maps = units.feature_maps(encoder, layer, image).float().numpy()
    if wanted is None:  # those that tell positions and images apart
        wanted = np.sort(np.argsort(-maps.std(axis=(0, 2, 3)), kind="stable")[:8]).tolist()
    low, high = maps.min(axis=(0, 2, 3)), maps.max(axis=(0, 2, 3))
    rows: list[list[Tile]] = [
        [one, *(Heat(maps[row, unit], one.shape[1:], low[unit], high[unit]) for unit in wanted)]
        for row, one in enumerate(image.numpy())
    ]
    return sheet(
        rows, theme, column_names=["image", *(f"unit {unit}" for unit in wanted)], apart="column",
        scale=Scale("the unit's smallest value", "its largest"),
        note=f"layer {layer}: {len(wanted)} of {count} units{'' if len(wanted) == 1 else ', those that vary most'}",
    )  # fmt: skip


def draw_patches(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """A row a unit: the patches of the sample's images that excite it most."""
    encoder, sample = subject.encoder, subject.data
    layer, count = units.pick_layer(encoder, subject.layer)
    wanted = subject.units_of(count)
    found = units.peaks(encoder, layer, _batches(sample, encoder))
    top = min(PATCHES, len(found.value))
    wanted = found.choosiest(subject.images, top) if wanted is None else wanted
    patches = {unit: units.exciting_patches(encoder, found, unit, top) for unit in wanted}
    boxes = [patch.box for each in patches.values() for patch in each]
    shape = (max(lower - upper for upper, lower, *_ in boxes), max(right - left for *_, left, right in boxes))
    rows: list[list[Tile]] = []
    for each in patches.values():
        images = sample.views(encoder, [patch.image for patch in each]).numpy()
        rows.append([_cut(image, patch.box, shape, theme) for image, patch in zip(images, each, strict=True)])
    captions = [[f"{patch.value:.3g}" for patch in each] for each in patches.values()]
    picked = "" if subject.unit is not None else ", those whose strongest images stand out most"
    return sheet(
        rows, theme, row_names=[f"unit {unit}" for unit in wanted], captions=captions,
        note=f"layer {layer}: the patches that excite a unit most, of {len(found.value):,} images, one an image; "
        f"{len(wanted)} of {count} units{picked}",
    )  # fmt: skip


def _cut(
    image: NDArray[np.float32], box: tuple[int, int, int, int], shape: tuple[int, int], theme: Theme
) -> NDArray[np.float32]:
    """A part of an image; where it is cut short by the image's edge, what lies beyond is pale."""
    upper, lower, left, right = box
    whole = np.full((len(image), *shape), np.mean(to_rgb(theme.faint)), dtype=np.float32)
    down = shape[0] - (lower - upper) if upper == 0 else 0
    across = shape[1] - (right - left) if left == 0 else 0
    whole[:, down : down + lower - upper, across : across + right - left] = image[:, upper:lower, left:right]
    return whole


def draw_attention(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """Where the heads of the last block look."""
    image = subject.data.views(subject.encoder, subject.rows)
    return attention_figure(list(image.numpy()), attention_maps(subject.encoder, image).numpy(), theme)


def draw_ascent(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """Images that units, or a probe's classes, answer to most."""
    encoder = subject.encoder
    size, channels = encoder.config.image_size, encoder.config.channels
    if subject.sample is not None and subject.layer is None and subject.unit is None:
        model = explain.ProbedEncoder(encoder, subject.probe.softmax)
        classes = subject.data.images.classes or []
        known = [int(label) for label in subject.probe.softmax.classes]
        wanted = [_column(subject, subject.target)] if subject.target else list(range(min(subject.images, len(known))))
        names = [classes[known[column]] for column in wanted]
        what = "classes of a linear probe"

        answers: Callable[[Tensor], Tensor] = model
    else:
        layer, count = units.pick_layer(encoder, subject.layer)
        wanted = subject.units_of(count) or list(range(min(subject.images, count)))
        names, what = [f"unit {unit}" for unit in wanted], f"units of layer {layer}, averaged over the positions"

        def answers(image: Tensor) -> Tensor:
            return units.feature_maps(encoder, layer, image).mean(dim=(2, 3))

    pick = torch.tensor(wanted)[:, None]
    image, value = ascend(
        lambda x: answers(x).gather(1, pick)[:, 0], (len(wanted), channels, size, size), seed=subject.seed
    )
    pictures: list[Tile] = list(image.numpy())
    captions = [f"{name}: {end:.2g}" for name, end in zip(names, value[1].tolist(), strict=True)]
    starts = range(0, len(pictures), _ACROSS)
    return sheet(
        [pictures[start : start + _ACROSS] for start in starts], theme,
        captions=[captions[start : start + _ACROSS] for start in starts],
        note=f"gradient ascent from noise on {what}: their answers, {value[0].mean():.2g} on average at the start",
    )  # fmt: skip


# --- what speaks for a class -----------------------------------------------------------------------------------------

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
        target = torch.full_like(target, _column(subject, subject.target))
    value = EXPLANATIONS[name](model, image, target).numpy()
    signed = name in SIGNED
    heats: list[Tile] = []
    for one, each in zip(image.numpy(), value, strict=True):
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
        [list(image.numpy()), heats], theme, row_names=["image", _TITLES.get(name, name)], apart="row",
        captions=[[f"is {labels[row]}" for row in rows],
                  [f"{word}: {100 * p:.0f} %" for word, p in zip(said, sure, strict=True)]],
        scale=scale,
        note=f"A linear probe on {probe.train:,} images gives the class below each picture its share; it names "
        f"{100 * probe.top1:.0f} % of {len(probe.held_out):,} others right. Each picture has a scale of its own.",
    )  # fmt: skip


def _column(subject: Subject, target: str) -> int:
    """The probe's column of a class.

    Raises:
        UsageError: It knows no such class.
    """
    classes = subject.data.images.classes or []
    known = [classes[int(label)] for label in subject.probe.softmax.classes]
    if target not in known:
        raise unknown_name(f"class of '{subject.data.images.word}'", target, known)
    return known.index(target)


# --- all of them -----------------------------------------------------------------------------------------------------


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
    "ascent": Plot(draw_ascent, data="maybe"),
}
"""Every picture of an encoder that has a name: functions of a `Subject` and a `Theme`."""


def _batches(sample: Sample, encoder: Encoder) -> Iterator[Tensor]:
    count = len(sample.features)
    for start in range(0, count, _BATCH):
        yield sample.views(encoder, range(start, min(start + _BATCH, count)))
