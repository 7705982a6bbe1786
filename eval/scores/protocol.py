"""One protocol for every encoder: the trained one, random weights and raw pixels, by the same votes and probes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ssl_toolkit.augment import EvalView
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.image_set import ImageSet, Subset
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features.extraction import Encode, Features, extract, stratified_split
from ssl_toolkit.eval.features.layers import Layers, Tokens, token_count
from ssl_toolkit.eval.scores.attentive import attentive
from ssl_toolkit.eval.scores.knn import knn, select_k
from ssl_toolkit.eval.scores.linear_probe import fit_softmax, linear_probe
from ssl_toolkit.eval.scores.low_shot import low_shot
from ssl_toolkit.eval.scores.robustness import IMAGES as CORRUPTED
from ssl_toolkit.eval.scores.robustness import corruptions
from ssl_toolkit.eval.scores.sgd_probe import sgd_probe
from ssl_toolkit.eval.scores.svm import svm
from ssl_toolkit.eval.scores.sweep import sweep
from ssl_toolkit.eval.scores.zero_shot import EncodeTexts, class_vectors, prompts_of, zero_shot


def spread(loader: ImageLoader, count: int) -> ImageLoader:
    """A loader of at most `count` images, evenly from all over those of another; what cannot be read is left out."""
    rows = np.linspace(0, len(loader.images) - 1, min(count, len(loader.images))).astype(np.int64)
    part = Subset(loader.images, rows)
    return ImageLoader(part, loader.size, workers=loader.workers, bad=BadImages(part, max_rate=1.0))


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An encoder and the images that it is scored on. Features are extracted when they are first asked for, once.

    Attributes:
        encode: Images in [0, 1], (N, C, H, W), to features (N, D).
        train_images: Labelled images that vote and train probes.
        test_images: Labelled images that are classified; None: some of the others are.
        folder: Where features are kept.
        depths: Whether features of all depths are extracted, and not the output alone.
        view: See `extract`.
        device: Where to compute.
        progress: Shows progress bars.
        seconds: What each protocol took, by name, without ``encoding``, which all share.
    """

    encode: Encode
    train_images: ImageLoader
    test_images: ImageLoader | None
    folder: str
    depths: bool = False
    view: EvalView | None = None
    device: str | torch.device = "cpu"
    progress: bool = False
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: {"encoding": 0.0})

    @cached_property
    def train(self) -> dict[str, Features]:
        """Features by what a classifier may read of them (`Layers.inputs`): ``output``, and others if there are."""
        return self._extract(self.train_images, "train")

    @cached_property
    def test(self) -> dict[str, Features] | None:
        """Likewise of the test set, if there is one."""
        return None if self.test_images is None else self._extract(self.test_images, "test")

    def score(self, protocol: str, **options: Any) -> dict[str, Any] | None:
        """What a key of `PROTOCOLS` says, with options of its function; its time is noted in `seconds`."""
        started, before = time.perf_counter(), self.seconds["encoding"]
        found = PROTOCOLS[protocol].score(self, **options)
        self.seconds[protocol] = time.perf_counter() - started - (self.seconds["encoding"] - before)
        return found

    @property
    def at_hand(self) -> Features:
        """The output's features of the training or, where none were extracted yet, of the test set."""
        return (self.train if "train" in vars(self) or self.test is None else self.test)["output"]

    @cached_property
    def held_out(self) -> tuple[dict[str, Features], dict[str, Features]]:
        """Features to train on and to test on: where there is no test set, a stratified fifth is held out for it."""
        return self._held_out(self.train, self.test)

    @cached_property
    def linear(self) -> dict[str, Any]:
        """What `linear_probe` says: its penalty serves others too."""
        fit, test = self.held_out
        return linear_probe(fit["output"], test["output"])

    @cached_property
    def tokens(self) -> tuple[Features, Features, int]:
        """Likewise, the tokens of each image one behind the other in a row, (N, T D), and D."""
        network = Tokens(self.encode)
        loaders = {"train": self.train_images} | ({"test": self.test_images} if self.test_images else {})
        found = {part: {"tokens": self.extract(network, each, f"{part}_tokens")} for part, each in loaders.items()}
        fit, test = self._held_out(found["train"], found.get("test"))
        return fit["tokens"], test["tokens"], network.width

    def _held_out(
        self, train: dict[str, Features], test: dict[str, Features] | None
    ) -> tuple[dict[str, Features], dict[str, Features]]:
        if test is not None:
            return train, test
        rows = stratified_split(next(iter(train.values())).label, 0.2, seed=1)
        fit, test = ({name: each.select(part) for name, each in train.items()} for part in rows)
        return fit, test

    def extract(self, network: Encode, images: ImageLoader, part: str, view: Encode | None = None) -> Features:
        """What a network makes of images, kept in a folder of its own; the time goes to the account of encoding.

        Args:
            network: Images in [0, 1] to features (N, D).
            images: The images.
            part: Name of the folder.
            view: Instead of the subject's own.
        """
        started = time.perf_counter()
        features = extract(
            network, images, f"{self.folder}/{part}", device=self.device, progress=self.progress, view=view or self.view
        )
        self.seconds["encoding"] += time.perf_counter() - started
        return features

    def _extract(self, images: ImageLoader, part: str) -> dict[str, Features]:
        network = Layers(self.encode) if self.depths else self.encode
        features = self.extract(network, images, part)
        inputs = network.inputs() if isinstance(network, Layers) else {"output": slice(None)}
        return {name: dataclasses.replace(features, x=features.x[:, columns]) for name, columns in inputs.items()}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to score an encoder.

    Attributes:
        title: What it is called in tables and on charts.
        score: Subject, and options by name, to what ``results.json`` holds; None where there is nothing to say of such
            an encoder. Without a test set no image may answer itself.
        depths: Whether it reads features of several depths.
        fits: Whether it says something of an encoder and test images.
    """

    title: str
    score: Callable[..., dict[str, Any] | None]
    depths: bool = False
    fits: Callable[[Encode, ImageSet], bool] = lambda encode, images: True


def _knn(subject: Subject) -> dict[str, Any]:
    """Vote of 20 neighbours, T = 0.1; under ``selected``, with the k and T that do best on a part of the bank."""
    train, test = subject.train["output"], None if subject.test is None else subject.test["output"]
    choice = select_k(train)
    return {**knn(train, test), "selected": knn(train, test, k=choice.k, temperature=choice.temperature)}


def _sweep(subject: Subject, **options: Any) -> dict[str, Any]:
    return sweep(*subject.held_out, device=subject.device, **options)


def _attentive(subject: Subject, **options: Any) -> dict[str, Any]:
    return attentive(*subject.tokens, device=subject.device, **options)


def _corruptions(subject: Subject) -> dict[str, Any]:
    fit, test = (part["output"] for part in subject.held_out)
    loader = subject.test_images or subject.train_images
    rows = np.linspace(0, len(test) - 1, min(CORRUPTED, len(test))).astype(np.int64)
    part = Subset(loader.images, test.index[rows])
    return corruptions(
        subject.encode, fit_softmax(fit, subject.linear["l2"]), ImageLoader(part, loader.size, workers=loader.workers),
        count=len(rows), view=subject.view, device=subject.device, progress=subject.progress,
    )  # fmt: skip


def _sgd(subject: Subject, **options: Any) -> dict[str, Any]:
    """The only one that trains on images, so its test images are the only ones that have to be encoded before."""
    loader = subject.train_images
    if subject.test is None:
        fit, test = (part["output"] for part in subject.held_out)
        images: ImageSet = Subset(loader.images, fit.index)
    else:
        images, test = loader.images, subject.test["output"]
    return sgd_probe(
        subject.encode, images, test, load_size=loader.size, size=subject.view.size if subject.view else loader.size,
        workers=loader.workers, max_bad_rate=loader.bad.max_rate, device=subject.device, progress=subject.progress,
        **options,
    )  # fmt: skip


def _zero_shot(subject: Subject, encode: EncodeTexts, prompts: Sequence[str]) -> dict[str, Any] | None:
    """Of the test set or, as nothing is learned, of all images that there are; None of features without such texts."""
    features = (subject.test or subject.train)["output"]
    named = prompts_of(prompts, subject.train_images.images.classes or [])
    vectors = class_vectors(named, encode)
    return {**zero_shot(features, vectors), "prompts": named} if vectors.shape[1] == features.x.shape[1] else None


def _on_output(title: str, probe: Callable[..., dict[str, Any]]) -> Protocol:
    """A probe that takes features to train on and features to test on."""
    return Protocol(title, lambda subject, **options: probe(*(part["output"] for part in subject.held_out), **options))


PROTOCOLS = {
    "knn": Protocol("kNN", _knn),
    "linear": Protocol("linear probe", lambda subject: subject.linear),
    "low_shot": _on_output("1 % of labels", low_shot),
    "sweep": Protocol("best of sweep", _sweep, depths=True),
    "sgd": Protocol("SGD on crops", _sgd),
    "svm": _on_output("linear SVM", svm),
    "attentive": Protocol("attentive probe", _attentive, fits=lambda encode, images: token_count(encode) > 1),
    "corruptions": Protocol("corrupted", _corruptions, fits=lambda encode, images: images.channels in (1, 3)),
    "zero_shot": Protocol("zero-shot", _zero_shot),
}


SUITES = {
    "quick": ("knn", "linear", "attentive"),
    "full": tuple(name for name in PROTOCOLS if name not in ("sgd", "zero_shot")),
}
"""Protocols that are run together; what encodes each image a hundred times, or needs texts, is in neither."""


def fitting(
    names: Iterable[str], encode: Encode, images: ImageSet, say: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Those of some protocols that say something of an encoder and test images; `say` is told of the others."""
    found = []
    for name in names:
        if PROTOCOLS[name].fits(encode, images):
            found.append(name)
        else:
            say(f"{name} does not fit the encoder or the images: left out")
    return found


