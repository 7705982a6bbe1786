"""Search indexes over images: built, changed, merged."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.settings import AnyData, AnyIndex, AnyPath, AnyTrained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.eval.features.growing import Growing
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    Rows = NDArray[np.int64]


def index(
    run: AnyTrained,
    data: AnyData,
    out: AnyPath,
    metric: Literal["cosine", "l2"] = "cosine",
    index: str = "auto",
    overwrite: bool = False,
    add: bool = False,
    remove: bool = False,
    update: bool = False,
    shard: str | None = None,
    to: str | None = None,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Path:
    """Build a search index, or change one: a folder with vectors, paths and the encoder itself, checked when read.

    The same command goes on where a killed one was. In Python, `run` may be whatever `load_run_encoder` takes, and
    `data` whatever `open_images` takes.

    Args:
        run: Run folder or encoder file; or weights of timm by name (resnet18.a1_in1k), or a file of weights (see
            `architecture`). To change an index, the encoder that made it.
        data: Images (a folder, a .csv, a .npz or .npy, a word like cifar10:test,
            wds:shards/ or hf:NAME:test).
        out: The folder to make.
        metric: How neighbours are compared; an index that is changed keeps its own.
        index: How they are found, in the words of FAISS's index_factory (Flat, HNSW32, "IVF4096,SQ8"); auto: exactly
            up to 200,000 images, beyond by inverted lists that are set to find 95 % of the ten nearest. An index that
            is changed keeps its own.
        overwrite: Replace the index that `out` holds.
        add: Add the images of `data` that the index in `out` does not hold.
        remove: Take the images of `data` out of it; of a .csv they need not be there any more.
        update: Make it hold what `data` holds: images that are new or were changed are encoded, no others; those that
            are gone, or cannot be read any more, are taken out.
        shard: Part of the images, i/n with i from 0 to n - 1, which becomes an index of its own within `out`, searched
            exactly; merge joins them and decides how they are found. If not given, torchrun and srun give each of
            their processes one.
        to: Database that the index is written to as well, as KIND:ADDRESS#TABLE: lancedb:photos.lancedb,
            milvus:photos.db, qdrant:http://localhost:6333, pgvector:postgresql://user@host/name; the extra of that
            name brings its client. `overwrite`, or a change, replaces the table that is there.
        labels: Classes of a folder: its subfolders (folder), or these if they look it (auto); none drops all labels.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of the images of `data` that may be unreadable, in [0, 1]; they are listed in
            bad_images.csv.
        device: Where images are encoded.
        progress: Show a progress bar.

    Returns:
        The folder.

    Raises:
        UsageError: If the encoder or the data do not exist, `out` holds an index already and is not to be changed, or
            it holds none and is, or its encoder is another one.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, EmbeddingIndex, index
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = index(encoder, "shapes:train:40", f"{folder}/index", workers=0, progress=False)
        ...     EmbeddingIndex.load(made).vectors.shape
        (40, 256)
    """
    from ssl_toolkit.encoders import text_beside
    from ssl_toolkit.eval.features.growing import Growing
    from ssl_toolkit.eval.search.databases import hidden, open_database, store
    from ssl_toolkit.eval.search.index import EmbeddingIndex
    from ssl_toolkit.files import make_folder
    from ssl_toolkit.tasks.common import check_reading, open_stills
    from ssl_toolkit.tasks.encoding import states
    from ssl_toolkit.tasks.sharding import own_shard
    from ssl_toolkit.tasks.start import load_run_encoder, own_file

    check_reading(workers, max_bad_rate)
    part = own_shard(shard)
    if part is not None and index not in ("auto", "Flat"):
        raise UsageError(f"--index {index}: parts are searched exactly, give it to merge")
    folder = Path(out) if part is None else part.folder(out)
    if to is not None and part is not None:
        raise UsageError(f"--to {hidden(to)} is for a whole index: merge the parts, and give it with --add")
    change = _change(folder, part is not None, add=add, remove=remove, update=update, overwrite=overwrite)
    if to is not None:
        with open_database(to) as database:  # before hours of work, not after, which a connection may not last
            database.check_free(bool(change))
    encoder, metadata = load_run_encoder(run, data, data_root)
    images = open_stills(encoder, data, data_root=data_root, labels=labels)
    images = images if part is None else part.of(images)
    old = _to_change(folder, metadata["sha256"]) if change in ("add", "remove", "update", "keep") else None
    if change == "keep" and old is not None:
        return _kept(old, images, folder)
    total = len(images)
    if old is None:
        _check_factory(index, total, encoder.feature_dim, metric)  # before hours of work, not after
    images, stamps, drop = _to_encode(images, old, change)
    make_folder(folder, "--out")
    with Growing(folder, states(images, metadata["sha256"])) as growing, own_file(run, encoder) as file:
        items = _encoded(
            encoder, images, stamps, folder, growing, changes=old is not None, device=device, workers=workers,
            max_bad_rate=max_bad_rate, progress=progress, total=total,
        )  # fmt: skip
        about = {"encoder_file": file, "encoder_sha256": metadata["sha256"], "data": images.word}
        factory = "Flat" if part is not None else None if index == "auto" else index
        built = _built(items, old, drop, folder, metric=metric, factory=factory, **about)
        text = text_beside(file) or (None if old is None else text_beside(folder))
        _saved(built, folder, overwrite=bool(change), text=text)
        growing.delete()
    if to is not None:
        with open_database(to) as database:
            store(EmbeddingIndex.load(folder), database, overwrite=bool(change))
            say(f"written to {database.word}, table {database.table}")
    return folder


def merge(indexes: Sequence[AnyIndex], out: AnyPath, index: str = "auto", overwrite: bool = False) -> Path:
    """Merge search indexes of one encoder, or the parts of a large set of images, indexes or features.

    Vectors pass from disk to disk, so memory need not hold them; what finds them is trained and measured anew.

    Args:
        indexes: Index folders, or a folder with the parts that index or embed have made of one set. An image that
            several indexes hold, by its path, is taken from the last of these.
        out: The folder to make.
        index: How neighbours are found, in the words of FAISS's index_factory; auto: as all of them were asked to be,
            or else by the number of images.
        overwrite: Replace the index that `out` holds; it may be one of those that are merged.

    Returns:
        The folder.

    Raises:
        UsageError: If one of them does not exist, they are of several encoders or metrics, or `out` holds an index.
        ToolkitError: If one of them is damaged.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import EmbeddingIndex, Encoder, index, merge
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parts = [f"{folder}/{split}" for split in ("train", "test")]
        ...     for split, part in zip(("train", "test"), parts, strict=True):
        ...         _ = index(encoder, f"shapes:{split}:40", part, workers=0, progress=False)
        ...     len(EmbeddingIndex.load(merge(parts, f"{folder}/both")).paths)
        80
    """
    from ssl_toolkit.encoders import text_beside
    from ssl_toolkit.eval.search.approximate import default_factory
    from ssl_toolkit.eval.search.index import EmbeddingIndex
    from ssl_toolkit.files import make_folder
    from ssl_toolkit.tasks.common import open_index
    from ssl_toolkit.tasks.sharding import with_all_shards

    folder = Path(out)
    for name, what in (("manifest.json", "an index"), ("features.npy", "features")):
        if (folder / name).exists() and not overwrite:
            raise UsageError(f"--out {out} holds {what} already: give --overwrite, or name another folder")
    given = with_all_shards(indexes)
    if all(isinstance(each, str | os.PathLike) and (Path(each) / "features.json").exists() for each in given):
        if index != "auto":
            raise UsageError(f"--index {index}: {given[0]} holds features, which are not searched")
        return _merged_features(given, folder)
    parts = [open_index(part, "indexes") for part in given]
    total = sum(map(len, parts))
    _check_factory(index, total, parts[0].dimension, parts[0].metric)
    make_folder(folder, "--out")
    if index == "auto" and given != list(indexes):  # of shards, each is searched exactly
        index = default_factory(total)
    merged = EmbeddingIndex.merged(parts, None if index == "auto" else index, scratch=folder)
    if twice := total - len(merged):
        say(f"{twice} images are in several of them and are taken from the last of these")
    return _saved(merged, folder, overwrite, text_beside(parts[0].encoder_file))


def _merged_features(parts: "list[Any]", folder: Path) -> Path:
    from ssl_toolkit.eval.features.joining import join_features

    say(f"{join_features(parts, folder)} features")
    return folder


def _check_factory(index: str, count: int, dimension: int, metric: str) -> None:
    from ssl_toolkit.eval.search.approximate import empty_index

    if index != "auto":
        empty_index(index, count, dimension, metric)


def _built(
    items: dict[str, Any], old: "EmbeddingIndex | None", drop: "Rows", folder: Path, **about: Any
) -> "EmbeddingIndex":
    """An index of what was encoded; or the old one, without the items to drop and with these."""
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    if old is None:
        return EmbeddingIndex.build(**items, **about, scratch=folder)
    built = old.changed(drop, scratch=folder, **items)
    say(f"{len(items['paths'])} encoded, {len(drop)} taken out")
    return built


def _kept(old: "EmbeddingIndex", images: "ImageSet", folder: Path) -> Path:
    """The index of a part that is there already."""
    from ssl_toolkit.eval.search.index import file_stamp

    missing = {images.path(row): file_stamp(images.path(row)) for row in range(len(images))}
    if not all(path in missing and missing[path] == stamp for path, stamp in zip(old.paths, old.stamps, strict=True)):
        raise UsageError(f"{folder} holds an index of other images: give --update or --overwrite")
    say(f"{folder.name} is there already")
    return folder


def _saved(built: "EmbeddingIndex", folder: Path, overwrite: bool, text: Path | None) -> Path:
    """Write an index to its folder, with the text tower that belongs to its encoder, if there is one."""
    from ssl_toolkit.encoders import TEXT_FILE, text_beside
    from ssl_toolkit.files import write_atomic

    content = text.read_bytes() if text is not None else None
    built.save(folder, overwrite)
    if content is not None:
        write_atomic(folder / TEXT_FILE, lambda temporary: temporary.write_bytes(content))
    elif (other := text_beside(folder)) is not None:
        other.unlink()  # of the encoder of another index, which was here before
    say(f"{len(built)} images, {built.dimension} features, {built.metric}, {built.how}")
    return folder


def _change(folder: Path, is_part: bool, **flags: bool) -> str:
    """What is to be done to the index in a folder, of four things at most one; empty where there is none yet.

    That of a part stays: of several processes whose command is given again, some may have been done.
    """
    given = [name for name, is_set in flags.items() if is_set]
    if len(given) > 1:
        raise UsageError(f"{' '.join(f'--{name}' for name in given)}: give one of them")
    if not given and (folder / "manifest.json").exists():
        if is_part:
            return "keep"
        raise UsageError(
            f"--out {folder} holds an index already: change it by --add, --remove or --update, give --overwrite, or "
            "name another folder"
        )
    return given[0] if given else ""


def _to_change(folder: Path, sha256: str) -> "EmbeddingIndex":
    """The index in a folder, which is of this encoder."""
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    old = EmbeddingIndex.load(folder)
    old.check_encoder(sha256)
    return old


def _to_encode(
    images: "ImageSet", old: "EmbeddingIndex | None", change: str
) -> "tuple[ImageSet, list[str | None], Rows]":
    """The images that are to be encoded, the states of their files, and the items of the old index that go."""
    import numpy as np

    from ssl_toolkit.data.image_set import Subset
    from ssl_toolkit.eval.search.index import file_stamp
    from ssl_toolkit.tasks.common import is_nameless

    stamps = [file_stamp(images.path(row)) for row in range(len(images))]  # before they are read
    if old is None:
        return images, stamps, np.empty(0, np.int64)
    if is_nameless(images.path(0)):
        raise UsageError(f"data is {images.word}, whose images have no names to change an index by: overwrite it")
    drop, rows = _difference(old, images, stamps, change)
    return Subset(images, rows), [stamps[row] for row in rows], drop


def _encoded(
    encoder: "Encoder",
    images: "ImageSet",
    stamps: list[str | None],
    folder: Path,
    growing: "Growing",
    changes: bool,
    **options: Any,
) -> dict[str, Any]:
    """What goes into an index. Of `changes` to one there may be nothing, or nothing that can be read."""
    import numpy as np

    from ssl_toolkit.eval.features.extraction import NoFeaturesError
    from ssl_toolkit.tasks.encoding import encode_into

    nothing = {"features": np.empty((0, encoder.feature_dim), np.float32), "paths": []}
    if not len(images):
        return nothing
    try:
        features, loader = encode_into(growing, encoder, images, folder / "bad_images.csv", **options)
    except NoFeaturesError:
        if not changes:
            raise
        say(f"{len(images)} could not be read and are not in the index: {folder / 'bad_images.csv'}")
        return nothing
    if loader.bad:
        say(f"{len(loader.bad)} could not be read and are not in the index: {loader.bad.file}")
    classes = images.classes
    return {
        "features": features.x,
        "paths": features.paths,
        "labels": None if classes is None else features.label,
        "classes": classes,
        "stamps": [stamps[row] for row in features.index],
    }


def _difference(
    old: "EmbeddingIndex", images: "ImageSet", stamps: list[str | None], change: str
) -> "tuple[Rows, Rows]":
    """Which items of an index go, and which of the images are to be encoded."""
    import numpy as np

    place = {path: number for number, path in enumerate(old.paths)}
    paths = [images.path(row) for row in range(len(images))]
    if change == "remove":
        drop, rows = [place[path] for path in paths if path in place], list[int]()
    else:
        rows = [row for row, path in enumerate(paths) if path not in place]
        drop = []
    if change == "update":
        there = set(paths)
        stale = [row for row, path in enumerate(paths) if path in place and stamps[row] != old.stamps[place[path]]]
        rows = sorted(rows + stale)
        drop = [number for path, number in place.items() if path not in there] + [place[paths[row]] for row in stale]
    return np.array(sorted(drop), dtype=np.int64), np.array(rows, dtype=np.int64)
