"""Rankings judged by a ground truth: the revisited Oxford and Paris protocol, and copy detection."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.scores.knn import unit
from ssl_toolkit.eval.search.index import EmbeddingIndex

DIFFICULTIES = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""What counts as found, and what is passed over, by setting."""

KS = (1, 5, 10)


class Question(NamedTuple):
    """An image of the revisited protocol that asks.

    Attributes:
        name: Of the image, without suffix.
        box: Left, top, right and bottom of what it asks for, pixels.
        answers: Positions in the database that are ``easy``, ``hard`` or ``junk``.
    """

    name: str
    box: tuple[float, float, float, float]
    answers: Mapping[str, Sequence[int]]


def read_revisited(path: str | Path) -> tuple[list[str], list[Question]]:
    """The ground truth of revisited Oxford or Paris, as JSON of what the authors' ``gnd_*.pkl`` holds.

    Returns:
        Names of the database's images, and the questions.

    Raises:
        UsageError: It is something else.
    """
    try:
        truth = json.loads(Path(path).read_text(encoding="utf-8"))
        database = [str(name) for name in truth["imlist"]]
        questions = []
        for name, found in zip(truth["qimlist"], truth["gnd"], strict=True):
            left, top, right, bottom = map(float, found["bbx"])
            answers = {key: found[key] for key in ("easy", "hard", "junk")}
            questions.append(Question(str(name), (left, top, right, bottom), answers))
        places = [place for each in questions for some in each.answers.values() for place in some]
        if not questions or not all(0 <= place < len(database) for place in places):
            raise ValueError
    except OSError as error:
        raise UsageError(f"--truth {path} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"--truth {path} is not the JSON of a ground truth with imlist, qimlist and, for each query, gnd with bbx, "
            "easy, hard and junk"
        ) from error
    return database, questions


def revisited(similarity: NDArray[np.floating[Any]], answers: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """Mean average precision and mean precision at 1, 5 and 10 of the revisited protocol.

    Args:
        similarity: (Q, N), larger is better; of equal ones the first comes first.
        answers: Of each query, positions that are ``easy``, ``hard`` and ``junk``.

    Returns:
        By setting (`DIFFICULTIES`) ``map``, ``mp@1``, ``mp@5``, ``mp@10`` and ``queries``: those that something is to
        be found for. What is passed over is taken out of the ranking before anything is counted.

    Source: Radenović et al. 2018, Revisiting Oxford and Paris, section 2.3; average precision by trapezoids, and
        precision at k within the last right answer's rank, as in the authors' ``evaluate.py``.
    """
    order = np.argsort(-similarity, axis=1, kind="stable")
    found: dict[str, Any] = {}
    for setting, (right, passed) in DIFFICULTIES.items():
        rows = [
            _judged(row, *({place for key in keys for place in answer[key]} for keys in (right, passed)))
            for row, answer in zip(order, answers, strict=True)
        ]
        known = np.array([row for row in rows if row is not None])
        names = ("map", *(f"mp@{k}" for k in KS))
        means = known.mean(axis=0).tolist() if len(known) else [float("nan")] * len(names)
        found[setting] = {**dict(zip(names, means, strict=True)), "queries": len(known)}
    return found


def _judged(order: NDArray[np.int64], right: Collection[int], passed: Collection[int]) -> list[float] | None:
    """Average precision and precisions at `KS` of one ranking; None where nothing is to be found."""
    if not right:
        return None
    kept = order[~np.isin(order, list(passed))]
    rank = np.flatnonzero(np.isin(kept, list(right)))  # of each right answer, from 0
    number = np.arange(len(rank))
    before = np.where(rank > 0, number / np.maximum(rank, 1), 1.0)
    precision = float(((before + (number + 1) / (rank + 1)) / 2).sum() / len(right))
    last = int(rank.max()) + 1
    return [precision, *(float((rank < min(k, last)).sum() / min(k, last)) for k in KS)]


def read_copies(path: str | Path) -> set[tuple[str, str]]:
    """Pairs of a query's and a reference's name from a CSV with ``query_id`` and ``reference_id``, as DISC21 has it.

    Raises:
        UsageError: It has other columns, or no pair.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            pairs = {(row["query_id"], row["reference_id"]) for row in csv.DictReader(file) if row["reference_id"]}
    except OSError as error:
        raise UsageError(f"--truth {path} cannot be read: {error.strerror}") from error
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--truth {path} has no columns query_id and reference_id") from error
    if not pairs:
        raise UsageError(f"--truth {path} names no copy")
    return pairs


def micro_average_precision(score: NDArray[np.floating[Any]], right: NDArray[np.bool_], total: int) -> float:
    """Average precision of all answers to all queries in one ranking.

    Args:
        score: (A,) of each answer; equal ones are given together.
        right: (A,) whether it is.
        total: Right answers that there are, given or not.

    Returns:
        In [0, 1].

    Source: Douze et al. 2021, The 2021 Image Similarity Dataset and Challenge, section 4.1.

    Examples:
        >>> micro_average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 4)
        0.41666666666666663
    """
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(right[order])
    last = np.append(np.diff(score[order]) != 0, True)  # of those with one score
    precision, recall = found[last] / (np.flatnonzero(last) + 1), found[last] / total
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def similarities(index: EmbeddingIndex, x: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Exact cosines, or distances squared and negative, of features (Q, D) to some rows of an index: (Q, n)."""
    vectors = np.asarray(index.vectors[rows], dtype=np.float32)
    cosine = index.metric == "cosine"
    found: NDArray[np.float32] = (unit(x) if cosine else 2 * x) @ vectors.T
    return found if cosine else found - (vectors**2).sum(axis=1) - (x**2).sum(axis=1)[:, None]
