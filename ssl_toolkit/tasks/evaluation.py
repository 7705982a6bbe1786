"""Evaluation: how good is an encoder, beside random weights and raw pixels?"""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say
from ssl_toolkit.runs import RunFolder
from ssl_toolkit.tasks.settings import AnyData, AnyPath, AnyTrained, Weights
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.eval.scores.protocol import Subject

    AnySets: TypeAlias = Sequence[str] | Mapping[str, AnyData | tuple[AnyData, AnyData]]
else:
    AnySets = list[str]

MANY = 4
"""Up to this many protocols are columns of the table; more are rows."""

LIDAR_IMAGES, LIDAR_VIEWS = 1000, 10
"""Images that LiDAR is measured on, at most, and views of each."""


class Scores(Found, dict[str, Any]):
    """What results.json holds: encoder, protocol, and for each encoder the scores, accuracies in [0, 1].

    Of several labelled sets the two latter are under their names in `sets`.
    """

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row a labelled set and encoder: their names (one set alone has none), and top-1 accuracy by protocol."""
        from ssl_toolkit.eval.report.compare import sets_of

        return [
            {"set": name, "encoder": encoder, **{protocol: score["top1"] for protocol, score in scores.items()}}
            for name, labelled in sets_of(self).items()
            for encoder, scores in labelled["results"].items()
        ]

    def table(self) -> Table:
        """Accuracies in percent and, below, what needs no labels; with more than four protocols, a row each."""
        from ssl_toolkit.eval.report.compare import sets_of

        sets = sets_of(self)
        many = len(next(iter(sets.values()))["protocol"]["names"]) > MANY
        table = _tall(sets) if many else _wide(sets)
        return dataclasses.replace(table, below=_measures_table(sets))


def _wide(sets: Mapping[str, dict[str, Any]]) -> Table:
    """A row an encoder, a column a protocol."""
    from ssl_toolkit.eval.pictures.words import ENCODERS, score_title
    from ssl_toolkit.eval.scores.metrics import in_percent

    width = max(map(len, sets)) + 2 if any(sets) else 0
    protocols = next(iter(sets.values()))["protocol"]["names"]
    rows = [
        ["" if number else name, ENCODERS[key], *(in_percent(scores[p]) if p in scores else "" for p in protocols)]
        for name, labelled in sets.items()
        for number, (key, scores) in enumerate(labelled["results"].items())
    ]
    return Table(
        ["", "top-1, %", *map(score_title, protocols)], rows, [f"<{width}", "<16", *(">15" for _ in protocols)]
    )


def _tall(sets: Mapping[str, dict[str, Any]]) -> Table:
    """A row a protocol, a column an encoder; the trained one's calibration error, and its seconds, beside them."""
    from ssl_toolkit.eval.pictures.words import ENCODERS, score_title
    from ssl_toolkit.eval.scores.metrics import in_percent

    encoders = list(next(iter(sets.values()))["results"])
    rows = []
    for name, labelled in sets.items():
        seconds = labelled["times"]["trained"]
        rows.append([f"{name}: encoding" if name else "encoding", *("" for _ in encoders), ""])
        rows[-1].append(f"{seconds['encoding']:.1f}")
        for protocol in labelled["protocol"]["names"]:
            found = [labelled["results"][encoder].get(protocol) for encoder in encoders]
            ece = f"{100 * found[0]['ece']:.1f}" if "ece" in (found[0] or ()) else ""
            title = score_title(f"{name}: {protocol}" if name else protocol)
            rows.append([title, *(in_percent(each) if each else "" for each in found), ece, f"{seconds[protocol]:.1f}"])
    width = max(len(row[0]) for row in rows) + 2
    head = ["top-1, %", *(ENCODERS[key] for key in encoders), "ECE, %", "seconds"]
    return Table(head, rows, [f"<{max(width, 16)}", *(">16" for _ in encoders), ">9", ">10"])


