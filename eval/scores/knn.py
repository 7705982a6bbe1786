"""k nearest neighbours: what a frozen encoder knows with nothing learnt on top of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features.extraction import Features, check_labelled, stratified_split
from ssl_toolkit.eval.scores.metrics import accuracies, rank_of

VOTES = ("weighted", "plain")

MEASURES = {
    "cosine": (faiss.METRIC_INNER_PRODUCT, 1.0), "l2": (faiss.METRIC_L2, -0.5), "l1": (faiss.METRIC_L1, -1.0)
}  # fmt: skip
"""FAISS's measure, and the factor that makes a similarity of it."""

METRICS = tuple(MEASURES)

_PROCESS = os.getpid()
_QUERIES = 8192  # at once: bounds the copies of queries
_BANK = 1 << 26  # numbers of the bank at once: bounds its copy to 256 MB
_VOTES = 1 << 22  # entries of a table of votes, queries x classes: bounds it to 32 MB


@dataclasses.dataclass(frozen=True)
class KnnChoice:
    """What `select_k` chose.

    Attributes:
        k: Number of neighbours.
        temperature: Of the weighted vote.
        top1: Accuracy on the part of the training set that was held out, in [0, 1].
        tried: One row for each pair, with `k`, `temperature` and `top1`.
    """

    k: int
    temperature: float
    top1: float
    tried: list[dict[str, float]]


def knn(
    train: Features,
    test: Features | None,
    k: int = 20,
    temperature: float = 0.1,
    metric: str = "cosine",
    vote: str = "weighted",
) -> dict[str, Any]:
    """Accuracy of a vote among the k nearest training images, found by exact search.

    A neighbour's vote weighs exp(s / temperature) when weighted and 1 when plain, where s is the cosine, minus half
    the squared distance for ``l2`` (on unit vectors the two differ by a constant, so they weigh alike), or minus the
    sum of absolute differences for ``l1``. An image counts
    for top-n if its class has a vote and fewer than n classes rank before it; of classes with equal votes the one with
    the lower label ranks first, as in scikit-learn. Which of several training images at exactly the same distance takes
    the last of the k places is FAISS's choice, the same at each call.

    Args:
        train: Labelled features, (N, D).
        test: Labelled features, (M, D), of classes that `train` knows; None: each training image asks all others.
        k: Number of neighbours, at least 1; more than N means N.
        temperature: Above 0: the smaller, the more the nearest decide. In units of s.
        metric: ``cosine``, ``l2`` or ``l1``.
        vote: ``weighted`` or ``plain``.

    Returns:
        What `accuracies` says, such as `top1` in [0, 1], and the `k` and `temperature` it belongs to.

    Raises:
        UsageError: An argument is out of range, a label is missing, or a class is in `test` only.

    Source: Wu et al. 2018, section 3.4 (weights); Caron et al. 2021, appendix F (k = 20).

    Examples:
        >>> label = np.arange(2).repeat(4)
        >>> x = np.eye(2, dtype=np.float32)[label]
        >>> train, test = Features(x, label, np.arange(8)), Features(x[::4], label[::4], np.arange(2))
        >>> found = knn(train, test, k=3)
        >>> found["top1"], found["k"]
        (1.0, 3)
    """
    check_labelled(train, train if test is None else test)
    _check(metric, vote, [k], [temperature])
    similarity, position = _neighbours(train, test, k, metric)
    classes, label = np.unique(train.label, return_inverse=True)
    target = label if test is None else np.searchsorted(classes, test.label)
    heat = temperature if vote == "weighted" else math.inf
    rank, answer = _vote(similarity, label[position], target, len(classes), heat)
    return {
        **accuracies(rank, answer, target, len(classes)),
        "k": similarity.shape[1],
        "temperature": temperature,
    }


def select_k(
    train: Features,
    ks: Sequence[int] = (1, 5, 10, 20, 50, 100, 200),
    temperatures: Sequence[float] = (0.05, 0.1, 0.2),
    metric: str = "cosine",
    vote: str = "weighted",
    *,
    held_out: float = 0.2,
    seed: int = 0,
) -> KnnChoice:
    """Choose k and temperature on the training set alone: a stratified part of it asks, the rest answers.

    One search for the largest k serves every pair. Of pairs with equal accuracy the smallest k wins, then the first
    temperature given.

    Args:
        train: Labelled features, (N, D).
        ks: Numbers of neighbours to try; those above the size of the bank mean all of it.
        temperatures: Temperatures to try; a plain vote has none, and tries the first only.
        metric: ``cosine``, ``l2`` or ``l1``.
        vote: ``weighted`` or ``plain``.
        held_out: Share of each class that asks, in (0, 1).
        seed: Of the split.

    Raises:
        UsageError: As for `knn`; or no class has two images.
    """
    check_labelled(train, train)
    _check(metric, vote, ks, temperatures)
    bank, queries = (train.select(rows) for rows in stratified_split(train.label, held_out, seed))
    similarity, position = nearest(bank.x, queries.x, max(ks), metric)
    classes, label = np.unique(bank.label, return_inverse=True)
    target, voted = np.searchsorted(classes, queries.label), label[position]
    tried: list[dict[str, float]] = []
    for k in sorted({min(k, len(bank)) for k in ks}):
        for temperature in temperatures if vote == "weighted" else temperatures[:1]:
            heat = temperature if vote == "weighted" else math.inf
            rank, _ = _vote(similarity[:, :k], voted[:, :k], target, len(classes), heat)
            tried.append({"k": k, "temperature": temperature, "top1": float((rank < 1).mean())})
    best = max(tried, key=lambda row: row["top1"])  # the first of equals
    return KnnChoice(int(best["k"]), best["temperature"], best["top1"], tried)


