"""Which vectors are near, exactly or nearly: FAISS's indexes, set by measured recall, and scores that do not round."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import secrets
import weakref
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.scores.knn import MEASURES, not_own, shared_threads
from ssl_toolkit.eval.search.gpus import filled, nearest_on_gpus, train
from ssl_toolkit.eval.search.on_disk import emptied, fill_on_disk, lists_on_disk
from ssl_toolkit.randomness import numpy_generator

EXACT = "Flat"
"""Name of exact search, FAISS's."""

RECALL = 0.95
"""Share of the ten true neighbours that an approximate index is set to find."""

GROWTH = 2
"""How many times as many vectors as it was trained on, or as few, an index may hold until it is trained again."""

SPARE = 32
"""Candidates beyond k that are scored again."""

_BLOCK = 1 << 12  # queries at once
_TRAINED = 64  # rows a list that it is trained on
_SAMPLE = 1000  # vectors whose neighbours are looked up to measure recall
_SCORED = 1 << 24  # numbers gathered at once to score again: bounds them to 64 MB


@dataclasses.dataclass(eq=False)
class Approximate:
    """A FAISS index that finds most of the nearest vectors without looking at all of them.

    Attributes:
        index: FAISS's.
        factory: What it was made by.
        effort: FAISS's setting of how much of it is looked at, such as ``{"nprobe": 16}``; empty where it has none.
        recall: Share of the ten nearest others of its own vectors that it finds, mean over a sample.
        trained: How many vectors it held when it was trained; 0 where that is not known.
        lists: The file of its inverted lists, where they stay on the disk.
    """

    index: Any
    factory: str
    effort: dict[str, int]
    recall: float
    trained: int = 0
    lists: Path | None = None

    @classmethod
    @shared_threads()
    def build(
        cls,
        vectors: NDArray[np.float32],
        factory: str,
        metric: str,
        seed: int = 0,
        scratch: str | os.PathLike[str] | None = None,
    ) -> Approximate:
        """Train and fill an index, and set it to the least effort that finds `RECALL` of the neighbours.

        Args:
            vectors: (N, D); they pass through memory block by block.
            factory: In the words of FAISS's ``index_factory``.
            metric: ``cosine``, of unit vectors, or ``l2``.
            seed: Of the samples that it is trained on and that recall is measured on.
            scratch: Folder for the inverted lists, where they are to stay on the disk (`lists_on_disk`); the file
                ends with this object unless it is moved. None: memory holds them.

        Raises:
            UsageError: FAISS does not know the factory, or cannot train it on so few vectors.
        """
        index = empty_index(factory, len(vectors), vectors.shape[1], metric)
        if not index.is_trained:
            wanted = min(len(vectors), max(_TRAINED * _lists(factory), 1 << 16))
            rows = numpy_generator(seed, "index").choice(len(vectors), wanted, replace=False)
            try:
                train(index, vectors[np.sort(rows)])
            except RuntimeError as error:
                raise _unbuildable(factory, len(vectors), error) from error
        made = cls(index, factory, {}, 0.0, len(vectors))
        made._fill(vectors, scratch)
        made._tune(vectors, metric, seed)
        return made

    @shared_threads()
    def changed(
        self,
        vectors: NDArray[np.float32],
        keep: NDArray[np.int64],
        metric: str,
        seed: int = 0,
        scratch: str | os.PathLike[str] | None = None,
    ) -> Approximate:
        """Another index of other vectors, with what this one has learnt; effort and recall are measured again.

        After `GROWTH` times as many vectors as it was trained on, or as few, it is built anew.

        Args:
            vectors: (N, D): those of this index that stay, in their order, then the new ones.
            keep: Positions in this index of those that stay, ascending.
            metric: As it was built with.
            seed: Of the sample that recall is measured on.
            scratch: See `build`.
        """
        if not self.trained / GROWTH <= len(vectors) <= self.trained * GROWTH:
            return Approximate.build(vectors, self.factory, metric, seed, scratch)
        if self.lists is not None:
            index = emptied(self.index)
        else:
            index = faiss.clone_index(self.index)
            if len(keep) < index.ntotal and not _taken_out(index, keep):
                index.reset()
        made = dataclasses.replace(self, index=index, lists=None)
        made._fill(vectors, scratch)
        made._tune(vectors, metric, seed)
        return made

    @shared_threads()
    def search(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Positions of candidates, (M, count); -1 where there are fewer."""
        candidates: NDArray[np.int64] = self.index.search(queries, count)[1]
        return candidates

    def about(self) -> dict[str, Any]:
        """All but the index itself, ready for JSON."""
        return {"factory": self.factory, "effort": self.effort, "recall": self.recall, "trained": self.trained}

    def _fill(self, vectors: NDArray[np.float32], scratch: str | os.PathLike[str] | None) -> None:
        """Add the vectors that the index does not hold yet: those behind the ones that it does."""
        if self.index.ntotal or scratch is None or not lists_on_disk(self.index, len(vectors)):
            filled(self.index, vectors[self.index.ntotal :])
            return
        self.lists = Path(scratch) / f".lists.tmp-{secrets.token_hex(8)}.ivfdata"  # `write_index` knows such names
        weakref.finalize(self, self.lists.unlink, missing_ok=True)
        fill_on_disk(self.index, vectors, self.lists)

    def _tune(self, vectors: NDArray[np.float32], metric: str, seed: int) -> None:
        """Set the least effort that finds `RECALL` of the ten nearest others of a sample, or else the greatest."""
        generator = numpy_generator(seed, "recall")
        sample = np.sort(generator.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
        queries = np.ascontiguousarray(vectors[sample])
        k = min(11, len(vectors))
        truth = _others(nearest_rows(vectors, queries, k, metric), sample)
        for effort in self._efforts():
            self.effort = effort
            for name, value in effort.items():
                faiss.ParameterSpace().set_index_parameter(self.index, name, value)
            candidates = self.search(queries, min(k + SPARE, len(vectors)))
            found = _others(scored_again(vectors, queries, candidates, metric)[1][:, :k], sample)
            hits = [len(np.intersect1d(*pair)) for pair in zip(found, truth, strict=True)]
            self.recall = float(np.mean(hits)) / max(truth.shape[1], 1)
            if self.recall >= RECALL:
                break

    def _efforts(self) -> list[dict[str, int]]:
        if lists := _lists(self.factory):
            return [{"nprobe": 2**power} for power in range(lists.bit_length())]
        if "HNSW" in self.factory:
            return [{"efSearch": 2**power} for power in range(5, 11)]
        return [{}]


def ranked(
    vectors: NDArray[np.float32],
    approximate: Approximate | None,
    queries: NDArray[np.float32],
    k: int,
    metric: str,
    own: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and positions of the k nearest of some vectors, best first, equal ones by position.

    FAISS rounds differently for few and for many queries, and twice over for equal vectors; and an index may hold
    codes instead of vectors. So the candidates that it finds, some more than k, are scored again in float64.

    Args:
        vectors: (N, D), of unit length for cosine.
        approximate: Finds candidates among them; None where search is exact.
        queries: (M, D), likewise.
        k: At least 1; more than there are means all.
        metric: ``cosine`` or ``l2``.
        own: (M,), for queries that are vectors themselves: their positions, which are left out.

    Returns:
        Cosines, descending, or distances, ascending, (M, k) float32, and positions, (M, k) int64.
    """
    k = min(k, len(vectors) - (own is not None))
    asked = k + (own is not None)
    score = np.empty((len(queries), k), dtype=np.float32)
    position = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = np.ascontiguousarray(queries[rows])
        candidates = _candidates(vectors, approximate, block, min(asked + SPARE, len(vectors)), metric)
        exact, place = scored_again(vectors, block, candidates, metric)
        exact, place = exact[:, :asked], place[:, :asked]
        if own is not None:
            keep = not_own(place, own[rows])
            exact, place = exact[keep].reshape(len(block), k), place[keep].reshape(len(block), k)
        score[rows], position[rows] = exact, place
    return score, position


def _candidates(
    vectors: NDArray[np.float32],
    approximate: Approximate | None,
    queries: NDArray[np.float32],
    count: int,
    metric: str,
) -> NDArray[np.int64]:
    """Positions of (about) the nearest vectors, (M, count)."""
    if approximate is None:
        return nearest_rows(vectors, queries, count, metric)
    candidates = approximate.search(queries, count)
    short = (candidates < 0).any(axis=1)  # the part of the index that was looked at holds fewer
    if short.any():
        candidates[short] = nearest_rows(vectors, queries[short], count, metric)
    return candidates


def default_factory(count: int) -> str:
    """How neighbours are found among `count` vectors.

    Exactly up to 200,000; then by inverted lists, of whole vectors up to 10 million, of 8-bit codes beyond.

    Source: the FAISS authors' guidelines to choose an index: some 4 sqrt(N) lists.

    Examples:
        >>> [default_factory(count) for count in (200_000, 1_000_000, 20_000_000)]
        ['Flat', 'IVF4096,Flat', 'IVF16384_HNSW32,SQ8']
    """
    if count <= 200_000:
        return EXACT
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    return f"IVF{lists},Flat" if count <= 10_000_000 else f"IVF{lists}_HNSW32,SQ8"


def empty_index(factory: str, count: int, dimension: int, metric: str) -> Any:
    """FAISS's index, to be trained and filled with `count` vectors.

    Raises:
        UsageError: FAISS does not know `factory`, or it has more lists than there are vectors.
    """
    try:
        if _lists(factory) > count:
            raise RuntimeError(f"there are {_lists(factory)} lists")
        return faiss.index_factory(dimension, factory, MEASURES[metric][0])
    except RuntimeError as error:
        raise _unbuildable(factory, count, error) from error


def _unbuildable(factory: str, count: int, error: Exception) -> UsageError:
    reason = str(error).strip().splitlines()[-1]
    return UsageError(f"--index {factory}: FAISS cannot build that for {count} vectors: {reason}")


def _lists(factory: str) -> int:
    """Number of inverted lists, 0 where there are none."""
    found = re.search(r"IVF(\d+)", factory)
    return int(found[1]) if found else 0


@shared_threads()
def nearest_rows(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], count: int, metric: str
) -> NDArray[np.int64]:
    """Positions of the nearest vectors by exact search, (M, count); cosines of unit vectors are their products."""
    if faiss.get_num_gpus():
        return nearest_on_gpus(vectors, queries, count, MEASURES[metric][0])
    position: NDArray[np.int64] = faiss.knn(queries, vectors, count, metric=MEASURES[metric][0])[1]
    return position


