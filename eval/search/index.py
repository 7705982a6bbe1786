"""Nearest images: an index that is whole or absent on disk, says how exact it is, and refuses what does not fit it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ssl_toolkit import __version__
from ssl_toolkit.encoders import encoder_metadata
from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name
from ssl_toolkit.eval.scores.knn import not_own, unit
from ssl_toolkit.eval.search.approximate import EXACT, SPARE, Approximate, default_factory, nearest_rows, scored_again
from ssl_toolkit.files import sha256_of, sync, temporary_beside, write_atomic

FORMAT = 2
"""Version of what a folder holds; another one is refused."""

METRICS = ("cosine", "l2")

_SUFFIX = {"vectors": ".npy", "items": ".jsonl", "encoder": ".safetensors", "approximate": ".faiss"}
_BLOCK = 1 << 12  # queries at once
_COPIED = 1 << 16  # rows at once


@dataclasses.dataclass(frozen=True, eq=False)
class Hits:
    """The nearest items of M queries, best first.

    Attributes:
        score: (M, k) float32: cosine, descending; or Euclidean distance for ``l2``, ascending.
        position: (M, k) int64: place of each hit in the index.
        path: M lists of k paths.
        label: M lists of k labels: the class name where the index has names, the number where it has labels only,
            None where it has none.
    """

    score: NDArray[np.float32]
    position: NDArray[np.int64]
    path: list[list[str]]
    label: list[list[str | int | None]]

    def rows(self) -> list[list[dict[str, Any]]]:
        """A list a query, of a dictionary a hit with `rank` (from 1), `path`, `score` and `label`, ready for JSON."""
        return [
            [
                {"rank": rank, "path": path, "score": float(score), "label": label}
                for rank, (path, score, label) in enumerate(zip(*query, strict=True), start=1)
            ]
            for query in zip(self.path, self.score, self.label, strict=True)
        ]


@dataclasses.dataclass(eq=False)
class EmbeddingIndex:
    """The features of a set of images, the names of the images, and the encoder that made them.

    Made by `build` or `load`, not by hand.

    Attributes:
        vectors: (N, D) float32, of unit length for cosine; memory-mapped where the index was loaded.
        approximate: Finds candidates among them; None where search is exact.
        paths: N names.
        labels: (N,) int64, -1 where there is none; or None.
        classes: Names of the labels, or None.
        stamps: N states of the images' files when they were read (`file_stamp`), None where an image is no file.
        metric: ``cosine`` or ``l2``.
        factory: How neighbours were asked to be found, see `build`.
        encoder_file: The safetensors file of the encoder.
        encoder_sha256: What `check_encoder` compares with.
        data: The word for the data set, as the user wrote it.

    Example:
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
    paths: list[str]
    labels: NDArray[np.int64] | None
    classes: list[str] | None
    stamps: list[str | None]
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

        Raises:
            UsageError: Lengths differ, features are not (N, D) with N and D at least 1, or not finite; or FAISS
                cannot build what `factory` says.
        """
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        features = _checked("features", features, None)
        count = len(features)
        if count == 0 or len(paths) != count or (labels is not None and len(labels) != count):
            given = "no" if labels is None else str(len(labels))
            raise UsageError(f"an index needs a path a row: {count} rows, {len(paths)} paths, {given} labels")
        if classes is not None and labels is not None and int(labels.max()) >= len(classes):
            raise UsageError(f"label {int(labels.max())} has no name: there are {len(classes)} classes")
        vectors = unit(features) if metric == "cosine" else features
        return cls(
            vectors,
            _approximate(vectors, factory, metric),
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

        FAISS rounds differently for few and for many queries, and twice over for equal vectors; and an index may hold
        codes instead of vectors. So the candidates that it finds, some more than k, are scored again in float64 with
        the vectors themselves: equal vectors score equally, come in the order of the index, and score the same however
        many queries are asked at once.

        Args:
            queries: (M, D) from the same encoder. A zero row has cosine 0 with everything.
            k: Number of hits; more than the index holds means all of it.

        Raises:
            UsageError: `queries` is not (M, D) with the index's D, or not finite; `k` is below 1.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        queries = _checked("queries", queries, self.dimension)
        return self._hits(*self._ranked(unit(queries) if self.metric == "cosine" else queries, k))

    def neighbours_of(self, items: NDArray[np.int64], k: int = 10) -> Hits:
        """The k nearest others of items of the index; fewer where it holds fewer.

        Args:
            items: (M,), their positions.
            k: Number of hits.

        Raises:
            UsageError: `k` is below 1.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
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
            scratch: Folder whose disk holds the vectors until the index is saved; None: memory holds them.

        Raises:
            UsageError: Nothing would be left; as for `build`; or one index has numbers for labels, the other names.
        """
        keep = np.setdiff1d(np.arange(len(self)), drop)
        if not len(keep) + len(paths):
            raise UsageError("nothing would be left in the index: delete its folder instead")
        added = _checked("features", features, self.dimension)
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
            joined.approximate = _approximate(joined.vectors, self.factory, self.metric)
        else:
            joined.approximate = self.approximate.changed(joined.vectors, keep, self.metric)
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
            scratch: See `changed`.

        Raises:
            UsageError: There are none, or they do not fit together.
        """
        if not indexes:
            raise UsageError("there are no indexes to merge")
        first = indexes[0]
        for other in indexes[1:]:
            for what, one, two in (
                ("metric", first.metric, other.metric),
                ("encoder", first.encoder_sha256[:12], other.encoder_sha256[:12]),
            ):
                if one != two:
                    raise UsageError(
                        f"the {what} of {other.encoder_file.parent} is {two}, that of {first.encoder_file.parent} is "
                        f"{one}: indexes to be merged must have the same, build one of them again"
                    )
        later = set[str]()
        parts: list[tuple[EmbeddingIndex, NDArray[np.int64]]] = []
        for each in reversed(indexes):
            keep = [row for row, path in enumerate(each.paths) if path not in later]
            later.update(each.paths)
            parts.insert(0, (each, np.array(keep, dtype=np.int64)))
        joined = _joined(parts, scratch)
        if factory is None and all(each.factory == first.factory for each in indexes):
            factory = first.factory
        joined.factory, joined.data = factory, ", ".join(dict.fromkeys(each.data for each in indexes))
        joined.approximate = _approximate(joined.vectors, factory, first.metric)
        return joined

    def check_encoder(self, sha256: str) -> None:
        """Raise `UsageError` unless `sha256` is the hash of the encoder that made this index."""
        if sha256 != self.encoder_sha256:
            raise UsageError(
                f"the encoder of the queries ({sha256[:12]}) is not the one of the index ({self.encoder_sha256[:12]}): "
                "use the encoder in the index folder, or build the index again"
            )

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the index to a folder, such that it holds a whole index at every moment: the old one, then this one.

        Each part is written under a name that holds its hash, then ``manifest.json``, which names the parts, is
        replaced in one step, then parts that it does not name are deleted.

        Raises:
            UsageError: The folder holds an index and `overwrite` is False.
        """
        folder = Path(folder)
        if (folder / "manifest.json").exists() and not overwrite:
            raise UsageError(f"{folder} already holds an index: choose another folder, or overwrite it")
        folder.mkdir(parents=True, exist_ok=True)
        parts = {
            "vectors": _write_part(folder, "vectors", self._write_vectors),
            "items": _write_part(folder, "items", self._write_items),
            "encoder": _write_part(folder, "encoder", lambda path: shutil.copyfile(self.encoder_file, path)),
        }
        if (approximate := self.approximate) is not None:
            index = approximate.index
            parts["approximate"] = _write_part(folder, "approximate", lambda path: faiss.write_index(index, str(path)))
        sync(folder)
        text = json.dumps(_sealed(self._manifest(parts)), indent=2) + "\n"
        write_atomic(folder / "manifest.json", lambda path: path.write_text(text, encoding="utf-8"))
        _delete_stale(folder, {part["file"] for part in parts.values()})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EmbeddingIndex:
        """Read and verify an index: the hash of each part (FAISS files carry none of their own), and all counts.

        Raises:
            UsageError: There is no index in the folder.
            ToolkitError: A part is missing, damaged or of another version of this format; it is named.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        files = {name: _verified(folder, name, part) for name, part in manifest["parts"].items()}
        vectors = np.load(files["vectors"], mmap_mode="r")
        items = [json.loads(line) for line in files["items"].read_text(encoding="utf-8").splitlines()]
        approximate = None
        if "approximate" in files:
            approximate = Approximate(faiss.read_index(str(files["approximate"])), **manifest["approximate"])
        held = len(vectors) if approximate is None else approximate.index.ntotal
        if (*vectors.shape, len(items), held) != (manifest["count"], manifest["dimension"], *[manifest["count"]] * 2):
            raise _damaged(folder, "manifest.json", "its counts are not those of the parts")
        labels = np.array([item["label"] for item in items], dtype=np.int64) if manifest["labelled"] else None
        return cls(
            vectors,
            approximate,
            [item["path"] for item in items],
            labels,
            manifest["classes"],
            [item["stamp"] for item in items],
            manifest["metric"],
            manifest["factory"],
            files["encoder"],
            manifest["encoder_sha256"],
            manifest["data"],
        )

    def _ranked(
        self, queries: NDArray[np.float32], k: int, own: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions of the k nearest items, (M, k); without the queries' `own` positions where given."""
        k = min(k, len(self) - (own is not None))
        asked = k + (own is not None)
        score = np.empty((len(queries), k), dtype=np.float32)
        position = np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), _BLOCK):
            rows = slice(start, start + _BLOCK)
            block = np.ascontiguousarray(queries[rows])
            candidates = self._candidates(block, min(asked + SPARE, len(self)))
            exact, place = scored_again(self.vectors, block, candidates, self.metric)
            exact, place = exact[:, :asked], place[:, :asked]
            if own is not None:
                keep = not_own(place, own[rows])
                exact, place = exact[keep].reshape(len(block), k), place[keep].reshape(len(block), k)
            score[rows], position[rows] = exact, place
        return score, position

    def _candidates(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Positions of (about) the nearest vectors, (M, count)."""
        if self.approximate is None:
            return nearest_rows(self.vectors, queries, count, self.metric)
        candidates = self.approximate.search(queries, count)
        short = (candidates < 0).any(axis=1)  # the part of the index that was looked at holds fewer
        if short.any():
            candidates[short] = nearest_rows(self.vectors, queries[short], count, self.metric)
        return candidates

    def _hits(self, score: NDArray[np.float32], position: NDArray[np.int64]) -> Hits:
        return Hits(
            score,
            position,
            [[self.paths[place] for place in row] for row in position],
            [[self.label(place) for place in row] for row in position],
        )

    def label(self, place: int) -> str | int | None:
        """Class of an item: its name, its number where classes have none, or None where it has no label."""
        if self.labels is None or self.labels[place] < 0:
            return None
        label = int(self.labels[place])
        return label if self.classes is None else self.classes[label]

    def _write_vectors(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, self.vectors)

    def _write_items(self, path: Path) -> None:
        """One JSON object a line: a path may hold a line break, or bytes that are no text."""
        with path.open("w", encoding="utf-8") as file:
            for place, name in enumerate(self.paths):
                label = None if self.labels is None else int(self.labels[place])
                file.write(json.dumps({"path": name, "label": label, "stamp": self.stamps[place]}) + "\n")

    def _manifest(self, parts: dict[str, dict[str, str]]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "count": len(self),
            "dimension": self.dimension,
            "metric": self.metric,
            "factory": self.factory,
            "approximate": None if self.approximate is None else self.approximate.about(),
            "labelled": self.labels is not None,
            "classes": self.classes,
            "data": self.data,
            "encoder_sha256": self.encoder_sha256,
            "versions": {
                "ssl-toolkit": __version__,
                "python": platform.python_version(),
                "torch": version("torch"),
                "numpy": version("numpy"),
                "faiss-cpu": faiss.__version__,
            },
            "parts": parts,
        }


def file_stamp(path: str) -> str | None:
    """Size and time of change of a file, None where there is none: another stamp means that it may be another image."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return f"{found.st_size} {found.st_mtime_ns}"


def _approximate(vectors: NDArray[np.float32], factory: str | None, metric: str) -> Approximate | None:
    factory = factory or default_factory(len(vectors))
    return None if factory == EXACT else Approximate.build(vectors, factory, metric)


def _joined(
    parts: Sequence[tuple[EmbeddingIndex, NDArray[np.int64]]], scratch: str | os.PathLike[str] | None
) -> EmbeddingIndex:
    """The given positions of each index, one after another; how they are found is left to be decided."""
    first = parts[0][0]
    classes, labels = _joined_labels([(each.classes, each.labels, keep) for each, keep in parts])
    vectors = _room(sum(len(keep) for _, keep in parts), first.dimension, scratch)
    start = 0
    for each, keep in parts:
        for block in range(0, len(keep), _COPIED):
            rows = keep[block : block + _COPIED]
            vectors[start : start + len(rows)] = each.vectors[rows]
            start += len(rows)
    return dataclasses.replace(
        first,
        vectors=vectors,
        approximate=None,
        paths=[each.paths[row] for each, keep in parts for row in keep],
        labels=labels,
        classes=classes,
        stamps=[each.stamps[row] for each, keep in parts for row in keep],
    )


def _room(count: int, width: int, scratch: str | os.PathLike[str] | None) -> NDArray[np.float32]:
    """Space for vectors, (count, width): memory, or a file without a name, which ends with the last that uses it."""
    if scratch is None:
        return np.empty((count, width), dtype=np.float32)
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, dtype=np.float32, mode="r+", shape=(count, width))


