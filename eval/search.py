"""Nearest images by exact search: an index that is whole or absent on disk, and refuses what does not fit it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from ssl_toolkit import __version__
from ssl_toolkit.encoders import encoder_metadata
from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name
from ssl_toolkit.eval.knn import METRICS, unit
from ssl_toolkit.files import sha256_of, sync, temporary_beside, write_atomic

FORMAT = 1
"""Version of what a folder holds; another one is refused."""

_SUFFIX = {"vectors": ".faiss", "items": ".jsonl", "encoder": ".safetensors"}
_SPARE = 32  # candidates beyond k that are scored again, see EmbeddingIndex.search
_SCORED = 1 << 24  # numbers gathered at once to score again: bounds them to 64 MB


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
        faiss_index: Holds the vectors, of unit length for cosine.
        paths: N names.
        labels: (N,) int64, -1 where there is none; or None.
        classes: Names of the labels, or None.
        metric: ``cosine`` or ``l2``.
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

    faiss_index: Any
    paths: list[str]
    labels: NDArray[np.int64] | None
    classes: list[str] | None
    metric: str
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
        encoder_file: str | os.PathLike[str],
        encoder_sha256: str | None = None,
        data: str = "",
    ) -> EmbeddingIndex:
        """An exact index, in memory; `save` writes it.

        Args:
            features: (N, D), finite.
            paths: N names of images, any text.
            labels: (N,), -1 where there is none.
            classes: Names of the labels.
            metric: ``cosine`` or ``l2``.
            encoder_file: The file that the encoder was loaded from; `save` copies it.
            encoder_sha256: `Encoder.sha256`; None takes it from the metadata of the file.
            data: The word for the data set, to be kept with the index.

        Raises:
            UsageError: Lengths differ, features are not (N, D) with N and D at least 1, or not finite.
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
        flat = (faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2)(features.shape[1])
        flat.add(unit(features) if metric == "cosine" else features)
        return cls(
            flat,
            list(paths),
            None if labels is None else labels.astype(np.int64),
            None if classes is None else list(classes),
            metric,
            Path(encoder_file),
            encoder_sha256 or encoder_metadata(Path(encoder_file))["sha256"],
            data,
        )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def dimension(self) -> int:
        """Width D of the features."""
        return int(self.faiss_index.d)

    def search(self, queries: NDArray[np.float32], k: int = 10) -> Hits:
        """The k nearest items of each query.

        FAISS rounds differently for few and for many queries, and twice over for equal vectors. So the candidates that
        it finds, some more than k, are scored again in float64: equal vectors score equally, come in the order of the
        index, and score the same however many queries are asked at once.

        Args:
            queries: (M, D) from the same encoder. A zero row has cosine 0 with everything.
            k: Number of hits; more than the index holds means all of it.

        Raises:
            UsageError: `queries` is not (M, D) with the index's D, or not finite; `k` is below 1.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        queries = _checked("queries", queries, self.dimension)
        if self.metric == "cosine":
            queries = unit(queries)
        k = min(k, len(self))
        faiss.omp_set_num_threads(torch.get_num_threads())  # one setting for both; FAISS alone would take every core
        _, candidates = self.faiss_index.search(queries, min(k + _SPARE, len(self)))
        score, position = self._score_again(queries, candidates)
        position = position[:, :k]
        return Hits(
            score[:, :k].astype(np.float32),
            position,
            [[self.paths[place] for place in row] for row in position],
            [[self._label(place) for place in row] for row in position],
        )

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
            "vectors": _write_part(folder, "vectors", lambda path: faiss.write_index(self.faiss_index, str(path))),
            "items": _write_part(folder, "items", self._write_items),
            "encoder": _write_part(folder, "encoder", lambda path: shutil.copyfile(self.encoder_file, path)),
        }
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
        files = {name: _verified(folder, name, manifest["parts"][name]) for name in _SUFFIX}
        flat = faiss.read_index(str(files["vectors"]))
        items = [json.loads(line) for line in files["items"].read_text(encoding="utf-8").splitlines()]
        if (flat.ntotal, flat.d, len(items)) != (manifest["count"], manifest["dimension"], manifest["count"]):
            raise _damaged(folder, "manifest.json", "its counts are not those of the parts")
        labels = np.array([item["label"] for item in items], dtype=np.int64) if manifest["labelled"] else None
        return cls(
            flat,
            [item["path"] for item in items],
            labels,
            manifest["classes"],
            manifest["metric"],
            files["encoder"],
            manifest["encoder_sha256"],
            manifest["data"],
        )

    def _score_again(
        self, queries: NDArray[np.float32], candidates: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Cosines or distances of candidates, (M, K), best first, and their positions; equal ones by position."""
        vectors = faiss.rev_swig_ptr(self.faiss_index.get_xb(), len(self) * self.dimension).reshape(len(self), -1)
        score = np.empty(candidates.shape, dtype=np.float64)
        step = max(_SCORED // (candidates.shape[1] * self.dimension), 1)
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            near, query = vectors[candidates[rows]].astype(np.float64), queries[rows].astype(np.float64)
            if self.metric == "cosine":
                score[rows] = np.einsum("mkd,md->mk", near, query)
            else:
                score[rows] = np.sqrt(((near - query[:, None]) ** 2).sum(axis=2))
        order = np.lexsort((candidates, -score if self.metric == "cosine" else score))
        return np.take_along_axis(score, order, axis=1), np.take_along_axis(candidates, order, axis=1)

    def _label(self, place: int) -> str | int | None:
        if self.labels is None or self.labels[place] < 0:
            return None
        label = int(self.labels[place])
        return label if self.classes is None else self.classes[label]

    def _write_items(self, path: Path) -> None:
        """One JSON object a line: a path may hold a line break, or bytes that are no text."""
        with path.open("w", encoding="utf-8") as file:
            for place, name in enumerate(self.paths):
                label = None if self.labels is None else int(self.labels[place])
                file.write(json.dumps({"path": name, "label": label}) + "\n")

    def _manifest(self, parts: dict[str, dict[str, str]]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "count": len(self),
            "dimension": self.dimension,
            "metric": self.metric,
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
