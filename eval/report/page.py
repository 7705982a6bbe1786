"""The report: a run folder as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import copy
import csv
import dataclasses
import json
import math
import os
import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import jinja2
import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssl_toolkit.checkpoints import load_newest
from ssl_toolkit.data.image_set import ImageSet, read_some
from ssl_toolkit.encoders import Encoder, encoder_metadata, load_encoder
from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name
from ssl_toolkit.eval.features.sample import Sample, draw_from, one_a_class, shuffled
from ssl_toolkit.eval.health import doctor
from ssl_toolkit.eval.pictures import visualize
from ssl_toolkit.eval.pictures.attention import attention_maps, has_attention, reads_class_token
from ssl_toolkit.eval.pictures.maps import PROJECTIONS, map_figure
from ssl_toolkit.eval.pictures.plots import PLOTS, Subject, draw_explanation, draw_feature_maps, draw_filters
from ssl_toolkit.eval.report.compare import read_results, sets_of
from ssl_toolkit.eval.scores.knn import nearest, not_own
from ssl_toolkit.eval.scores.metrics import in_percent
from ssl_toolkit.files import write_atomic
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.method import Method
from ssl_toolkit.methods import configured_method, configured_views, method_class
from ssl_toolkit.randomness import derive_seed
from ssl_toolkit.runs import RunFolder, available_cores, flatten

QUERIES = NEIGHBOURS = 8
LOOKED_AT = 4  # images in the pictures of attention and of feature maps
EXPLAINED = TASK_IMAGES = 6
VIEW_TILES = 24  # images and their views together
BAD_SHOWN = 5
TILE = 96  # px
LIBRARIES = ("ssl-toolkit", "torch", "torchvision", "pytorch-lightning", "kornia", "timm", "faiss-cpu", "numpy")

T = TypeVar("T")


def make_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    data_root: str | None = None,
    images: int = 1000,
    projection: str = "pca",
    pictures: Sequence[str] = (),
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = False,
) -> Path:
    """Write what a run folder holds as one HTML page, without scripts and with nothing from outside.

    What is missing (scores, an encoder, data that has been moved) is named in its place. The pictures show the images
    that the scores were taken on, or those that were trained on while there are no scores.

    Args:
        run: The run folder.
        out: The page; ``report.html`` in the run folder by default.
        data_root: Folder of torchvision's data sets; the run's own by default.
        images: How many images, drawn at random, are encoded for the map and the neighbours; at least 2.
        projection: The map: a key of `ssl_toolkit.eval.pictures.maps.PROJECTIONS`.
        pictures: More pictures, which take longer: keys of `ssl_toolkit.eval.pictures.plots.PLOTS`.
        device: Where they are encoded.
        workers: Processes that read them.
        progress: Shows a progress bar.

    Returns:
        The page's path.

    Raises:
        UsageError: `run` is no run folder, there is no such picture, or the page cannot be written.
        ToolkitError: The run's configuration is damaged.
    """
    for name in pictures:
        if name not in PLOTS:
            raise unknown_name("picture", name, PLOTS)
    folder = RunFolder(run)
    stored = _config(folder)
    config = stored if data_root is None else stored | {"data_root": data_root}
    encoder = _attempt(lambda: _Trained.load(folder))
    results = _attempt(lambda: read_results(folder))

    def take() -> Sample:
        scored = results.content
        of = config
        if scored is not None:
            first = next(iter(sets_of(scored).values()))
            of = config | {"data": first["protocol"]["test"]["data"], "labels": "auto"}
        trained = encoder.needed().encoder
        drawn = _drawn(of, trained)
        return Sample.take(trained, drawn, images, device=device, workers=workers, progress=progress)

    sample = _attempt(take)
    parts = {
        "facts": lambda: _facts(config, encoder.content),
        "scores": lambda: _scores(results.needed(), encoder.content),
        "training": lambda: _training(folder, config),
        "doctor": lambda: _doctor(folder, sample),
        "views": lambda: _views(config, encoder.needed()),
        "attention": lambda: _attention(sample, encoder.content),
        "task": lambda: _task(folder, config, encoder.content),
        "units": lambda: _units(encoder.needed(), sample.needed()),
        "explained": lambda: _explained(encoder.content, sample, results.content),
        "more": lambda: _more(pictures, encoder.needed(), sample.needed()) if pictures else [],
        "neighbours": lambda: _neighbours(sample.needed()),
        "map": lambda: _map(sample.needed(), projection),
        "bad": lambda: _bad_images(folder, results.content),
        "commands": lambda: _commands(folder, results.content),
        "versions": lambda: _versions(encoder.content),
    }
    page = _template().render(
        {name: _attempt(make) for name, make in parts.items()},
        run=folder.path,
        method=encoder.content.method if encoder.content else flatten(config).get("method.name", "a method"),
        data=config.get("data", "unknown images"),
        config=yaml.safe_dump(stored, sort_keys=False).splitlines(),
        machine=_machine(),
        date=time.strftime("%Y-%m-%d"),
        light=visualize.LIGHT,
        dark=visualize.DARK,
    )
    target = folder.report_file if out is None else Path(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the report {target} cannot be written: {error.strerror}") from error
    return target


def verdict(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """One sentence: how often the trained encoder names the class, and how many points that is beyond the baselines.

    Args:
        results: ``{encoder: {protocol: {"top1": accuracy in [0, 1]}}}`` with at least the encoder ``trained``.
    """
    protocol = "knn" if "knn" in results["trained"] else sorted(results["trained"])[0]
    trained = _percent(results["trained"][protocol])
    gains = []
    for name in ("pixels", "random"):
        if protocol in results.get(name, {}):
            gain = round(trained - _percent(results[name][protocol]), 1)
            points = f"{abs(gain):.1f} points {'more' if gain > 0 else 'fewer'} than" if gain else "as many as"
            gains.append(f"{points} {visualize.ENCODERS[name]}")
    return (
        f"{visualize.score_title(protocol)} on the trained features names {trained:.1f} % of the test images right"
        + (f": {' and '.join(gains)}." if gains else ".")
    )


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Part(Generic[T]):
    """A part of the page: its content, or why there is none."""

    content: T | None
    missing: str = ""

    def needed(self) -> T:
        if self.content is None:
            raise ToolkitError(self.missing)
        return self.content


def _attempt(make: Callable[[], T]) -> _Part[T]:
    try:
        return _Part(make())
    except (ToolkitError, OSError) as error:
        return _Part(None, str(error))


@dataclasses.dataclass(frozen=True)
class _Trained:
    encoder: Encoder
    method: str
    sha256: str
    versions: dict[str, str]

    @classmethod
    def load(cls, folder: RunFolder) -> _Trained:
        if not folder.encoder_file.is_file():
            raise ToolkitError("the run has no encoder yet: it is written with the first checkpoint")
        metadata = encoder_metadata(folder.path)
        return cls(load_encoder(folder.path), metadata["method"], metadata["sha256"], json.loads(metadata["versions"]))


def _config(folder: RunFolder) -> dict[str, Any]:
    try:
        config = folder.config()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ToolkitError(f"{folder.config_file} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ToolkitError(f"{folder.config_file} is damaged: it holds no settings")
    return config


def _percent(score: Mapping[str, Any]) -> float:
    return 100 * float(score["top1"])


def _facts(config: dict[str, Any], trained: _Trained | None) -> list[tuple[str, str]]:
    """What was run, in a few pairs of words."""
    flat = flatten(config)

    def get(key: str) -> Any:
        return flat.get(key, "?")

    facts = [("images", str(get("data"))), ("encoder", str(get("encoder.name")))]
    if trained is not None:
        count = sum(weight.numel() for weight in trained.encoder.backbone.parameters())
        facts += [
            ("features", f"{trained.encoder.feature_dim}"),
            ("parameters", f"{count / 1e6:.3g} million"),
            ("image size", f"{trained.encoder.config.image_size} px"),
        ]
    return [
        *facts,
        ("epochs", f"{get('epochs')}"),
        ("batch size", f"{get('batch_size')}"),
        ("optimiser", f"{get('optimizer.name')}, lr {get('optimizer.lr')}"),
        ("precision", f"{get('precision')}"),
        ("seed", f"{get('seed')}"),
    ]


def _training(folder: RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    try:
        rows = read_metrics(folder.metrics_file)
        summary = _summary(rows, config) if rows else ""
    except (ValueError, ArithmeticError, LookupError, TypeError, csv.Error) as error:
        raise ToolkitError(f"{folder.metrics_file} is damaged: {error!r}") from error
    columns = [c for c in visualize.curve_columns(rows) if c not in doctor.MEASURES]
    if not columns:
        raise ToolkitError("no curves: metrics.csv does not hold two rows of numbers yet")
    curves = [_chart(partial(visualize.curves_figure, rows, [c]), f"curve: {c}") for c in columns]
    return {"summary": summary, "curves": curves, "smooth": len(rows) >= visualize.SMOOTH_FROM}


def _doctor(folder: RunFolder, sample: _Part[Sample]) -> dict[str, Any]:
    """What the doctor says of the features as they are and of the training, and the measures on the way."""
    rows = _rows(folder)
    x = None if sample.content is None else sample.content.features.x
    features = {} if x is None or len(x) < 2 else doctor.measure(x)
    looks = doctor.numbers(rows)
    solved = {"solved": looks[-1]["solved"]} if looks and "solved" in looks[-1] else {}
    now, while_training = doctor.examine(features | solved), doctor.diagnose(looks)
    columns = [c for c in visualize.curve_columns(rows) if c in doctor.MEASURES and c != "above_chance"]
    if not features and not columns:
        raise ToolkitError("nothing was measured")
    return {
        "count": 0 if x is None else len(x),
        "features": [(name.replace("_", " "), f"{value:.3g}") for name, value in features.items()],
        "findings": [("of the features", each) for each in now]
        + [("while training" if each.step is None else f"from step {each.step}", each) for each in while_training],
        "watched": bool(columns),
        "curves": [_chart(partial(visualize.curves_figure, rows, [c]), f"curve: {c}") for c in columns],
    }


def _rows(folder: RunFolder) -> list[dict[str, str]]:
    try:
        return read_metrics(folder.metrics_file)
    except (ValueError, csv.Error) as error:
        raise ToolkitError(f"{folder.metrics_file} is damaged: {error!r}") from error


def _summary(rows: Sequence[Mapping[str, str]], config: dict[str, Any]) -> str:
    steps, epoch = int(rows[-1]["step"]), int(rows[-1]["epoch"]) + 1
    summary = f"{steps:,} optimiser steps"
    if seconds := _seconds(rows, config):
        summary += f", {duration(seconds)} of training"
    # A step is logged every so often: the last that is may lie before the end, by less than that.
    interval = steps - int(rows[-2]["step"]) if len(rows) > 1 else steps
    steps_per_epoch = max(math.ceil(int(row["step"]) / (int(row["epoch"]) + 1)) for row in rows)
    if steps + interval < steps_per_epoch * config.get("epochs", 0):
        summary += f"; not finished: epoch {epoch} of {config['epochs']}, pretrain --resume goes on from there"
    return summary


def _seconds(rows: Sequence[Mapping[str, str]], config: dict[str, Any]) -> float:
    """How long the training took, from the speeds it logged; 0 if it logged none."""
    images_per_step = config.get("batch_size", 0) * config.get("accumulate", 1)
    seconds, before = 0.0, 0
    for row in rows:
        if row.get("images_per_second"):
            seconds += (int(row["step"]) - before) * images_per_step / float(row["images_per_second"])
        before = int(row["step"])
    return seconds


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bad_images(folder: RunFolder, results: dict[str, Any] | None) -> dict[str, Any]:
    """Images that could not be read: of the training from their file, of the evaluation as numbers."""
    first: list[tuple[str, str]] = []
    count = 0
    if folder.bad_images_file.exists():
        with folder.bad_images_file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            try:
                for count, row in enumerate(csv.reader(lines)):  # the header is number 0
                    if 0 < count <= BAD_SHOWN:
                        first.append((row[0], " ".join(row[1:])))
            except (csv.Error, IndexError) as error:
                raise ToolkitError(f"{folder.bad_images_file} is damaged: {error}") from error
    sets = {} if results is None else sets_of(results)
    parts = [each["protocol"][part] for each in sets.values() for part in ("train", "test")]
    scored = {part["data"]: part["bad"] for part in parts if part.get("bad")}
    return {"count": count, "first": first, "more": count - len(first), "scored": scored}


def _commands(folder: RunFolder, results: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What to type to get all of this again."""
    data = ["--train", "DATA", "--test", "DATA"] if results is None else _data_options(sets_of(results))
    commands = (
        ("train", ["pretrain", "--config", str(folder.config_file), "--out", "NEW_FOLDER"]),
        ("score", ["evaluate", str(folder.path), *data]),
        ("report", ["report", str(folder.path)]),
    )
    return [(what, f"ssl-toolkit {shlex.join(words)}") for what, words in commands]


