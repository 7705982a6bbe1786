"""The report: a run folder as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import math
import os
import platform
import shlex
import time
from collections import Counter
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

from ssl_toolkit.augment import Views
from ssl_toolkit.data.loader import BadImages, ImageLoader, Subset, read_some
from ssl_toolkit.data.sources import ImageSet, open_images
from ssl_toolkit.data.video import ClipSet
from ssl_toolkit.encoders import Encoder, encoder_metadata, load_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval import doctor, visualize
from ssl_toolkit.eval.attention import attention_maps, has_attention, reads_class_token
from ssl_toolkit.eval.compare import read_results
from ssl_toolkit.eval.features import Features, extract
from ssl_toolkit.eval.knn import nearest
from ssl_toolkit.eval.metrics import in_percent
from ssl_toolkit.files import write_atomic
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.methods import method_class
from ssl_toolkit.randomness import derive_seed, numpy_generator
from ssl_toolkit.runs import RunFolder, flatten

QUERIES = NEIGHBOURS = 8
LOOKED_AT = 4  # images in the picture of attention
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
        device: Where they are encoded.
        workers: Processes that read them.
        progress: Shows a progress bar.

    Returns:
        The page's path.

    Raises:
        UsageError: `run` is no run folder, or the page cannot be written.
        ToolkitError: The run's configuration is damaged.
    """
    folder = RunFolder(run)
    stored = _config(folder)
    config = stored if data_root is None else stored | {"data_root": data_root}
    encoder = _attempt(lambda: _Trained.load(folder))
    results = _attempt(lambda: read_results(folder))
    sample = _attempt(
        lambda: _Sample.take(config, encoder.needed(), results.content, images, device, workers, progress)
    )
    parts = {
        "facts": lambda: _facts(config, encoder.content),
        "scores": lambda: _scores(results.needed(), encoder.content),
        "training": lambda: _training(folder, config),
        "doctor": lambda: _doctor(folder, sample),
        "views": lambda: _views(config, encoder.needed()),
        "attention": lambda: _attention(sample, encoder.content),
        "neighbours": lambda: _neighbours(sample.needed()),
        "map": lambda: _map(sample.needed()),
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
    title = visualize.PROTOCOLS.get(protocol, protocol)
    return f"{title} on the trained features names {trained:.1f} % of the test images right" + (
        f": {' and '.join(gains)}." if gains else "."
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


def _doctor(folder: RunFolder, sample: _Part[_Sample]) -> dict[str, Any]:
    """What the doctor says of the features as they are and of the training, and the measures on the way."""
    rows = _rows(folder)
    x = None if sample.content is None else sample.content.features.x
    features = {} if x is None or len(x) < 2 else doctor.measure(x)
    now, while_training = doctor.examine(features), doctor.diagnose(doctor.numbers(rows))
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
    parts = [] if results is None else [results["protocol"][part] for part in ("train", "test")]
    scored = {part["data"]: part["bad"] for part in parts if part.get("bad")}
    return {"count": count, "first": first, "more": count - len(first), "scored": scored}


def _commands(folder: RunFolder, results: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What to type to get all of this again."""
    train, test = ("DATA", "DATA") if results is None else (results["protocol"][p]["data"] for p in ("train", "test"))
    commands = (
        ("train", ["pretrain", "--config", str(folder.config_file), "--out", "NEW_FOLDER"]),
        ("score", ["evaluate", str(folder.path), "--train", train, "--test", test]),
        ("report", ["report", str(folder.path)]),
    )
    return [(what, f"ssl-toolkit {shlex.join(words)}") for what, words in commands]


# --- the scores ------------------------------------------------------------------------------------------------------


def _scores(results: dict[str, Any], trained: _Trained | None) -> dict[str, Any]:
    scores, protocol = results["results"], results["protocol"]
    columns = list(dict.fromkeys(name for each in scores.values() for name in each))
    classes = protocol.get("classes") or 0
    chance = 1 / classes if classes else None
    sha256 = results["encoder"].get("sha256") if isinstance(results.get("encoder"), dict) else None
    return {
        "verdict": verdict(scores),
        "titles": [visualize.PROTOCOLS.get(name, name) for name in columns],
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
        "stale": trained is not None and sha256 is not None and sha256 != trained.sha256,
    }


def _confusion(scores: dict[str, Any], classes: list[str] | None) -> dict[str, Any] | None:
    """What the trained encoder's linear probe, or else its first protocol, takes for what."""
    name = "linear" if "linear" in scores else next(iter(scores))
    counts = scores[name].get("confusion")
    if counts is None or classes is None or len(classes) != len(counts):
        return None
    title = visualize.PROTOCOLS.get(name, name)
    draw = partial(visualize.confusion_figure, np.array(counts), classes)
    return {"title": title, "chart": _chart(draw, f"matrix: classes by the {title}'s answers")}


# --- the pictures ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """The images at some places of an image set, read when they are looked at."""

    images: ImageSet
    places: NDArray[np.int64]
    size: int

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return self.images.load(int(self.places[row]), self.size)


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Images drawn at random, in random order, and their features."""

    images: ImageSet
    features: Features

    @classmethod
    def take(
        cls,
        config: dict[str, Any],
        trained: _Trained,
        results: dict[str, Any] | None,
        count: int,
        device: str | torch.device,
        workers: int,
        progress: bool,
    ) -> _Sample:
        if results is not None:
            config = config | {"data": results["protocol"]["test"]["data"], "labels": "auto"}
        images, order = _shuffled(config, trained.encoder)
        part = Subset(images, order[: max(2, count)])
        size = trained.encoder.config.load_size
        features = extract(
            trained.encoder.to(device),
            ImageLoader(part, size, workers=workers, bad=BadImages(part, max_rate=1.0)),
            device=device,
            progress=progress,
            view=trained.encoder.eval_view(),
        )
        trained.encoder.to("cpu")
        return cls(part, features)

    @property
    def labels(self) -> list[str | None]:
        """The class of each row, by name."""
        classes = self.images.classes or []
        return [classes[label] if 0 <= label < len(classes) else None for label in self.features.label]


def _shuffled(config: dict[str, Any], encoder: Encoder) -> tuple[ImageSet, NDArray[np.int64]]:
    """The images of a configuration, and an order to draw them in, the same each time."""
    images = open_images(
        config.get("data", ""),
        root=config.get("data_root"),
        labels=config.get("labels", "auto"),
        channels=encoder.config.channels,
    )
    if isinstance(images, ClipSet):
        images = images.first_frames()
    return images, numpy_generator(0, "report").permutation(len(images))


def _views(config: dict[str, Any], trained: _Trained) -> dict[str, Any]:
    """Some of the images that were trained on, and views of them as the method makes them."""
    options, load_size = dict(config.get("views") or {}), trained.encoder.config.load_size
    size = options.pop("size", None) or trained.encoder.config.image_size
    try:
        recipe = method_class(flatten(config)["method.name"]).default_views
        views: Views = recipe(size, trained.encoder.config.channels, **options)
    except (TypeError, KeyError) as error:
        raise ToolkitError(f"config.yaml does not fit the method's recipe of views: {error}") from error
    images, order = _shuffled(config, trained.encoder)
    wanted = min(8, max(3, VIEW_TILES // (len(views) + 1)))
    read = read_some(images, order[: 4 * wanted], wanted, load_size)
    if not read:
        raise ToolkitError(f"none of the images of '{images.word}' that were tried can be read")
    made = visualize.views_of(read, views, derive_seed(config.get("seed", 0), "report"))
    alt = f"{len(read)} images in the top row, {len(made)} views of each below"
    return {"count": len(made), "chart": _chart(partial(visualize.views_figure, read, made), alt, [visualize.EITHER])}


def _attention(part: _Part[_Sample], trained: _Trained | None) -> dict[str, Any] | None:
    """Where a vision transformer looks in some of the images, one a class as far as they go; None for others."""
    if trained is None or not has_attention(trained.encoder):
        return None
    sample, encoder = part.needed(), trained.encoder
    pictures, view = _Pictures(sample.images, sample.features.index, encoder.config.load_size), encoder.eval_view()
    rows = _one_a_class(sample.labels, LOOKED_AT)
    image = torch.cat([view(torch.from_numpy(pictures[row])[None]) for row in rows])
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


def _neighbours(sample: _Sample) -> dict[str, Any]:
    """Queries, one a class as far as they go, and the nearest of the other images."""
    x, labels = sample.features.x, sample.labels
    queries = _one_a_class(labels, QUERIES)
    k = min(NEIGHBOURS, len(x) - 1)
    if not k:
        raise ToolkitError("there is one image only: it has no neighbours")
    similarity, position = nearest(x, x, k + 1)
    found = [_without(row, near, score) for row, (near, score) in enumerate(zip(position, similarity, strict=True))]
    pictures = _Pictures(sample.images, sample.features.index, TILE)
    rows = []
    for query in queries:
        hits = [
            {
                "picture": _data_uri(visualize.picture_png(visualize.tile(pictures[place], TILE))),
                "label": labels[place],
                "score": f"{score:.2f}",
                "right": None if labels[query] is None else labels[place] == labels[query],
            }
            for place, score in found[query]
        ]
        name = labels[query] or os.path.basename(sample.images.path(int(sample.features.index[query])))
        picture = _data_uri(visualize.picture_png(visualize.tile(pictures[query], TILE)))
        rows.append({"picture": picture, "name": name, "hits": hits})
    right = [labels[place] == labels[row] for row, near in enumerate(found) if labels[row] for place, _ in near]
    return {
        "rows": rows,
        "k": k,
        "count": len(x),
        "data": sample.images.word,
        "share": f"{100 * sum(right) / len(right):.0f}" if right else None,
    }


def _without(row: int, near: NDArray[np.int64], score: NDArray[np.float32]) -> list[tuple[int, float]]:
    """The neighbours of a row but itself, one fewer than given."""
    others = [(int(place), float(s)) for place, s in zip(near, score, strict=True) if place != row]
    return others[: len(near) - 1]


def _one_a_class(labels: Sequence[str | None], count: int) -> list[int]:
    """Rows of the first image of each class, then the second of each, and so on, until there are `count`."""
    seen: Counter[str | None] = Counter()
    order = []
    for row, label in enumerate(labels):
        order.append((seen[label], row))
        seen[label] += 1
    return [row for _, row in sorted(order)[:count]]


def _map(sample: _Sample) -> dict[str, Any]:
    x, label, classes = sample.features.x, sample.features.label, sample.images.classes
    pictures = _Pictures(sample.images, sample.features.index, 48)
    return {
        "count": len(x),
        "data": sample.images.word,
        "labelled": classes is not None,
        "dots": _chart(partial(visualize.pca_map, x, label, classes, None), "map with a dot an image"),
        "pictures": _chart(partial(visualize.pca_map, x, label, classes, pictures), "map with images"),
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
    return environment.from_string(resources.files("ssl_toolkit.eval").joinpath("report.html").read_text("utf-8"))


def _versions(trained: _Trained | None) -> list[tuple[str, str]]:
    """What the encoder was trained with, as far as it says so, and what made the page."""
    used = {"trained with": {} if trained is None else trained.versions}
    used["this page"] = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
    return [(what, ", ".join(f"{name} {number}" for name, number in of.items())) for what, of in used.items() if of]


def _machine() -> str:
    """The kind of machine, in general words."""
    system = {"Darwin": "macOS"}.get(platform.system(), platform.system())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{system} on {platform.machine()}, {cores} CPU cores, {', '.join(gpus) or 'no GPU'}"
