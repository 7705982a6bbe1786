"""The pictures on the page: views, the task, units, explanations, attention, neighbours and a map."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure

from ssl_toolkit.checkpoints import load_newest
from ssl_toolkit.data.depth import Pixels
from ssl_toolkit.data.image_set import ImageSet, read_some
from ssl_toolkit.data.shown import Look
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.features.sample import Sample, draw_from, one_a_class, shuffled
from ssl_toolkit.eval.pictures.attention import (
    HEADS,
    attention_figure,
    attention_maps,
    has_attention,
    reads_class_token,
)
from ssl_toolkit.eval.pictures.class_plots import draw_explanation
from ssl_toolkit.eval.pictures.maps import PROJECTIONS, map_figure
from ssl_toolkit.eval.pictures.pixels import tile
from ssl_toolkit.eval.pictures.plots import PLOTS
from ssl_toolkit.eval.pictures.png import picture_png
from ssl_toolkit.eval.pictures.sheets import sheet
from ssl_toolkit.eval.pictures.subject import Subject
from ssl_toolkit.eval.pictures.themes import EITHER, Theme
from ssl_toolkit.eval.pictures.unit_plots import draw_feature_maps, draw_filters
from ssl_toolkit.eval.pictures.views import views_figure, views_of
from ssl_toolkit.eval.report.parts import Part, attempt, chart_of, data_uri
from ssl_toolkit.eval.report.run_parts import Trained
from ssl_toolkit.eval.scores.knn import nearest, not_own
from ssl_toolkit.method import Method
from ssl_toolkit.methods import configured_method, configured_views, method_class
from ssl_toolkit.randomness import derive_seed
from ssl_toolkit.runs import RunFolder, flatten

QUERIES = NEIGHBOURS = 8
LOOKED_AT = 4  # images in the pictures of attention and of feature maps
EXPLAINED = TASK_IMAGES = 6
VIEW_TILES = 24  # images and their views together
TILE = 96  # px

T = TypeVar("T")


def images_of(config: dict[str, Any], encoder: Encoder, whole_clips: bool = False) -> ImageSet:
    """The images of a configuration."""
    return draw_from(
        config.get("data", ""), encoder, root=config.get("data_root"), labels=config.get("labels", "auto"),
        whole_clips=whole_clips,
    )  # fmt: skip


def _as_configured(make: Callable[[], T]) -> T:
    """What a damaged configuration cannot make is an error of the run."""
    try:
        return make()
    except (TypeError, KeyError) as error:
        raise ToolkitError(f"config.yaml does not fit the method: {error}") from error


def _some(config: dict[str, Any], trained: Trained, count: int, clips: bool = False) -> list[Pixels]:
    """Some of the images that were trained on, or clips."""
    images = images_of(config, trained.encoder, clips).few()
    read = read_some(images, shuffled(images)[: 4 * count], count, trained.encoder.config.load_size)
    if not read:
        raise ToolkitError(f"none of the images of '{images.word}' that were tried can be read")
    return read


def views_part(config: dict[str, Any], trained: Trained, channels: tuple[int, ...] = ()) -> dict[str, Any]:
    """Some of the images that were trained on, and views of them as the method makes them."""
    views = _as_configured(lambda: configured_views(config, trained.encoder.config.channels))
    read = _some(config, trained, min(8, max(3, VIEW_TILES // (len(views) + 1))))
    made = views_of(read, views, derive_seed(config.get("seed", 0), "report"))
    look, alt = Look.of(read, channels), f"{len(read)} images in the top row, {len(made)} views of each below"
    draw = partial(views_figure, [look(image) for image in read], [[look(view) for view in each] for each in made])
    return {"count": len(made), "chart": chart_of(draw, alt, [EITHER])}


def task_part(
    folder: RunFolder, config: dict[str, Any], trained: Trained | None, channels: tuple[int, ...] = ()
) -> dict[str, Any] | None:
    """The picture of the method's own task, on views of some images; None for methods without one.

    The newest checkpoint holds what the saved encoder leaves out: the heads.
    """
    found = None if trained is None else method_class(flatten(config)["method.name"])
    if trained is None or found is None or found.task_picture is Method.task_picture:
        return None
    read = _some(config, trained, TASK_IMAGES, clips=found.takes_clips)
    encoder = copy.deepcopy(trained.encoder)
    method = _as_configured(lambda: configured_method(config, encoder, len(read[0]))).eval()
    if not load_newest(method, folder.checkpoints):
        raise ToolkitError("the run has no checkpoint, which holds the head that solves the task")
    made = views_of(read, method.views, derive_seed(config.get("seed", 0), "report"))
    with torch.no_grad():
        picture = method.task_picture([torch.from_numpy(view) for view in made])
    assert picture is not None
    look = Look.of(read, channels)
    rows = {name: [look(image) if len(image) == len(read[0]) else image for image in images.numpy()]
            for name, images in picture.rows.items()}  # fmt: skip
    draw = partial(_task_figure, rows, picture.captions)
    return {"about": picture.about, "chart": chart_of(draw, picture.about, [EITHER])}


def _task_figure(rows: Mapping[str, list[Pixels]], captions: Mapping[str, list[str]], theme: Theme) -> Figure:
    return sheet(list(rows.values()), theme, row_names=list(rows), captions=[captions.get(name, []) for name in rows])


def units_part(trained: Trained, sample: Sample) -> dict[str, Any]:
    """First-layer filters and feature maps, as far as the encoder has them."""
    subject = Subject(trained.encoder, sample, images=LOOKED_AT)

    def picture(draw: Callable[..., Figure], alt: str) -> Part[dict[str, Any]]:
        return attempt(lambda: chart_of(partial(draw, subject), alt, [EITHER]))

    filters = picture(draw_filters, "filters of the first layer")
    maps = picture(draw_feature_maps, "images at the left, feature maps to the right of each")
    if filters.content is None and maps.content is None:
        raise ToolkitError(filters.missing)
    return {"filters": filters, "maps": maps}


def explained_part(
    trained: Trained | None, part: Part[Sample], results: dict[str, Any] | None
) -> dict[str, Any] | None:
    """What speaks for a linear probe's class, where scores say that there are labels; else None."""
    if trained is None or results is None or part.content is None or part.content.images.classes is None:
        return None
    subject = Subject(trained.encoder, part.content, images=EXPLAINED)
    alt = f"{EXPLAINED} images in the top row, what speaks for the class below"
    return {"chart": chart_of(partial(draw_explanation, "occlusion", subject), alt, [EITHER])}


