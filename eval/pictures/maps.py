"""Maps: features in two dimensions, by PCA, t-SNE or UMAP, as dots or with images in their places."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.errors import UsageError, missing_extra
from ssl_toolkit.eval.pictures.charts import DPI
from ssl_toolkit.eval.pictures.marks import NAMED_CLASSES, PALETTE, mark
from ssl_toolkit.eval.pictures.pixels import tile
from ssl_toolkit.eval.pictures.themes import LIGHT, Theme
from ssl_toolkit.eval.pictures.words import shown

_MAP = (5.2, 4.9)  # inches


class Pictures(Protocol):
    """Images by number: a list, or something that reads them when they are looked at."""

    def __getitem__(self, row: int, /) -> Pixels:
        """Image `row`, (C, H, W)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """Features in two dimensions.

    Attributes:
        points: (N, 2) float64.
        axes: What the two axes are, in words; empty where they mean nothing by themselves.
    """

    points: NDArray[np.float64]
    axes: tuple[str, str] = ("", "")


def principal_components(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """The two directions in which features differ most.

    Features are brought to length one first, as cosine search compares them. Signs are fixed: the largest value along
    each direction is positive.

    Args:
        features: (N, D), N at least 1.

    Returns:
        Coordinates (N, 2), and the share of the variance along each of the two, in [0, 1].
    """
    points, share = _components(features, 2)
    return points, (float(share[0]), float(share[1]))


def pca(features: NDArray[np.float32]) -> Projection:
    """Features (N, D) along their first two principal components; see `principal_components`."""
    points, share = principal_components(features)
    names = (f"first component, {100 * share[0]:.0f} % of the variance", f"second component, {100 * share[1]:.0f} %")
    return Projection(points, names)


def tsne(features: NDArray[np.float32], seed: int = 0) -> Projection:
    """t-SNE of unit vectors, by scikit-learn: begins at the first two principal components, perplexity 30 or N / 4.

    Args:
        features: (N, D), N at least 4; beyond 50 dimensions their first 50 principal components are taken.
        seed: Equal seeds give equal maps.

    Raises:
        UsageError: There are fewer than four images.

    Source: van der Maaten and Hinton 2008; the start, Kobak and Berens 2019.
    """
    x = _reduced(features, "t-SNE")
    if not x.any():
        return Projection(np.zeros((len(x), 2)))
    from sklearn.manifold import TSNE

    fit = TSNE(2, init="pca", perplexity=min(30.0, len(x) / 4), random_state=seed, n_jobs=1)
    return Projection(fit.fit_transform(x).astype(np.float64))


def umap(features: NDArray[np.float32], seed: int = 0) -> Projection:
    """UMAP of unit vectors, by umap-learn (extra ``umap``): 15 neighbours, begins at the first principal components.

    Args:
        features: (N, D), N at least 4; beyond 50 dimensions their first 50 principal components are taken.
        seed: Equal seeds give equal maps.

    Raises:
        UsageError: There are fewer than four images, or umap-learn is not installed.

    Source: McInnes, Healy and Melville 2018.
    """
    x = _reduced(features, "UMAP")
    if not x.any():
        return Projection(np.zeros((len(x), 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba, on its way through
        try:
            from umap import UMAP
        except ImportError as error:
            raise missing_extra("the UMAP map", "umap") from error
        fit = UMAP(n_components=2, n_neighbors=min(15, len(x) - 1), init="pca", random_state=seed, n_jobs=1)
        return Projection(np.asarray(fit.fit_transform(x), dtype=np.float64))


PROJECTIONS: dict[str, Callable[[NDArray[np.float32]], Projection]] = {"pca": pca, "tsne": tsne, "umap": umap}


def _components(features: NDArray[np.float32], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (N, count) along the first principal components of unit vectors, and the share of each, (count,)."""
    x = features.astype(np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x -= x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    k = min(count, len(s))
    points, share = np.zeros((len(x), count)), np.zeros(count)
    points[:, :k] = u[:, :k] * s[:k]
    share[:k] = s[:k] ** 2 / max(float((s**2).sum()), 1e-12)
    largest = points[np.abs(points).argmax(axis=0), np.arange(count)]
    return points * np.where(largest < 0, -1, 1), share


def _reduced(features: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """What t-SNE and UMAP are given: (N, 50) or fewer, all 0 where all features are alike."""
    if len(features) < 4:
        raise UsageError(f"a {name} map needs four images, got {len(features)}: give more, or draw the pca map")
    x, _ = _components(features, max(2, min(50, features.shape[1])))
    return x.astype(np.float32) if np.abs(x).max() > 1e-6 else np.zeros_like(x, dtype=np.float32)


def map_figure(
    projection: Projection,
    labels: NDArray[np.int64] | None,
    classes: Sequence[str] | None,
    images: Pictures | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Features in two dimensions, coloured by class.

    Classes differ in colour and, beyond five, in marker. The first twenty have their own, the others share a grey.

    Args:
        projection: Of N features.
        labels: (N,) int64, -1 where there is none; None for all of them.
        classes: Names of the labels.
        images: N images (C, H, W): as many as find room are drawn in their places, the first ones first; only these
            are looked at.
        theme: Colours.
    """
    points = projection.points
    labels = np.full(len(points), -1, dtype=np.int64) if labels is None else labels
    style = _class_styles(labels, classes, theme)
    columns = 5 if max(len(name) for _, _, name, _ in style) <= 10 else 3
    lines = -(-len(style) // columns) if classes is not None else 0
    inches = (_MAP[0], _MAP[1] + 0.17 * max(0, lines - 3))
    figure = Figure(figsize=inches, dpi=DPI, facecolor=theme.background, layout="constrained")
    axes = figure.add_subplot(facecolor=theme.background)
    axes.spines[:].set_color(theme.faint)
    axes.set(xticks=(), yticks=())
    alpha = 0.8 if images is None else 0.25
    for colour, marker, _, rows in style:
        axes.scatter(points[rows, 0], points[rows, 1], s=18, color=colour, marker=marker, lw=0, alpha=alpha)
    axes.margins(0.05)
    axes.set_xlabel(projection.axes[0], color=theme.muted, fontsize=8)
    axes.set_ylabel(projection.axes[1], color=theme.muted, fontsize=8)
    if images is not None:
        marks = [(theme.muted, "")] * len(points)
        for colour, marker, _, rows in style:
            for row in np.flatnonzero(rows):
                marks[row] = (colour, marker if colour in PALETTE else "")
        _thumbnails(axes, points, images, marks, theme)
    if classes is not None and any(rows.any() for *_, rows in style):
        _legend(figure, style, columns, theme)
    return figure


_Style: TypeAlias = tuple[str, str, str, NDArray[np.bool_]]  # colour, marker, name, rows


def _class_styles(labels: NDArray[np.int64], classes: Sequence[str] | None, theme: Theme) -> list[_Style]:
    present = [int(label) for label in np.unique(labels) if label >= 0]
    own, rest = present[:NAMED_CLASSES], present[NAMED_CLASSES:]
    styles: list[_Style] = []
    others = labels < 0
    if others.any():
        styles.append((theme.muted if present else theme.accent, "o", "no label", others))
    if rest:
        styles.append((theme.muted, "o", f"{len(rest)} other classes", np.isin(labels, rest)))
    for place, label in enumerate(own):
        name = str(label) if classes is None else classes[label]
        styles.append((*mark(place), name, labels == label))
    return styles


def _legend(figure: Figure, styles: Sequence[_Style], columns: int, theme: Theme) -> None:
    handles = [Line2D([], [], color=colour, marker=marker, lw=0, ms=5) for colour, marker, _, _ in styles]
    legend = figure.legend(
        handles, ["x"] * len(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=8,
        labelcolor=theme.ink, handletextpad=0.1, columnspacing=1.4, borderpad=0,
    )  # fmt: skip
    # Set afterwards: in labels, matplotlib takes `$` for mathematics and drops names with a leading underscore.
    for text, (_, _, name, _) in zip(legend.get_texts(), styles, strict=True):
        text.set_parse_math(False)
        text.set_text(shown(name, 20))


def _thumbnails(
    axes: Axes,
    points: NDArray[np.float64],
    images: Pictures,
    marks: Sequence[tuple[str, str]],
    theme: Theme,
    across: int = 18,
) -> None:
    """Draw images at their points where they overlap no earlier one; around each a frame in the colour of its class.

    In the frame's corner stands the class's marker, for those who cannot tell its colour.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width = (right - left) / across
    height = (top - bottom) / across * 1.15 * _MAP[0] / _MAP[1]  # the legend takes some of the figure's height
    axes.set(xlim=(left - width / 2, right + width / 2), ylim=(bottom - height / 2, top + height / 2))
    placed: list[tuple[float, float]] = []
    for row, ((x, y), (colour, marker)) in enumerate(zip(points, marks, strict=True)):
        if any(abs(x - a) < 1.06 * width and abs(y - b) < 1.06 * height for a, b in placed):
            continue
        placed.append((x, y))
        box = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
        axes.imshow(tile(images[row], 48), extent=box, aspect="auto", interpolation="antialiased", zorder=3)
        axes.plot(
            (box[0], box[1], box[1], box[0], box[0]), (box[2], box[2], box[3], box[3], box[2]), color=colour, lw=1.4,
            zorder=4, solid_joinstyle="miter", scalex=False, scaley=False,
        )  # fmt: skip
        if marker:
            axes.plot(
                box[0], box[3], color=colour, marker=marker, ms=5.5, mec=theme.background, mew=0.6, zorder=5,
                scalex=False, scaley=False,
            )  # fmt: skip
