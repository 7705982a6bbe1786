"""Search indexes over images: built, changed, merged."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
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
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.encoders import Encoder
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
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Path:
    """Build a search index, or change one: a folder with vectors, paths and the encoder itself, checked when read.

    In Python, `run` may be whatever `load_run_encoder` takes, and `data` whatever `open_images` takes.

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
        overwrite: Whether an index in `out` may be replaced.
        add: Add the images of `data` that the index in `out` does not hold.
        remove: Take the images of `data` out of it; of a .csv they need not be there any more.
        update: Make it hold what `data` holds: images that are new or were changed are encoded, no others; those that
            are gone, or cannot be read any more, are taken out.
        labels: Whether subfolders of a folder are classes; auto: if they look like it.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of the images of `data` that may be unreadable, in [0, 1]; they are listed in
            bad_images.csv.
        device: Where images are encoded.
        progress: Whether a progress bar is shown.

    Returns:
        The folder.

    Raises:
        UsageError: If the encoder or the data do not exist, `out` holds an index already and is not to be changed, or
            it holds none and is, or its encoder is another one.
    """
    from ssl_toolkit.files import make_folder
    from ssl_toolkit.tasks.common import image_loader, open_stills
    from ssl_toolkit.tasks.start import load_run_encoder, own_file

    folder = Path(out)
    change = _change(folder, add=add, remove=remove, update=update, overwrite=overwrite)
    encoder, metadata = load_run_encoder(run, data, data_root)
    old = _to_change(folder, metadata["sha256"]) if change in ("add", "remove", "update") else None
    images = open_stills(encoder, data, data_root=data_root, labels=labels)
    total = len(images)
    if old is None:
        _check_factory(index, total, encoder.feature_dim, metric)  # before hours of work, not after
    images, stamps, drop = _to_encode(images, old, change)
    loader = image_loader(
        encoder, images, workers=workers, max_bad_rate=max_bad_rate, progress=progress,
        bad_images_file=folder / "bad_images.csv", total=total,
    )  # fmt: skip
    make_folder(folder, "--out")
    items = _encoded(encoder, loader, stamps, device, progress, changes=old is not None)
    with own_file(run, encoder) as file:
        about = {"encoder_file": file, "encoder_sha256": metadata["sha256"], "data": images.word}
        factory = None if index == "auto" else index
        built = _built(items, old, drop, folder, metric=metric, factory=factory, **about)
        return _saved(built, folder, overwrite=bool(change))


def merge(indexes: Sequence[AnyIndex], out: AnyPath, index: str = "auto", overwrite: bool = False) -> Path:
    """Merge search indexes of one encoder, such as those of the shards of a large set of images.

    Vectors pass from disk to disk, so memory need not hold them; what finds them is trained and measured anew.

    Args:
        indexes: Index folders. An image that several of them hold, by its path, is taken from the last of these.
        out: The folder to make.
        index: How neighbours are found, in the words of FAISS's index_factory; auto: as all of them were asked to be,
            or else by the number of images.
        overwrite: Whether an index in `out` may be replaced; it may be one of those that are merged.

    Returns:
        The folder.

    Raises:
        UsageError: If one of them does not exist, they are of several encoders or metrics, or `out` holds an index.
        ToolkitError: If one of them is damaged.
    """
    from ssl_toolkit.eval.search.index import EmbeddingIndex
    from ssl_toolkit.files import make_folder
    from ssl_toolkit.tasks.common import open_index

    folder = Path(out)
    if (folder / "manifest.json").exists() and not overwrite:
        raise UsageError(f"--out {out} holds an index already: give --overwrite, or name another folder")
    parts = [open_index(part, "indexes") for part in indexes]
    total = sum(map(len, parts))
    _check_factory(index, total, parts[0].dimension, parts[0].metric)
    make_folder(folder, "--out")
    merged = EmbeddingIndex.merged(parts, None if index == "auto" else index, scratch=folder)
    if twice := total - len(merged):
        say(f"{twice} images are in several of them and are taken from the last of these")
    return _saved(merged, folder, overwrite)


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
        return EmbeddingIndex.build(**items, **about)
    built = old.changed(drop, **items, scratch=folder)
    say(f"{len(items['paths'])} encoded, {len(drop)} taken out")
    return built


def _saved(built: "EmbeddingIndex", folder: Path, overwrite: bool) -> Path:
    built.save(folder, overwrite)
    say(f"{len(built)} images, {built.dimension} features, {built.metric}, {built.how}")
    return folder


def _change(folder: Path, **flags: bool) -> str:
    """What is to be done to the index in a folder, of four things at most one; empty where there is none yet."""
    given = [name for name, is_set in flags.items() if is_set]
    if len(given) > 1:
        raise UsageError(f"{' '.join(f'--{name}' for name in given)}: give one of them")
    if not given and (folder / "manifest.json").exists():
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
    encoder: "Encoder", loader: "ImageLoader", stamps: list[str | None], device: str, progress: bool, changes: bool
) -> dict[str, Any]:
    """What goes into an index. Of `changes` to one there may be nothing, or nothing that can be read."""
    import numpy as np

    from ssl_toolkit.eval.features.extraction import NoFeaturesError
    from ssl_toolkit.tasks.common import encode_all

    nothing = {"features": np.empty((0, encoder.feature_dim), np.float32), "paths": []}
    if not len(loader.images):
        return nothing
    try:
        features = encode_all(encoder, loader, device, progress)
    except NoFeaturesError:
        if not changes:
            raise
        features = None
    if loader.bad:
        say(f"{len(loader.bad)} could not be read and are not in the index: {loader.bad.file}")
    if features is None:
        return nothing
    classes = loader.images.classes
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