def more_part(names: Sequence[str], trained: Trained, sample: Sample) -> list[tuple[str, Part[dict[str, Any]]]]:
    """Pictures that were asked for, each by its name."""
    subject = Subject(trained.encoder, sample, images=EXPLAINED)

    def picture(name: str) -> dict[str, Any]:
        PLOTS[name].suits(trained.encoder)
        return chart_of(partial(PLOTS[name].draw, subject), name, [EITHER])

    return [(name, attempt(partial(picture, name))) for name in names]


def attention_part(part: Part[Sample], trained: Trained | None) -> dict[str, Any] | None:
    """Where a vision transformer looks in some of the images, one a class as far as they go; None for others."""
    if trained is None or not has_attention(trained.encoder):
        return None
    sample, encoder = part.needed(), trained.encoder
    rows = one_a_class(sample.labels, LOOKED_AT)
    image = sample.views(encoder, rows)
    maps = attention_maps(encoder, image).numpy()
    draw = partial(attention_figure, sample.shown(image), maps)
    alt = f"{len(rows)} images at the left, maps of attention to the right of each"
    return {
        "chart": chart_of(draw, alt, [EITHER]),
        "class_token": reads_class_token(encoder),
        "heads": maps.shape[1],
        "shown": HEADS,
        "data": sample.images.word,
    }


def neighbours_part(sample: Sample) -> dict[str, Any]:
    """Queries, one a class as far as they go, and the nearest of the other images."""
    x, labels = sample.features.x, sample.labels
    queries = one_a_class(labels, QUERIES)
    k = min(NEIGHBOURS, len(x) - 1)
    if not k:
        raise ToolkitError("there is one image only: it has no neighbours")
    similarity, position = nearest(x, x, k + 1)
    keep = not_own(position, np.arange(len(x)))
    near, scores = position[keep].reshape(len(x), k).tolist(), similarity[keep].reshape(len(x), k).tolist()
    pictures = sample.pictures(TILE)
    rows = []
    for query in queries:
        hits = [
            {
                "picture": data_uri(picture_png(tile(pictures[place], TILE))),
                "label": labels[place],
                "score": f"{score:.2f}",
                "right": None if labels[query] is None else labels[place] == labels[query],
            }
            for place, score in zip(near[query], scores[query], strict=True)
        ]
        name = labels[query] or os.path.basename(sample.images.path(int(sample.features.index[query])))
        picture = data_uri(picture_png(tile(pictures[query], TILE)))
        rows.append({"picture": picture, "name": name, "hits": hits})
    right = [labels[place] == labels[row] for row, places in enumerate(near) if labels[row] for place in places]
    return {
        "rows": rows,
        "k": k,
        "count": len(x),
        "data": sample.images.word,
        "share": f"{100 * sum(right) / len(right):.0f}" if right else None,
    }


def map_part(sample: Sample, name: str) -> dict[str, Any]:
    """The sample in two dimensions, by a key of `PROJECTIONS`: as dots and as images."""
    projection, label, classes = PROJECTIONS[name](sample.features.x), sample.features.label, sample.images.classes
    draw = partial(map_figure, projection, label, classes)
    return {
        "count": len(label),
        "data": sample.images.word,
        "labelled": classes is not None,
        "name": name,
        "dots": chart_of(partial(draw, None), "map with a dot an image"),
        "pictures": chart_of(partial(draw, sample.pictures(48)), "map with images"),
    }