def _data_options(sets: dict[str, dict[str, Any]]) -> list[str]:
    """The options of ``ssl-toolkit evaluate`` that name its labelled sets."""
    options = ["--sets"] if "" not in sets else []
    for name, labelled in sets.items():
        protocol = labelled["protocol"]
        words = [protocol["train"]["data"], *([] if protocol.get("left_out") else [protocol["test"]["data"]])]
        if name:
            options.append(f"{name}={','.join(words)}")
        else:
            options += [word for pair in zip(("--train", "--test"), words, strict=False) for word in pair]
    return options


# --- the scores ------------------------------------------------------------------------------------------------------


def _scores(results: dict[str, Any], trained: _Trained | None) -> dict[str, Any]:
    sha256 = results["encoder"].get("sha256") if isinstance(results.get("encoder"), dict) else None
    sets = [{"name": name, **_set_scores(labelled)} for name, labelled in sets_of(results).items()]
    return {
        "sets": sets,
        "verdict": (f"{sets[0]['name']}: " if sets[0]["name"] else "") + sets[0]["verdict"],
        "stale": trained is not None and sha256 is not None and sha256 != trained.sha256,
    }


def _set_scores(labelled: dict[str, Any]) -> dict[str, Any]:
    scores, protocol = labelled["results"], labelled["protocol"]
    columns = list(dict.fromkeys(name for each in scores.values() for name in each))
    classes = protocol.get("classes") or 0
    chance = 1 / classes if classes else None
    return {
        "verdict": verdict(scores),
        "titles": [visualize.score_title(name) for name in columns],
        "rows": [
            (visualize.ENCODERS.get(name, name), [in_percent(each[c]) if c in each else "" for c in columns])
            for name, each in scores.items()
        ],
        "charts": [_chart(partial(visualize.score_chart, scores, chance, [c]), f"bars: {c}") for c in columns],
        "confusion": _confusion(scores["trained"], protocol.get("class_names")),
        "train": protocol["train"],
        "test": protocol["test"],
        "left_out": protocol.get("left_out", False),
        "classes": classes,
    }


