"""``ssl-toolkit index``: a search index over images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    Rows = NDArray[np.int64]


def index(
    run: str,
    data: str,
    out: str,
    metric: Literal["cosine", "l2"] = "cosine",
    index: str = "auto",
    overwrite: bool = False,
    add: bool = False,
    remove: bool = False,
    update: bool = False,
    architecture: str | None = None,
    weights_key: str | None = None,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Path:
    """Build a search index, or change one: a folder with vectors, paths and the encoder itself, checked when read.

    Args:
        run: Run folder or encoder file; or weights of timm by name (resnet18.a1_in1k), or a file of weights (see
            `architecture`). To change an index, the encoder that made it.
        data: Images (a folder, a .csv, a .npz or .npy, a word like cifar10:test).
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
        architecture: Timm architecture (or convnet) of a file of weights of another project; `run` is that file.
        weights_key: Which of several networks in that file, such as student; if not given, the teacher or the only one.
        image_size: Side of the images that such weights are shown, pixels; if not given, what timm shows them.
        mean: Mean of each channel that they were trained with, in [0, 1]; if not given, timm's, of a file ImageNet's.
        std: Standard deviation likewise.
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
    from ssl_toolkit.data.image_set import Subset
    from ssl_toolkit.eval.search.approximate import empty_index
    from ssl_toolkit.eval.search.index import EmbeddingIndex, file_stamp
    from ssl_toolkit.files import make_folder
    from ssl_toolkit.tasks.common import image_loader, open_stills
    from ssl_toolkit.tasks.start import load_run_encoder, own_file

    folder = Path(out)
    flags = {"add": add, "remove": remove, "update": update, "overwrite": overwrite}
    given = [f"--{name}" for name, is_set in flags.items() if is_set]
    if len(given) > 1:
        raise UsageError(f"{' '.join(given)}: give one of them")
    if not given and (folder / "manifest.json").exists():
        raise UsageError(
            f"--out {out} holds an index already: change it by --add, --remove or --update, give --overwrite, or name "
            "another folder"
        )
    encoder, metadata = load_run_encoder(run, architecture, weights_key, image_size, mean, std)
    old = EmbeddingIndex.load(folder) if add or remove or update else None
    if old is not None:
        old.check_encoder(metadata["sha256"])
    images = open_stills(encoder, data, data_root=data_root, labels=labels)
    stamps = [file_stamp(images.path(row)) for row in range(len(images))]  # before they are read
    total = len(images)
    if old is not None:
        drop, rows = _difference(old, images, stamps, given[0])
        images, stamps = Subset(images, rows), [stamps[row] for row in rows]
    elif index != "auto":
        empty_index(index, total, encoder.feature_dim, metric)  # before hours of work, not after
    loader = image_loader(
        encoder, images, workers=workers, max_bad_rate=max_bad_rate, progress=progress,
        bad_images_file=folder / "bad_images.csv", total=total,
    )  # fmt: skip
    make_folder(folder, "--out")
    items = _encoded(encoder, loader, stamps, device, progress, changes=old is not None)
    if loader.bad:
        say(f"{len(loader.bad)} could not be read and are not in the index: {loader.bad.file}")
    with own_file(run, architecture, encoder) as file:
        if old is None:
            built = EmbeddingIndex.build(
                **items, metric=metric, factory=None if index == "auto" else index, encoder_file=file,
                encoder_sha256=metadata["sha256"], data=data,
            )  # fmt: skip
        else:
            built = old.changed(drop, **items, scratch=folder)
            say(f"{len(items['paths'])} encoded, {len(drop)} taken out")
        built.save(folder, overwrite=bool(given))
    say(f"{len(built)} images, {built.dimension} features, {built.metric}, {built.how}")
    return folder


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
    if change == "--remove":
        drop, rows = [place[path] for path in paths if path in place], list[int]()
    else:
        rows = [row for row, path in enumerate(paths) if path not in place]
        drop = []
    if change == "--update":
        there = set(paths)
        stale = [row for row, path in enumerate(paths) if path in place and stamps[row] != old.stamps[place[path]]]
        rows = sorted(rows + stale)
        drop = [number for path, number in place.items() if path not in there] + [place[paths[row]] for row in stale]
    return np.array(sorted(drop), dtype=np.int64), np.array(rows, dtype=np.int64)


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("index", index, positional=("run",)).parse(argv)
    if settings is not None:
        print(index(**settings))