def _neighbours(
    train: Features, test: Features | None, k: int, metric: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`nearest` of the test images, or of each training image among the others."""
    if test is not None:
        return nearest(train.x, test.x, k, metric)
    if len(train) < 2:
        raise UsageError("leaving one out needs two images, there is one")
    similarity, position = nearest(train.x, train.x, k + 1, metric)
    keep = not_own(position, np.arange(len(train)))
    return similarity[keep].reshape(len(train), -1), position[keep].reshape(len(train), -1)


def not_own(position: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.bool_]:
    """All but one of each row of positions: its own or, where so many are equal that it is not among them, the last.

    Args:
        position: (M, k), nearest first.
        own: (M,), of the queries themselves.
    """
    keep: NDArray[np.bool_] = position != own[:, None]
    keep[keep.all(axis=1), -1] = False
    return keep


@contextlib.contextmanager
def shared_threads() -> Iterator[None]:
    """FAISS takes as many threads as torch meanwhile, since alone it takes every core; then as many as before.

    In a forked process it takes one: OpenMP's threads stay behind in the parent, and more would wait for them for ever.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads() if os.getpid() == _PROCESS else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@shared_threads()
def nearest(
    bank: NDArray[np.float32], queries: NDArray[np.float32], k: int, metric: str = "cosine"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest rows of `bank` for each query, by exact search.

    A bank that is memory-mapped is read block by block: beside the arguments, memory holds the result and one block.

    Args:
        bank: (N, D).
        queries: (M, D).
        k: More than N means N.
        metric: ``cosine``, ``l2`` or ``l1``.

    Returns:
        Similarities, (M, k), descending: the cosine, minus half the squared distance, or minus the sum of absolute
        differences; and positions in `bank`, (M, k), ascending where similarities are equal.

    Examples:
        >>> bank = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
        >>> similarity, position = nearest(bank, bank[:1], k=2)
        >>> similarity.round(3), position
        (array([[1.   , 0.707]], dtype=float32), array([[0, 2]]))
    """
    k = min(k, len(bank))
    similarity = np.full((len(queries), k), -np.inf, dtype=np.float32)
    position = np.zeros((len(queries), k), dtype=np.int64)
    prepare = unit if metric == "cosine" else partial(np.ascontiguousarray, dtype=np.float32)
    step = max(_BANK // bank.shape[1], 1)
    for first in range(0, len(bank), step):
        block = prepare(bank[first : first + step])
        for start in range(0, len(queries), _QUERIES):
            rows = slice(start, start + _QUERIES)
            near, where = faiss.knn(prepare(queries[rows]), block, min(k, len(block)), metric=MEASURES[metric][0])
            near *= MEASURES[metric][1]
            near = np.concatenate([similarity[rows], near], axis=1)
            where = np.concatenate([position[rows], where + first], axis=1)
            order = np.lexsort((where, -near))[:, :k]
            similarity[rows] = np.take_along_axis(near, order, axis=1)
            position[rows] = np.take_along_axis(where, order, axis=1)
    return similarity, position


@shared_threads()
def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy with rows of length one, (N, D) float32, contiguous. A zero row stays zero: its cosines are 0."""
    scaled = np.array(x, dtype=np.float32, order="C")
    faiss.normalize_L2(scaled)
    return scaled


def _vote(
    similarity: NDArray[np.float32],
    label: NDArray[np.int64],
    target: NDArray[np.int64],
    classes: int,
    temperature: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many classes the vote puts before the true one, (M,), `classes` where that has no vote; and the winner, (M,).

    Args:
        similarity: (M, k), descending.
        label: (M, k) in [0, classes): of the neighbours.
        target: (M,) in [0, classes): the true class.
        classes: Number of classes.
        temperature: Infinite for a plain vote.
    """
    rank, winner = np.empty_like(target), np.empty_like(target)
    step = max(_VOTES // classes, 1)
    for start in range(0, len(target), step):
        rows = slice(start, start + step)
        near, true = similarity[rows].astype(np.float64), target[rows]
        weight = np.exp((near - near[:, :1]) / temperature)  # the nearest weighs 1: nothing overflows
        cell = label[rows] + classes * np.arange(len(near))[:, None]
        votes: NDArray[Any] = np.bincount(cell.ravel(), weight.ravel(), classes * len(near)).reshape(-1, classes)
        has_vote = votes[np.arange(len(near)), true] > 0
        rank[rows] = np.where(has_vote, rank_of(votes, true), classes)
        winner[rows] = votes.argmax(axis=1)  # of equals the lower label
    return rank, winner


def _check(metric: str, vote: str, ks: Sequence[int], temperatures: Sequence[float]) -> None:
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    if vote not in VOTES:
        raise unknown_name("vote", vote, VOTES)
    if not ks or min(ks) < 1:
        raise UsageError(f"k must be at least 1, got {list(ks)}")
    if not temperatures or not min(temperatures) > 0:
        raise UsageError(f"temperature must be above 0, got {list(temperatures)}")
