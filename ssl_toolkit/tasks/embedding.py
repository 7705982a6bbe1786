"""Features of images, on disk."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from pathlib import Path
from typing import Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.settings import AnyData, AnyPath, AnyTrained


def embed(
    run: AnyTrained,
    data: AnyData,
    out: AnyPath,
    overwrite: bool = False,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Path:
    """Write the features of images to a folder: features.npy, labels.npy, index.npy, paths.jsonl.

    In Python, `run` may be whatever `load_run_encoder` takes, and `data` whatever `open_images` takes.

    Args:
        run: Run folder or encoder file; or weights of timm by name (resnet18.a1_in1k), or a file of weights (see
            `architecture`).
        data: Images (a folder, a .csv, a .npz or .npy, a word like cifar10:test,
            wds:shards/ or hf:NAME:test).
        out: The folder to make.
        overwrite: Whether features in `out` may be replaced.
        labels: Whether subfolders of a folder are classes; auto: if they look like it.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of images that may be unreadable, in [0, 1]; they are listed in bad_images.csv.
        device: Where images are encoded.
        progress: Whether a progress bar is shown.

    Returns:
        The folder.

    Raises:
        UsageError: If the encoder or the data do not exist, or `out` holds features already.
    """
    from ssl_toolkit.files import make_folder
    from ssl_toolkit.tasks.common import encode_all, open_loader
    from ssl_toolkit.tasks.start import load_run_encoder

    folder = Path(out)
    if (folder / "features.npy").exists() and not overwrite:
        raise UsageError(f"--out {out} holds features already: name another folder, or give --overwrite")
    encoder, _ = load_run_encoder(run, data, data_root)
    loader = open_loader(
        encoder, data, data_root=data_root, labels=labels, workers=workers, max_bad_rate=max_bad_rate,
        progress=progress, bad_images_file=folder / "bad_images.csv",
    )  # fmt: skip
    make_folder(folder, "--out")
    encode_all(encoder, loader, device, progress, folder)
    return folder