def _confusion(scores: dict[str, Any], classes: list[str] | None) -> dict[str, Any] | None:
    """What the trained encoder's linear probe, or else its first protocol, takes for what."""
    name = "linear" if "linear" in scores else next(iter(scores))
    counts = scores[name].get("confusion")
    if counts is None or classes is None or len(classes) != len(counts):
        return None
    title = visualize.score_title(name)
    draw = partial(visualize.confusion_figure, np.array(counts), classes)
    return {"title": title, "chart": _chart(draw, f"matrix: classes by the {title}'s answers")}


# --- the pictures ----------------------------------------------------------------------------------------------------


def _drawn(config: dict[str, Any], encoder: Encoder, whole_clips: bool = False) -> ImageSet:
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


def _some(config: dict[str, Any], trained: _Trained, count: int, clips: bool = False) -> list[NDArray[np.uint8]]:
    """Some of the images that were trained on, or clips."""
    images = _drawn(config, trained.encoder, clips)
    read = read_some(images, shuffled(images)[: 4 * count], count, trained.encoder.config.load_size)
    if not read:
        raise ToolkitError(f"none of the images of '{images.word}' that were tried can be read")
    return read


def _views(config: dict[str, Any], trained: _Trained) -> dict[str, Any]:
    """Some of the images that were trained on, and views of them as the method makes them."""
    views = _as_configured(lambda: configured_views(config, trained.encoder.config.channels))
    read = _some(config, trained, min(8, max(3, VIEW_TILES // (len(views) + 1))))
    made = visualize.views_of(read, views, derive_seed(config.get("seed", 0), "report"))
    alt = f"{len(read)} images in the top row, {len(made)} views of each below"
    return {"count": len(made), "chart": _chart(partial(visualize.views_figure, read, made), alt, [visualize.EITHER])}


def _task(folder: RunFolder, config: dict[str, Any], trained: _Trained | None) -> dict[str, Any] | None:
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
    made = visualize.views_of(read, method.views, derive_seed(config.get("seed", 0), "report"))
    with torch.no_grad():
        picture = method.task_picture([torch.from_numpy(view) for view in made])
    assert picture is not None
    draw = partial(
        _task_figure, {name: list(images.numpy()) for name, images in picture.rows.items()}, picture.captions
    )
    return {"about": picture.about, "chart": _chart(draw, picture.about, [visualize.EITHER])}


def _task_figure(
    rows: Mapping[str, list[visualize.Pixels]], captions: Mapping[str, list[str]], theme: visualize.Theme
) -> Figure:
    return visualize.sheet(
        list(rows.values()), theme, row_names=list(rows), captions=[captions.get(name, []) for name in rows]
    )


def _units(trained: _Trained, sample: Sample) -> dict[str, Any]:
    """First-layer filters and feature maps, as far as the encoder has them."""
    subject = Subject(trained.encoder, sample, images=LOOKED_AT)

    def picture(draw: Callable[..., Figure], alt: str) -> _Part[dict[str, Any]]:
        return _attempt(lambda: _chart(partial(draw, subject), alt, [visualize.EITHER]))

    return {
        "filters": picture(draw_filters, "filters of the first layer"),
        "maps": picture(draw_feature_maps, "images at the left, feature maps to the right of each"),
        "data": sample.images.word,
    }


def _explained(trained: _Trained | None, part: _Part[Sample], results: dict[str, Any] | None) -> dict[str, Any] | None:
    """What speaks for a linear probe's class, where scores say that there are labels; else None."""
    if trained is None or results is None or part.content is None or part.content.images.classes is None:
        return None
    subject = Subject(trained.encoder, part.content, images=EXPLAINED)
    alt = f"{EXPLAINED} images in the top row, what speaks for the class below"
    return {"chart": _chart(partial(draw_explanation, "occlusion", subject), alt, [visualize.EITHER])}


def _more(names: Sequence[str], trained: _Trained, sample: Sample) -> list[tuple[str, _Part[dict[str, Any]]]]:
    """Pictures that were asked for, each by its name."""
    subject = Subject(trained.encoder, sample, images=EXPLAINED)

    def picture(name: str) -> dict[str, Any]:
        PLOTS[name].suits(trained.encoder)
        return _chart(partial(PLOTS[name].draw, subject), name, [visualize.EITHER])

    return [(name, _attempt(partial(picture, name))) for name in names]


def _attention(part: _Part[Sample], trained: _Trained | None) -> dict[str, Any] | None:
    """Where a vision transformer looks in some of the images, one a class as far as they go; None for others."""
    if trained is None or not has_attention(trained.encoder):
        return None
    sample, encoder = part.needed(), trained.encoder
    rows = one_a_class(sample.labels, LOOKED_AT)
    image = sample.views(encoder, rows)
    maps = attention_maps(encoder, image).numpy()
    draw = partial(visualize.attention_figure, list(image.numpy()), maps)
    alt = f"{len(rows)} images at the left, maps of attention to the right of each"
    return {
        "chart": _chart(draw, alt, [visualize.EITHER]),
        "class_token": reads_class_token(encoder),
        "heads": maps.shape[1],
        "shown": visualize.HEADS,
        "data": sample.images.word,
    }


def _neighbours(sample: Sample) -> dict[str, Any]:
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
                "picture": _data_uri(visualize.picture_png(visualize.tile(pictures[place], TILE))),
                "label": labels[place],
                "score": f"{score:.2f}",
                "right": None if labels[query] is None else labels[place] == labels[query],
            }
            for place, score in zip(near[query], scores[query], strict=True)
        ]
        name = labels[query] or os.path.basename(sample.images.path(int(sample.features.index[query])))
        picture = _data_uri(visualize.picture_png(visualize.tile(pictures[query], TILE)))
        rows.append({"picture": picture, "name": name, "hits": hits})
    right = [labels[place] == labels[row] for row, places in enumerate(near) if labels[row] for place in places]
    return {
        "rows": rows,
        "k": k,
        "count": len(x),
        "data": sample.images.word,
        "share": f"{100 * sum(right) / len(right):.0f}" if right else None,
    }


def _map(sample: Sample, name: str) -> dict[str, Any]:
    projection, label, classes = PROJECTIONS[name](sample.features.x), sample.features.label, sample.images.classes
    draw = partial(map_figure, projection, label, classes)
    return {
        "count": len(label),
        "data": sample.images.word,
        "labelled": classes is not None,
        "name": name,
        "dots": _chart(partial(draw, None), "map with a dot an image"),
        "pictures": _chart(partial(draw, sample.pictures(48)), "map with images"),
    }


# --- the page --------------------------------------------------------------------------------------------------------


def _chart(
    draw: Callable[[visualize.Theme], Figure],
    alt: str,
    themes: Sequence[visualize.Theme] = (visualize.LIGHT, visualize.DARK),
) -> dict[str, Any]:
    """A figure for light pages and one for dark pages if that is another, for the browser to choose."""
    figures = [draw(theme) for theme in themes]
    width, height = figures[0].get_size_inches()
    light, *dark = [_data_uri(visualize.figure_png(figure)) for figure in figures]
    # In CSS pixels.
    return {"alt": alt, "width": round(96 * width), "height": round(96 * height), "light": light, "dark": dark}


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # File names may hold bytes that are no text, and characters that turn the direction of what follows.
        finalize=lambda value: visualize.shown(value) if type(value) is str else value,
    )
    return environment.from_string(
        resources.files("ssl_toolkit.eval.report").joinpath("report.html").read_text("utf-8")
    )


def _versions(trained: _Trained | None) -> list[tuple[str, str]]:
    """What the encoder was trained with, as far as it says so, and what made the page."""
    used = {"trained with": {} if trained is None else trained.versions}
    used["this page"] = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
    return [(what, ", ".join(f"{name} {number}" for name, number in of.items())) for what, of in used.items() if of]


def _machine() -> str:
    """The kind of machine, in general words."""
    system = {"Darwin": "macOS"}.get(platform.system(), platform.system())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{system} on {platform.machine()}, {available_cores()} CPU cores, {', '.join(gpus) or 'no GPU'}"