def _measures_table(sets: Mapping[str, dict[str, Any]]) -> Table | None:
    """A row a measure that needs no labels, a column an encoder; None where nothing was measured."""
    from ssl_toolkit.eval.health.quality import QUALITIES
    from ssl_toolkit.eval.pictures.words import ENCODERS, shown

    rows = []
    encoders = list(next(iter(sets.values())).get("measures", {}))
    for name, labelled in sets.items():
        measures = labelled.get("measures", {})
        for key, (title, about, _) in QUALITIES.items():
            values = [f"{measures[e][key]:.4g}" if key in measures.get(e, {}) else "" for e in encoders]
            if any(values):
                rows.append([f"{shown(name, 16)}: {title}" if name else title, *values, f"  {about}"])
    if not rows:
        return None
    width = max(16, *(len(row[0]) + 2 for row in rows))
    head = ["without labels", *(ENCODERS[key] for key in encoders)]
    return Table(head, rows, [f"<{width}", *(">16" for _ in encoders), "<"])


def evaluate(
    run: AnyTrained,
    train: AnyData | None = None,
    test: AnyData | None = None,
    sets: AnySets | None = None,
    protocol: str = "knn,linear",
    suite: Literal["quick", "full"] | None = None,
    lidar: bool = False,
    prompts: AnyPath | None = None,
    sgd_epochs: int = 100,
    sgd_lr: float = 0.1,
    sgd_schedule: Literal["cosine", "step"] = "cosine",
    out: AnyPath | None = None,
    baselines: bool = True,
    seed: int = 0,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Scores:
    """Score an encoder on labelled images, by kNN and linear probes on frozen features.

    In Python, `run` may be whatever `load_run_encoder` takes (a module of your own without training is a baseline too),
    `train` and `test` whatever `open_images` takes, and `sets` a mapping of names to (train, test) or train.

    Args:
        run: Run folder or encoder file; or weights of timm by name (resnet18.a1_in1k), or a file of weights (see
            `architecture`); or a `Run`, or an `Encoder`.
        train: Labelled images that vote and train the probe (a folder, a .csv, a word like cifar10:train).
        test: Labelled images that are classified, once; if not given, those of `train`, of which kNN leaves out one at
            a time and the probes hold out a fifth.
        sets: Several labelled sets instead of `train` and `test`, each NAME=TRAIN,TEST or NAME=TRAIN.
        protocol: Scores, separated by commas: knn, linear, low_shot (1, 5 and 10 labels a class, 1 and 10 %), sweep
            (many heads on several depths), attentive (a learned query on patch tokens or places of the feature map),
            sgd (the literature's, on crops: slow), svm, corruptions (the linear probe on spoilt test images), zero_shot
            (the class whose prompts are nearest, of encoders with a text tower; alone, it needs `test` and no `train`).
        suite: Instead of protocols, what fits the encoder and the images: quick is knn, linear and attentive, full is
            all but sgd and zero_shot, and LiDAR.
        lidar: Measure LiDAR too: on 10 views each of 1,000 training images.
        prompts: Text file for zero_shot, a prompt a line: a template with {} for the name of the class (a photo of a
            {}.), or CLASS: TEXT for one class; a class with several gets their mean. If not given, the names.
        sgd_epochs: Passes of the protocol sgd over the images.
        sgd_lr: Learning rate of sgd, for a batch of 256.
        sgd_schedule: Its course: cosine to zero, or step, a tenth from 60 % and again from 80 % of training on.
        out: JSON file for the results; a run folder also keeps them in results.json.
        baselines: Score random weights and raw pixels too.
        seed: Decides the random weights.
        labels: Classes of a folder: its subfolders (folder), or these if they look it (auto); none drops all labels.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of images that may be unreadable, in [0, 1]; a run folder lists them in
            bad_images_train.csv and bad_images_test.csv.
        device: Where images are encoded.
        progress: Show progress bars.

    Returns:
        The results; they print as a table.

    Raises:
        UsageError: If the encoder or the data do not exist or have no labels.

    Examples:
        >>> from ssl_toolkit import Encoder, evaluate
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> found = evaluate(encoder, "shapes:train:64", "shapes:test:64", protocol="knn", workers=0, progress=False)
        >>> sorted(found["results"]), 0 <= found["results"]["trained"]["knn"]["top1"] <= 1
        (['pixels', 'random', 'trained'], True)
    """
    from ssl_toolkit.tasks.common import Results, open_loader, pick_device
    from ssl_toolkit.tasks.start import load_run_encoder

    protocols = _protocols(protocol, suite, sgd_epochs, sgd_lr, sgd_schedule)
    if train is None and list(protocols) == ["zero_shot"]:
        train, test = test, None  # nothing is learned
    labelled = labelled_sets(train, test, sets)
    folder, files = _files(run, out)
    encoder, metadata = load_run_encoder(run, next(iter(labelled.values()))[0], data_root)
    if "zero_shot" in protocols:
        protocols["zero_shot"] = _texts(run, encoder, prompts)
    elif prompts is not None:
        raise UsageError("--prompts is for --protocol zero_shot: give that too, or leave it out")
    results = Results(run, encoder, metadata, seed)
    reader = partial(
        open_loader, encoder, data_root=data_root, labels=labels, workers=workers, max_bad_rate=max_bad_rate,
        progress=progress,
    )  # fmt: skip
    if len(labelled) > 1:
        dict(_opened(labelled, reader, folder, "none"))  # what is wrong is said before the first is scored
    encoders = {"trained": encoder.to(pick_device(device)), **(_baselines(encoder, seed) if baselines else {})}
    scored: Callable[..., dict[str, Any]] = partial(
        _scored, encoders, protocols, suite, lidar, device=encoder.mean.device, progress=progress
    )
    found = {name: scored(name, *loaders) for name, loaders in _opened(labelled, reader, folder, "auto")}
    return Scores(results.write({"sets": found} if sets else found[""], files))


def _protocols(names: str, suite: str | None, epochs: int, lr: float, schedule: str) -> dict[str, dict[str, Any]]:
    """The protocols that are asked for, each with its options: those of sgd."""
    from ssl_toolkit.eval.scores.protocol import SUITES, check_protocols

    asked = SUITES[suite] if suite else [name.strip() for name in names.split(",")]
    protocols: dict[str, dict[str, Any]] = {name: {} for name in asked}
    check_protocols(list(protocols))
    if epochs < 1:
        raise UsageError(f"--sgd-epochs is {epochs}: it must be at least 1")
    if not lr > 0:
        raise UsageError(f"--sgd-lr is {lr}: it must be above 0")
    return protocols | ({"sgd": {"epochs": epochs, "lr": lr, "schedule": schedule}} if "sgd" in protocols else {})


def _texts(run: AnyTrained, encoder: "Encoder", prompts: AnyPath | None) -> dict[str, Any]:
    """The options of zero_shot: what encodes texts, and the lines of the file of prompts."""
    from ssl_toolkit.tasks.common import text_tower

    try:
        lines = [] if prompts is None else Path(prompts).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {prompts} cannot be read as text in UTF-8: {error}") from error
    tower = text_tower(Weights.of(run).path, encoder.feature_dim)
    return {"encode": lambda texts: tower.encode(texts).numpy(), "prompts": lines}


def _files(run: AnyTrained, out: AnyPath | None) -> tuple[RunFolder | None, list[Path]]:
    """The run folder, if it is one, and the files that the results go to."""
    from ssl_toolkit.files import make_folder

    path = Weights.of(run).path
    folder = RunFolder(path) if isinstance(path, str | os.PathLike) and Path(path).is_dir() else None
    files = [folder.results_file] if folder else []
    files += [Path(out)] if out else []
    for file in files:
        make_folder(file.parent, "--out")
        if file.is_dir():
            raise UsageError(f"--out {file} is a folder: name a file")
    return folder, files


def _opened(
    labelled: Mapping[str, list[Any]], reader: "Callable[..., ImageLoader]", folder: RunFolder | None, cache: str
) -> "Iterator[tuple[str, list[ImageLoader]]]":
    """Of each set, the images that vote and train probes and, if there are such, those that are classified."""
    from ssl_toolkit.eval.scores.protocol import match_labels

    for name, data in labelled.items():
        opened: list[ImageLoader] = []
        for part, images in zip(("train", "test"), data, strict=False):
            file = folder.path / f"bad_images_{name and name + '_'}{part}.csv" if folder else None
            loader = reader(images, argument=part, bad_images_file=file, cache=cache)
            match_labels(loader.images, opened[0].images if opened else loader.images)
            opened.append(loader)
        yield name, opened


def _baselines(encoder: "Encoder", seed: int) -> dict[str, Any]:
    from ssl_toolkit.eval.features.baselines import pixels
    from ssl_toolkit.tasks.common import random_baseline

    return {**random_baseline(encoder, seed), "pixels": pixels()}


def _scored(
    encoders: Mapping[str, Any],
    protocols: Mapping[str, Mapping[str, Any]],
    suite: str | None,
    lidar: bool,
    name: str,
    bank: "ImageLoader",
    queries: "ImageLoader | None" = None,
    **options: Any,
) -> dict[str, Any]:
    """The scores on one labelled set, what was measured without labels, and what was asked; options as of `score`."""
    from ssl_toolkit.eval.scores.protocol import fitting, score

    measures: dict[str, dict[str, float]] = {}
    times: dict[str, dict[str, float]] = {}

    def tell(text: str) -> None:
        say(f"{name}: {text}" if name else text)

    def then(encoder: str, subject: "Subject") -> None:
        if encoder != "pixels":  # far more of them than directions that matter, and slow
            measures[encoder] = _measured(subject, lidar or suite == "full")
        times[encoder] = {key: round(value, 2) for key, value in subject.seconds.items()}

    asked = bank if queries is None else queries
    chosen = fitting(protocols, encoders["trained"], asked.images, tell) if suite else list(protocols)
    options["view"] = encoders["trained"].eval_view()
    scores = score(encoders, bank, queries, chosen, options=protocols, say=tell, then=then, **options)
    about = {
        "names": chosen,
        "train": {"data": bank.images.word, "images": bank.total, "bad": len(bank.bad)},
        "test": {"data": asked.images.word, "images": asked.total, "bad": len(asked.bad)},
        "left_out": queries is None,
        "classes": len(bank.images.classes or []),
        "class_names": bank.images.classes,
    }
    return {"protocol": about, "results": scores, "measures": measures, "times": times}


def _measured(subject: "Subject", lidar: bool) -> dict[str, float]:
    """What the features at hand say without labels; and LiDAR, for which images are encoded again."""
    from ssl_toolkit.augment import simclr_views
    from ssl_toolkit.eval.health import quality
    from ssl_toolkit.eval.scores.protocol import spread

    found = quality.quality(subject.at_hand.x)
    if lidar and len(subject.train_images.images) > 1:
        started, loader = time.perf_counter(), spread(subject.train_images, LIDAR_IMAGES)
        size = subject.view.size if subject.view else loader.size
        views = simclr_views(size, channels=loader.images.channels, count=LIDAR_VIEWS)
        found["lidar"] = quality.lidar(quality.features_of_views(subject.encode, loader, views, subject.device))
        subject.seconds["lidar"] = time.perf_counter() - started
    return found


def labelled_sets(train: Any, test: Any, sets: AnySets | None) -> dict[str, list[Any]]:
    """What to score on: by name, the data to learn from and, if there are such, the data to classify.

    Args:
        train: Of the one set that has no name.
        test: Likewise.
        sets: NAME=TRAIN,TEST or NAME=TRAIN each, or a mapping of names to (train, test) or train.

    Raises:
        UsageError: There is none, both ways are mixed, or a word is of another form.
    """
    if (train is None) == (not sets) or (sets and test is not None):
        raise UsageError(
            "give the labelled images either as --train DATA --test DATA, or several sets of them as "
            "--sets NAME=TRAIN,TEST NAME=TRAIN,TEST ..."
        )
    if train is not None:
        return {"": [train] if test is None else [train, test]}
    if isinstance(sets, Mapping):
        return {name: list(data) if isinstance(data, tuple) else [data] for name, data in sets.items()}
    found: dict[str, list[Any]] = {}
    for word in sets or ():
        name, _, data = word.partition("=")
        parts = data.split(",")
        if not re.fullmatch(r"[\w.-]+", name) or not all(parts) or len(parts) > 2:
            raise UsageError(
                f"--sets {word}: a labelled set is NAME=TRAIN,TEST or NAME=TRAIN, its name of letters, digits and . _ -"
            )
        if name in found:
            raise UsageError(f"--sets names {name} twice: give each labelled set a name of its own")
        found[name] = parts
    return found
