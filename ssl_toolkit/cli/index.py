"""``ssl-toolkit index``: a search index over images."""

from pathlib import Path
from typing import Literal

from ssl_toolkit.cli.parser import Parser, say
from ssl_toolkit.errors import UsageError


def index(
    run: str,
    data: str,
    out: str,
    metric: Literal["cosine", "l2"] = "cosine",
    index: str = "auto",
    overwrite: bool = False,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Path:
    """Build a search index: a folder with vectors, paths and the encoder itself, checked whenever it is read.

    Args:
        run: Run folder or encoder file.
        data: Images (a folder, a .csv, a .npz or .npy, a word like cifar10:test).
        out: The folder to make.
        metric: How neighbours are compared.
        index: How they are found, in the words of FAISS's index_factory (Flat, HNSW32, "IVF4096,SQ8"); auto: exactly
            up to 200,000 images, beyond by inverted lists that are set to find 95 % of the ten nearest.
        overwrite: Whether an index in `out` may be replaced.
        labels: Whether subfolders of a folder are classes; auto: if they look like it.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of images that may be unreadable, in [0, 1]; they are listed in bad_images.csv.
        device: Where images are encoded.
        progress: Whether a progress bar is shown.

    Returns:
        The folder.

    Raises:
        UsageError: If the encoder or the data do not exist, or `out` holds an index already.
    """
    from ssl_toolkit.cli.common import encode_all, index_of, load_run_encoder, open_loader
    from ssl_toolkit.eval.search import empty_index
    from ssl_toolkit.files import make_folder

    folder = Path(out)
    if (folder / "manifest.json").exists() and not overwrite:
        raise UsageError(f"--out {out} holds an index already: name another folder, or give --overwrite")
    encoder, _ = load_run_encoder(run)
    loader = open_loader(
        encoder, data, data_root=data_root, labels=labels, workers=workers, max_bad_rate=max_bad_rate,
        progress=progress, bad_images_file=folder / "bad_images.csv",
    )  # fmt: skip
    if index != "auto":
        empty_index(index, len(loader.images), encoder.feature_dim, metric)  # before hours of work, not after
    make_folder(folder, "--out")
    features = encode_all(encoder, loader, device, progress)
    built = index_of(run, loader, features, metric, None if index == "auto" else index)
    built.save(folder, overwrite=overwrite)
    say(f"{len(built)} images, {built.dimension} features, {metric}, {built.how}")
    return folder


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("index", index, positional=("run",)).parse(argv)
    if settings is not None:
        print(index(**settings))
