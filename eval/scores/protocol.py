"""One protocol for every encoder: the trained one, random weights and raw pixels, by the same votes and probes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ssl_toolkit.augment import EvalView
from ssl_toolkit.data.image_set import ImageSet, Subset
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features.extraction import Encode, Features, extract, stratified_split
from ssl_toolkit.eval.features.layers import Layers
from ssl_toolkit.eval.scores.knn import knn, select_k
from ssl_toolkit.eval.scores.linear_probe import linear_probe
from ssl_toolkit.eval.scores.low_shot import low_shot
from ssl_toolkit.eval.scores.sgd_probe import sgd_probe
from ssl_toolkit.eval.scores.svm import svm
from ssl_toolkit.eval.scores.sweep import sweep
from ssl_toolkit.eval.scores.zero_shot import EncodeTexts, class_vectors, prompts_of, zero_shot


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
    """

    encode: Encode
    train_images: ImageLoader
    test_images: ImageLoader | None
    folder: str
    depths: bool = False
    view: EvalView | None = None
    device: str | torch.device = "cpu"
    progress: bool = False

    @cached_property
    def train(self) -> dict[str, Features]:
        """Features by what a classifier may read of them (`Layers.inputs`): ``output``, and others if there are."""
        return self._extract(self.train_images, "train")

    @cached_property
    def test(self) -> dict[str, Features] | None:
        """Likewise of the test set, if there is one."""
        return None if self.test_images is None else self._extract(self.test_images, "test")

    @cached_property
    def held_out(self) -> tuple[dict[str, Features], dict[str, Features]]:
        """Features to train on and to test on: where there is no test set, a stratified fifth is held out for it."""
        if self.test is not None:
            return self.train, self.test
        rows = stratified_split(self.train["output"].label, 0.2, seed=1)
        fit, test = ({name: each.select(part) for name, each in self.train.items()} for part in rows)
        return fit, test

    def _extract(self, images: ImageLoader, part: str) -> dict[str, Features]:
        network = Layers(self.encode) if self.depths else self.encode
        features = extract(
            network, images, f"{self.folder}/{part}", device=self.device, progress=self.progress, view=self.view
        )
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
    """

    title: str
    score: Callable[..., dict[str, Any] | None]
    depths: bool = False


def _knn(subject: Subject) -> dict[str, Any]:
    """Vote of 20 neighbours, T = 0.1; under ``selected``, with the k and T that do best on a part of the bank."""
    train, test = subject.train["output"], None if subject.test is None else subject.test["output"]
    choice = select_k(train)
    return {**knn(train, test), "selected": knn(train, test, k=choice.k, temperature=choice.temperature)}


def _sweep(subject: Subject, **options: Any) -> dict[str, Any]:
    return sweep(*subject.held_out, device=subject.device, **options)


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
    "linear": _on_output("linear probe", linear_probe),
    "low_shot": _on_output("1 % of labels", low_shot),
    "sweep": Protocol("best of sweep", _sweep, depths=True),
    "sgd": Protocol("SGD on crops", _sgd),
    "svm": _on_output("linear SVM", svm),
    "zero_shot": Protocol("zero-shot", _zero_shot),
}


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
    lookup = np.array([number[name] for name in test.classes])
    test.labels = np.where(test.labels < 0, -1, lookup[test.labels])
    test.classes = train.classes


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
                found = PROTOCOLS[protocol].score(subject, **options.get(protocol, {}))
                if found is not None:
                    results[name][protocol] = found
    return results