def check_protocols(names: Sequence[str]) -> None:
    """Refuse names that are no protocol.

    Raises:
        UsageError: Naming the nearest right one.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)


def match_labels(test: ImageSet, train: ImageSet) -> None:
    """Give the test set the training set's numbers for its classes: two folders may not hold the same classes.

    Raises:
        UsageError: If either has no labels, or the test set has a class that the training set does not know.
    """
    for images in (train, test):
        if images.classes is None:
            raise UsageError(
                f"'{images.word}' has no labels to score against: put each class into a subfolder of its own, "
                "or give --labels folder, a .csv with a label column, or a labelled data set"
            )
    assert train.classes is not None
    assert test.classes is not None
    number = {name: label for label, name in enumerate(train.classes)}
    missing = [name for name in test.classes if name not in number]
    if missing:
        raise UsageError(
            f"class '{missing[0]}' of '{test.word}' is not in '{train.word}' ({len(missing)} such classes): "
            "train and test must be parts of one data set"
        )
    test.renumber(np.array([number[name] for name in test.classes]), train.classes)


def score(
    encoders: Mapping[str, Encode],
    train: ImageLoader,
    test: ImageLoader | None,
    protocols: Sequence[str] = ("knn", "linear"),
    *,
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    view: EvalView | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
    then: Callable[[str, Subject], object] = lambda name, subject: None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score encoders on one labelled data set.

    Args:
        encoders: Name to function, images in [0, 1] (N, C, H, W) to features (N, D).
        train: The images that vote and train the probes.
        test: The images that are classified. None: of `train`, kNN leaves out one at a time, probes hold out a fifth.
        protocols: Keys of `PROTOCOLS`.
        options: Of protocols, by their names: arguments of their functions, such as ``{"sgd": {"epochs": 10}}``.
        view: See `extract`.
        device: Where images are encoded.
        progress: Shows progress bars.
        say: Told what is being done.
        then: Called with each encoder's name and what it was, when it has been scored and its features are there still.

    Returns:
        ``{encoder: {protocol: {"top1": ..., ...}}}``.
    """
    check_protocols(protocols)
    depths = any(PROTOCOLS[protocol].depths for protocol in protocols)
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for name, encode in encoders.items():
        results[name] = {}
        with tempfile.TemporaryDirectory() as folder:  # features of a large set need not fit into memory
            subject = Subject(encode, train, test, folder, depths, view, device, progress)
            for protocol in protocols:
                say(f"{name}: {protocol}")
                found = subject.score(protocol, **options.get(protocol, {}))
                if found is not None:
                    results[name][protocol] = found
            then(name, subject)
    return results
