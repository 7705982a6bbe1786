"""One protocol for every encoder: the trained one, random weights and raw pixels, by the same kNN and linear probe."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.data.sources import ImageSet
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features import Encode, Features, extract, stratified_split
from ssl_toolkit.eval.knn import knn, select_k
from ssl_toolkit.eval.linear_probe import linear_probe
from ssl_toolkit.eval.low_shot import low_shot

Protocol: TypeAlias = Callable[[Features, Features | None], dict[str, Any]]
"""Scores of a test set or, where there is none, of the labelled images by themselves, none of which answers itself."""


def knn_protocol(train: Features, test: Features | None) -> dict[str, Any]:
    """Vote of 20 neighbours, T = 0.1; under ``selected``, with the k and T that do best on a part of the bank."""
    choice = select_k(train)
    return {**knn(train, test), "selected": knn(train, test, k=choice.k, temperature=choice.temperature)}


def holding_out(protocol: Callable[[Features, Features], dict[str, Any]]) -> Protocol:
    """The protocol, which holds out a stratified fifth of the labelled images where there is no test set."""

    def run(train: Features, test: Features | None) -> dict[str, Any]:
        if test is None:
            train, test = (train.select(rows) for rows in stratified_split(train.label, 0.2, seed=1))
        return protocol(train, test)

    return run


PROTOCOLS: dict[str, Protocol] = {
    "knn": knn_protocol,
    "linear": holding_out(linear_probe),
    "low_shot": holding_out(low_shot),
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
    encoders: dict[str, Encode],
    train: Iterable[Batch],
    test: Iterable[Batch] | None,
    protocols: Sequence[str] = ("knn", "linear"),
    *,
    view: Encode | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score encoders on one labelled data set.

    Args:
        encoders: Name to function, images in [0, 1] (N, C, H, W) to features (N, D).
        train: The images that vote and train the probe.
        test: The images that are classified. None: of `train`, kNN leaves out one at a time, probes hold out a fifth.
        protocols: Keys of `PROTOCOLS`.
        view: See `extract`.
        device: Where images are encoded.
        progress: Shows progress bars.
        say: Told what is being done.

    Returns:
        ``{encoder: {protocol: {"top1": ..., ...}}}``.
    """
    check_protocols(protocols)
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for name, encode in encoders.items():
        say(f"{name}: features")
        results[name] = {}
        with tempfile.TemporaryDirectory() as folder:  # features of a large set need not fit into memory
            bank, queries = (
                None
                if loader is None
                else extract(encode, loader, f"{folder}/{part}", device=device, progress=progress, view=view)
                for part, loader in (("train", train), ("test", test))
            )
            assert bank is not None
            for protocol in protocols:
                say(f"{name}: {protocol}")
                results[name][protocol] = PROTOCOLS[protocol](bank, queries)
    return results