def _joined_labels(
    parts: Sequence[tuple[list[str] | None, NDArray[np.int64] | None, NDArray[np.int64]]],
) -> tuple[list[str] | None, NDArray[np.int64] | None]:
    """Names of all classes in the order in which they appear, and the labels of the kept rows in terms of them."""
    labelled = [(classes, label) for classes, label, _ in parts if label is not None and (label >= 0).any()]
    if not labelled:
        return None, None
    kinds = {classes is None for classes, _ in labelled}
    if len(kinds) > 1:
        raise UsageError("labels of two kinds, names and bare numbers, cannot stand in one index: give --labels none")
    names = list(dict.fromkeys(name for classes, _ in labelled for name in classes or []))
    place = {name: number for number, name in enumerate(names)}
    joined = []
    for classes, label, keep in parts:
        if label is None or not (label >= 0).any():
            joined.append(np.full(len(keep), -1, dtype=np.int64))
        elif classes is None:
            joined.append(label[keep].astype(np.int64))
        else:
            lookup = np.array([*(place[name] for name in classes), -1])  # -1, no label, is the last
            joined.append(lookup[label[keep]])
    return (names or None), np.concatenate(joined)


def _checked(name: str, x: NDArray[np.float32], width: int | None) -> NDArray[np.float32]:
    """`x` as contiguous float32, (N, D); `UsageError` if it is not that, or not finite."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] < 1 or (width is not None and x.shape[1] != width):
        raise UsageError(f"{name} must be (N, {width or 'D'}), got {x.shape}")
    if bad := int((~np.isfinite(x).all(axis=1)).sum()):
        raise UsageError(f"{bad} of {len(x)} {name} are not finite")
    return x


def _write_part(folder: Path, name: str, writer: Callable[[Path], object]) -> dict[str, str]:
    """Write a part of an index under a name that holds its hash; what the manifest says of it."""
    suffix = _SUFFIX[name]
    with temporary_beside(folder / f"{name}{suffix}") as temporary:
        writer(temporary)
        sync(temporary)
        digest = sha256_of(temporary)
        file = f"{name}-{digest[:16]}{suffix}"
        os.replace(temporary, folder / file)
    return {"file": file, "sha256": digest}


def _delete_stale(folder: Path, keep: set[str]) -> None:
    """Delete parts that no manifest names, and what killed writers left; nothing that is not ours."""
    code = "[0-9a-f]" * 16
    patterns = [f"{name}-{code}{suffix}" for name, suffix in _SUFFIX.items()]
    patterns += [f".{name}.tmp-{code}{suffix}" for name, suffix in {**_SUFFIX, "manifest": ".json"}.items()]
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.name not in keep:
                path.unlink(missing_ok=True)


def _sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with a hash of its own content."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**content, "sha256": sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no index (no manifest.json): build one with `ssl-toolkit index`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sealed = _sealed(manifest)["sha256"] == manifest["sha256"]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise _damaged(folder, "manifest.json", "it cannot be read") from error
    if not sealed:
        raise _damaged(folder, "manifest.json", "its content does not match its hash")
    if manifest["format"] != FORMAT:
        raise ToolkitError(
            f"the index {folder} has format {manifest['format']}, this version reads {FORMAT}: build the index again"
        )
    return dict(manifest)


def _verified(folder: Path, name: str, part: dict[str, str]) -> Path:
    """The path of a part whose bytes are those that the manifest names."""
    path = folder / Path(part["file"]).name  # never outside the folder
    if not path.is_file():
        raise _damaged(folder, path.name, f"the {name} are missing" if name != "encoder" else "the encoder is missing")
    if sha256_of(path) != part["sha256"]:
        raise _damaged(folder, path.name, "its content does not match its hash")
    return path


def _damaged(folder: Path, file: str, what: str) -> ToolkitError:
    return ToolkitError(f"the index {folder} is damaged: {file}: {what}; build it again with `ssl-toolkit index`")