def scored_again(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], candidates: NDArray[np.int64], metric: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cosines or distances of candidates, (M, K), best first, and their positions; equal ones by position.

    Where an approximate index found fewer than K, position -1 comes last.
    """
    score = np.empty(candidates.shape, dtype=np.float64)
    step = max(_SCORED // (candidates.shape[1] * vectors.shape[1]), 1)
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        near, query = vectors[candidates[rows]].astype(np.float64), queries[rows].astype(np.float64)
        if metric == "cosine":
            score[rows] = np.einsum("mkd,md->mk", near, query)
        else:
            score[rows] = np.sqrt(((near - query[:, None]) ** 2).sum(axis=2))
    worst = -np.inf if metric == "cosine" else np.inf
    score[candidates < 0] = worst
    order = np.lexsort((candidates, -score if metric == "cosine" else score))
    return np.take_along_axis(score, order, axis=1), np.take_along_axis(candidates, order, axis=1)


def _others(position: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of positions, nearest first, without each row's own, one fewer."""
    others: NDArray[np.int64] = position[not_own(position, own)].reshape(len(position), -1)
    return others


def _taken_out(index: Any, keep: NDArray[np.int64]) -> bool:
    """Leave `keep` alone in inverted lists, each under its place in `keep`; False where FAISS's index has no such.

    FAISS takes vectors out of lists but leaves the others their numbers, and out of graphs not at all.
    """
    inner: Any = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    lists: Any = inner.invlists if isinstance(inner, faiss.IndexIVF) else None
    lists = None if lists is None else faiss.downcast_InvertedLists(lists)
    if not isinstance(lists, faiss.ArrayInvertedLists):
        return False
    place = np.full(index.ntotal, -1, dtype=np.int64)
    place[keep] = np.arange(len(keep))
    index.remove_ids(np.flatnonzero(place < 0))
    for number in range(lists.nlist):
        if size := lists.list_size(number):
            held = faiss.rev_swig_ptr(lists.get_ids(number), size)
            held[:] = place[held]
    return True
