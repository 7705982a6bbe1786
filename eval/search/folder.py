"""The folder of an index: parts named by their hashes, and a manifest, replaced in one step, that names them."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from ssl_toolkit import __version__
from ssl_toolkit.errors import ToolkitError, UsageError, said_by
from ssl_toolkit.eval.search.approximate import Approximate
from ssl_toolkit.eval.search.names import Items
from ssl_toolkit.eval.search.on_disk import name_lists, open_on_disk
from ssl_toolkit.files import sha256_of, sync, temporary_beside, write_atomic

if TYPE_CHECKING:
    from ssl_toolkit.eval.search.index import EmbeddingIndex

FORMAT = 2
"""Version of what a folder holds; another one is refused."""

_SUFFIX = {"vectors": ".npy", "items": ".jsonl", "encoder": ".safetensors", "lists": ".ivfdata",
           "approximate": ".faiss"}  # fmt: skip


def write_index(index: EmbeddingIndex, folder: str | os.PathLike[str], overwrite: bool) -> None:
    """See `EmbeddingIndex.save`.

    Each part is written under a name that holds its hash, then ``manifest.json``, which names the parts, is replaced
    in one step, then parts that it does not name are deleted.
    """
    folder = Path(folder)
    if (folder / "manifest.json").exists() and not overwrite:
        raise UsageError(f"{folder} already holds an index: choose another folder, or overwrite it")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "vectors": _write_part(folder, "vectors", lambda path: _write_vectors(index, path)),
        "items": _write_part(folder, "items", lambda path: _write_items(index, path)),
        "encoder": _write_part(folder, "encoder", lambda path: shutil.copyfile(index.encoder_file, path)),
    }
    if (approximate := index.approximate) is not None:
        inner = approximate.index
        if approximate.lists is not None:
            parts["lists"] = _write_lists(folder, approximate)
        parts["approximate"] = _write_part(folder, "approximate", lambda path: faiss.write_index(inner, str(path)))
    sync(folder)
    text = json.dumps(sealed(_manifest(index, parts)), indent=2) + "\n"
    write_atomic(folder / "manifest.json", lambda path: path.write_text(text, encoding="utf-8"))
    _delete_stale(folder, {part["file"] for part in parts.values()})


def read_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The attributes of the `EmbeddingIndex` in a folder; see `EmbeddingIndex.load`."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    files = {name: _verified(folder, name, part) for name, part in manifest["parts"].items()}
    vectors = np.load(files["vectors"], mmap_mode="r")
    items = Items(files["items"])
    approximate = None
    if "approximate" in files:
        lists = files.get("lists")
        try:
            inner = (
                faiss.read_index(str(files["approximate"]))
                if lists is None
                else open_on_disk(files["approximate"], lists)
            )
        except (RuntimeError, ValueError) as error:
            raise _damaged(folder, files["approximate"].name, said_by(error)) from error
        approximate = Approximate(inner, **manifest["approximate"], lists=lists)
    held = len(vectors) if approximate is None else approximate.index.ntotal
    if (*vectors.shape, len(items), held) != (manifest["count"], manifest["dimension"], *[manifest["count"]] * 2):
        raise _damaged(folder, "manifest.json", "its counts are not those of the parts")
    return {
        "vectors": vectors,
        "approximate": approximate,
        "paths": items.column("path"),
        "labels": items.labels() if manifest["labelled"] else None,
        "stamps": items.column("stamp"),
        "encoder_file": files["encoder"],
        **{name: manifest[name] for name in ("classes", "metric", "factory", "encoder_sha256", "data")},
    }


def _manifest(index: EmbeddingIndex, parts: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "count": len(index),
        "dimension": index.dimension,
        "metric": index.metric,
        "factory": index.factory,
        "approximate": None if index.approximate is None else index.approximate.about(),
        "labelled": index.labels is not None,
        "classes": index.classes,
        "data": index.data,
        "encoder_sha256": index.encoder_sha256,
        "versions": {
            "ssl-toolkit": __version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "numpy": version("numpy"),
            "faiss-cpu": faiss.__version__,
        },
        "parts": parts,
    }


def _write_vectors(index: EmbeddingIndex, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, index.vectors)


def _write_items(index: EmbeddingIndex, path: Path) -> None:
    """One JSON object a line: a path may hold a line break, or bytes that are no text."""
    with path.open("w", encoding="utf-8") as file:
        for place, (name, stamp) in enumerate(zip(index.paths, index.stamps, strict=True)):
            label = None if index.labels is None else int(index.labels[place])
            file.write(json.dumps({"path": name, "label": label, "stamp": stamp}) + "\n")


def _write_lists(folder: Path, approximate: Approximate) -> dict[str, str]:
    """Put the lists of an index beside it: those that were made for it are moved."""
    assert approximate.lists is not None
    digest = sha256_of(approximate.lists)
    file = folder / f"lists-{digest[:16]}{_SUFFIX['lists']}"
    if ".tmp-" in approximate.lists.name and approximate.lists.parent == folder:
        sync(approximate.lists)
        os.replace(approximate.lists, file)
        approximate.lists = file
    elif not file.exists() or not file.samefile(approximate.lists):
        _write_part(folder, "lists", lambda path: shutil.copyfile(approximate.lists, path))  # type: ignore[arg-type]
    name_lists(approximate.index, file)
    return {"file": file.name, "sha256": digest}


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


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with a hash of its own content."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**content, "sha256": sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest says, as it was sealed.

    Raises:
        UsageError: There is none.
        ToolkitError: It is damaged or of another version of this format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no index (no manifest.json): build one with `ssl-toolkit index`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        whole = sealed(manifest)["sha256"] == manifest["sha256"]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise _damaged(folder, "manifest.json", "it cannot be read") from error
    if not whole:
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
