"""What units compute: filters, feature maps, the patches that excite them and the images that they answer to most."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.eval.features.sample import Sample
from ssl_toolkit.eval.pictures import explain, units
from ssl_toolkit.eval.pictures.ascent import ascend
from ssl_toolkit.eval.pictures.sheets import Heat, Scale, Tile, sheet
from ssl_toolkit.eval.pictures.subject import Subject
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme

PATCHES = 9  # of a unit
FILTERS, COMPONENTS = 64, 32  # shown
_BATCH = 64
_ACROSS = 8


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
        for row, one in enumerate(subject.data.shown(image))
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
        images = sample.shown(sample.views(encoder, [patch.image for patch in each]))
        rows.append([_cut(image, patch.box, shape, theme) for image, patch in zip(images, each, strict=True)])
    captions = [[f"{patch.value:.3g}" for patch in each] for each in patches.values()]
    picked = "" if subject.unit is not None else ", those whose strongest images stand out most"
    return sheet(
        rows, theme, row_names=[f"unit {unit}" for unit in wanted], captions=captions,
        note=f"layer {layer}: the patches that excite a unit most, of {len(found.value):,} images, one an image; "
        f"{len(wanted)} of {count} units{picked}",
    )  # fmt: skip


def _cut(
    image: NDArray[np.uint8], box: tuple[int, int, int, int], shape: tuple[int, int], theme: Theme
) -> NDArray[np.uint8]:
    """A part of an image; where it is cut short by the image's edge, what lies beyond is pale."""
    upper, lower, left, right = box
    whole = np.full((len(image), *shape), round(255 * np.mean(to_rgb(theme.faint))), dtype=np.uint8)
    down = shape[0] - (lower - upper) if upper == 0 else 0
    across = shape[1] - (right - left) if left == 0 else 0
    whole[:, down : down + lower - upper, across : across + right - left] = image[:, upper:lower, left:right]
    return whole


def _batches(sample: Sample, encoder: Encoder) -> Iterator[Tensor]:
    count = len(sample.features)
    for start in range(0, count, _BATCH):
        yield sample.views(encoder, range(start, min(start + _BATCH, count)))


def draw_ascent(subject: Subject, theme: Theme = LIGHT) -> Figure:
    """Images that units, or a probe's classes, answer to most."""
    encoder = subject.encoder
    size, channels = encoder.config.image_size, encoder.config.channels
    if subject.sample is not None and subject.layer is None and subject.unit is None:
        model = explain.ProbedEncoder(encoder, subject.probe.softmax)
        classes = subject.data.images.classes or []
        known = [int(label) for label in subject.probe.softmax.classes]
        wanted = [subject.column(subject.target)] if subject.target else list(range(min(subject.images, len(known))))
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
