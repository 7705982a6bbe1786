"""Nearest images: an index that is whole or absent on disk, says how exact it is, and refuses what does not fit it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.items import state_of
from ssl_toolkit.encoders import encoder_metadata
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.scores.knn import unit
from ssl_toolkit.eval.search.approximate import EXACT, Approximate, default_factory, ranked
from ssl_toolkit.eval.search.folder import read_index, write_index
from ssl_toolkit.eval.search.hits import Hits, Item
from ssl_toolkit.eval.search.joining import joined_labels, joined_vectors, unit_on_disk
from ssl_toolkit.eval.search.names import Chosen, Places, last_of_equals

METRICS = ("cosine", "l2")
_CHECKED = 1 << 16  # rows at once


@dataclasses.dataclass(eq=False)
class EmbeddingIndex:
    """The features of a set of images, the names of the images, and the encoder that made them.

    Made by `build` or `load`, not by hand.

    Attributes:
        vectors: (N, D) float32, of unit length for cosine; memory-mapped where the index was loaded.
        approximate: Finds candidates among them; None where search is exact.
        paths: N names; of an index that was loaded, they are read from the disk when they are asked for.
        labels: (N,) int64, -1 where there is none; or None.
        classes: Names of the labels, or None.
        stamps: N states of the images' files when they were read (`file_stamp`), None where an image is no file.
        metric: ``cosine`` or ``l2``.
        factory: How neighbours were asked to be found, see `build`.
        encoder_file: The safetensors file of the encoder.
        encoder_sha256: What `check_encoder` compares with.
        data: The word for the data set, as the user wrote it.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     encoder = Path(folder) / "encoder.safetensors"
        ...     sha256 = save_encoder(Encoder(EncoderConfig("convnet")), encoder)
        ...     x = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
        ...     index = EmbeddingIndex.build(x, ["a.jpg", "b.jpg", "c.jpg"], encoder_file=encoder, data="photos/")
        ...     index.save(Path(folder) / "index")
        ...     hits = EmbeddingIndex.load(Path(folder) / "index").search(x[:1], k=2)
        >>> hits.path
        [['a.jpg', 'c.jpg']]
        >>> hits.score.round(3)
        array([[1.   , 0.707]], dtype=float32)
    """

    vectors: NDArray[np.float32]
    approximate: Approximate | None
    paths: Sequence[str]
    labels: NDArray[np.int64] | None
    classes: list[str] | None
    stamps: Sequence[str | None]
    metric: str
    factory: str | None
    encoder_file: Path
    encoder_sha256: str
    data: str

    @classmethod
    def build(
        cls,
        features: NDArray[np.float32],
        paths: Sequence[str],
        labels: NDArray[np.int64] | None = None,
        classes: Sequence[str] | None = None,
        metric: str = "cosine",
        *,
        stamps: Sequence[str | None] | None = None,
        factory: str | None = None,
        encoder_file: str | os.PathLike[str],
        encoder_sha256: str | None = None,
        data: str = "",
        scratch: str | os.PathLike[str] | None = None,
    ) -> EmbeddingIndex:
        """An index, in memory; `save` writes it.

        Args:
            features: (N, D), finite.
            paths: N names of images, any text.
            labels: (N,), -1 where there is none.
            classes: Names of the labels.
            metric: ``cosine`` or ``l2``.
            stamps: N states of the images' files, as `file_stamp` gives them before they are read.
            factory: How neighbours are found, in the words of FAISS's ``index_factory``: ``Flat``, ``HNSW32``,
                ``IVF4096,SQ8``; None chooses by `default_factory`.
            encoder_file: The file that the encoder was loaded from; `save` copies it.
            encoder_sha256: `Encoder.sha256`; None takes it from the metadata of the file.
            data: The word for the data set, to be kept with the index.
            scratch: Folder whose disk holds vectors and large inverted lists until the index is saved; None: memory
                holds them.

        Raises:
            UsageError: Lengths differ, features are not (N, D) with N and D at least 1, or not finite; or FAISS
                cannot build what `factory` says.
        """
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        features = checked("features", features, None)
        count = len(features)
        if count == 0 or len(paths) != count or (labels is not None and len(labels) != count):
            given = "no" if labels is None else str(len(labels))
            raise UsageError(f"an index needs a path a row: {count} rows, {len(paths)} paths, {given} labels")
        if classes is not None and labels is not None and int(labels.max()) >= len(classes):
            raise UsageError(f"label {int(labels.max())} has no name: there are {len(classes)} classes")
        vectors = features if metric == "l2" else unit(features) if scratch is None else unit_on_disk(features, scratch)
        return cls(
            vectors,
            _approximate(vectors, factory, metric, scratch),
            list(paths),
            None if labels is None else labels.astype(np.int64),
            None if classes is None else list(classes),
            [None] * count if stamps is None else list(stamps),
            metric,
            factory,
            Path(encoder_file),
            encoder_sha256 or encoder_metadata(Path(encoder_file))["sha256"],
            data,
        )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def dimension(self) -> int:
        """Width D of the features."""
        return int(self.vectors.shape[1])

    @property
    def how(self) -> str:
        """How neighbours are found, and how many of them, in words."""
        if self.approximate is None:
            return "exact search"
        effort = "".join(f", {name} {value}" for name, value in self.approximate.effort.items())
        return f"{self.approximate.factory}{effort}: finds {100 * self.approximate.recall:.1f} % of the ten nearest"

    def search(self, queries: NDArray[np.float32], k: int = 10) -> Hits:
        """The k nearest items of each query; of those that an approximate index finds, where there is one.

        Equal vectors score equally, come in the order of the index, and score the same however many queries are asked
        at once.

        Args:
            queries: (M, D) from the same encoder. A zero row has cosine 0 with everything.
            k: Number of hits; more than the index holds means all of it.

        Raises:
            UsageError: `queries` is not (M, D) with the index's D, or not finite; `k` is below 1.

        Examples:
            >>> x = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
            >>> index = EmbeddingIndex.build(x, ["a", "b", "c"], encoder_file="encoder.safetensors", encoder_sha256="0")
            >>> index.search(np.array([[0, 5]], dtype=np.float32), k=2).path
            [['b', 'c']]
            >>> index.neighbours_of(np.array([0]), k=1).path
            [['c']]
        """
        checked_k(k)
        queries = checked("queries", queries, self.dimension)
        return self._hits(*self._ranked(unit(queries) if self.metric == "cosine" else queries, k))

    def neighbours_of(self, items: NDArray[np.int64], k: int = 10) -> Hits:
        """The k nearest others of items of the index; fewer where it holds fewer.

        Args:
            items: (M,), their positions.
            k: Number of hits.

        Raises:
            UsageError: `k` is below 1.
        """
        checked_k(k)
        return self._hits(*self._ranked(self.vectors[items], k, items))

    def neighbours(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest others of each item: scores as in `Hits` and positions, (N, k); fewer where there are fewer."""
        return self._ranked(self.vectors, k, np.arange(len(self)))

    def changed(
        self,
        drop: NDArray[np.int64],
        features: NDArray[np.float32],
        paths: Sequence[str],
        labels: NDArray[np.int64] | None = None,
        classes: Sequence[str] | None = None,
        stamps: Sequence[str | None] | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> EmbeddingIndex:
        """An index without some of the items, and with others behind them. Classes are matched by name.

        Args:
            drop: Positions of the items to leave out.
            features: (n, D) of the items to add, from the same encoder; n may be 0.
            paths: Their n names.
            labels: Their labels, (n,), -1 where there is none.
            classes: Names of these labels.
            stamps: States of their files.
            scratch: See `build`.

        Raises:
            UsageError: Nothing would be left; as for `build`; or one index has numbers for labels, the other names.
        """
        keep = np.setdiff1d(np.arange(len(self)), drop)
        if not len(keep) + len(paths):
            raise UsageError("nothing would be left in the index: delete its folder instead")
        added = checked("features", features, self.dimension)
        new = dataclasses.replace(
            self,
            vectors=unit(added) if self.metric == "cosine" else added,
            paths=list(paths),
            labels=labels,
            classes=None if classes is None else list(classes),
            stamps=[None] * len(paths) if stamps is None else list(stamps),
        )
        joined = _joined([(self, keep), (new, np.arange(len(paths)))], scratch)
        if self.approximate is None:
            joined.approximate = _approximate(joined.vectors, self.factory, self.metric, scratch)
        else:
            joined.approximate = self.approximate.changed(joined.vectors, keep, self.metric, scratch=scratch)
        return joined

    @classmethod
    def merged(
        cls,
        indexes: Sequence[EmbeddingIndex],
        factory: str | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> EmbeddingIndex:
        """One index of what several hold, such as the shards of a large set of images. Classes are matched by name.

        A path that several of them hold is taken from the last of these, as files are that are copied over one another.

        Args:
            indexes: Of one encoder and one metric.
            factory: See `build`; None keeps the one that all of them were asked for, and chooses where they differ.
            scratch: See `build`.

        Raises:
            UsageError: There are none, or they do not fit together.
        """
        if not indexes:
            raise UsageError("there are no indexes to merge")
        first = indexes[0]
        for other in indexes[1:]:
            _check_alike(first, other)
        parts = list(zip(indexes, last_of_equals([each.paths for each in indexes]), strict=True))
        joined = _joined(parts, scratch)
        if factory is None and all(each.factory == first.factory for each in indexes):
            factory = first.factory
        joined.factory, joined.data = factory, ", ".join(dict.fromkeys(each.data for each in indexes))
        joined.approximate = _approximate(joined.vectors, factory, first.metric, scratch)
        return joined

    def check_encoder(self, sha256: str) -> None:
        """Raise `UsageError` unless `sha256` is the hash of the encoder that made this index."""
        check_same_encoder(sha256, self.encoder_sha256)

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the index to a folder, such that it holds a whole index at every moment: the old one, then this one.

        Raises:
            UsageError: The folder holds an index and `overwrite` is False.
        """
        write_index(self, folder, overwrite)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EmbeddingIndex:
        """Read and verify an index: the hash of each part (FAISS files carry none of their own), and all counts.

        Raises:
            UsageError: There is no index in the folder.
            ToolkitError: A part is missing, damaged or of another version of this format; it is named.
        """
        return cls(**read_index(folder))

    @functools.cached_property
    def _places(self) -> Places:
        return Places(self.paths)

    def at(self, path: str) -> Item | None:
        """The item of this name, the last of several; None where there is none."""
        place = self._places.of(path)
        return None if place is None else Item(place, self.stamps[place], self.label(place))

    def __repr__(self) -> str:
        what = f"{len(self)} images, {self.dimension} features, {self.metric}, {self.how}"
        return f"EmbeddingIndex({what}, encoder {self.encoder_sha256[:12]})"

    def _repr_html_(self) -> str:
        """For notebooks: a table of what it is."""
        from ssl_toolkit.eval.search.notebook import index_table  # matplotlib's

        return index_table(self)

    def _ranked(
        self, queries: NDArray[np.float32], k: int, own: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return ranked(self.vectors, self.approximate, queries, k, self.metric, own)

    def _hits(self, score: NDArray[np.float32], position: NDArray[np.int64]) -> Hits:
        return Hits(
            score,
            position,
            [[self.paths[place] for place in row] for row in position],
            [[self.label(place) for place in row] for row in position],
            self.metric,
        )

    def label(self, place: int) -> str | int | None:
        """Class of an item: its name, its number where classes have none, or None where it has no label."""
        if self.labels is None or self.labels[place] < 0:
            return None
        label = int(self.labels[place])
        return label if self.classes is None else self.classes[label]


def file_stamp(path: str) -> str | None:
    """Size and time of change of the file that an image is, or lies in; None where there is none on the disk.

    Another stamp means that it may be another image.
    """
    found = state_of(path)
    return None if found is None else f"{found.st_size} {found.st_mtime_ns}"


def _approximate(
    vectors: NDArray[np.float32], factory: str | None, metric: str, scratch: str | os.PathLike[str] | None
) -> Approximate | None:
    factory = factory or default_factory(len(vectors))
    return None if factory == EXACT else Approximate.build(vectors, factory, metric, scratch=scratch)


def _joined(
    parts: Sequence[tuple[EmbeddingIndex, NDArray[np.int64]]], scratch: str | os.PathLike[str] | None
) -> EmbeddingIndex:
    """The given positions of each index, one after another; how they are found is left to be decided."""
    classes, labels = joined_labels([(each.classes, each.labels, keep) for each, keep in parts])
    return dataclasses.replace(
        parts[0][0],
        vectors=joined_vectors([(each.vectors, keep) for each, keep in parts], scratch),
        approximate=None,
        paths=Chosen([(each.paths, keep) for each, keep in parts]),
        labels=labels,
        classes=classes,
        stamps=Chosen([(each.stamps, keep) for each, keep in parts]),
    )


def _check_alike(first: EmbeddingIndex, other: EmbeddingIndex) -> None:
    """Raise `UsageError` unless both are of one metric and one encoder."""
    for what, one, two in (
        ("metric", first.metric, other.metric),
        ("encoder", first.encoder_sha256[:12], other.encoder_sha256[:12]),
    ):
        if one != two:
            raise UsageError(
                f"the {what} of {other.encoder_file.parent} is {two}, that of {first.encoder_file.parent} is "
                f"{one}: indexes to be merged must have the same, build one of them again"
            )


def check_same_encoder(sha256: str, own: str) -> None:
    """Raise `UsageError` unless the encoder of queries is that of the index."""
    if sha256 != own:
        raise UsageError(
            f"the encoder of the queries ({sha256[:12]}) is not the one of the index ({own[:12]}): "
            "use the encoder in the index folder, or build the index again"
        )


def checked_k(k: int) -> int:
    """`k`; `UsageError` if it is below 1."""
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    return k


def checked(name: str, x: NDArray[np.float32], width: int | None) -> NDArray[np.float32]:
    """`x` as contiguous float32, (N, D); `UsageError` if it is not that, or not finite."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] < 1 or (width is not None and x.shape[1] != width):
        raise UsageError(f"{name} must be (N, {width or 'D'}), got {x.shape}")
    blocks = range(0, len(x), _CHECKED)
    if bad := sum(int((~np.isfinite(x[start : start + _CHECKED]).all(axis=1)).sum()) for start in blocks):
        raise UsageError(f"{bad} of {len(x)} {name} are not finite")
    return x
