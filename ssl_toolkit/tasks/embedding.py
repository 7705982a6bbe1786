"""Features of images, on disk."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from pathlib import Path
from typing import Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.settings import AnyData, AnyPath, AnyTrained


def embed(
    run: AnyTrained,
    data: AnyData,
    out: AnyPath,
    overwrite: bool = False,
    shard: str | None = None,
    parquet: bool = False,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Path:
    """Write the features of images to a folder: features.npy, labels.npy, index.npy, paths.jsonl.

    The same command goes on where a killed one was. In Python, `run` may be whatever `load_run_encoder` takes, and
    `data` whatever `open_images` takes.

    Args:
        run: Run folder or encoder file; or weights of timm by name (resnet18.a1_in1k), or a file of weights (see
            `architecture`).
        data: Images (a folder, a .csv, a .npz or .npy, a word like cifar10:test,
            wds:shards/ or hf:NAME:test).
        out: The folder to make.
        overwrite: Replace the features that `out` holds.
        shard: Part of the images, i/n with i from 0 to n - 1, which goes to a folder of its own within `out`; merge
            joins them. If not given, torchrun and srun give each of their processes one.
        parquet: Write features.parquet too, a row an image with its index, path, label and vector (extra parquet).
        labels: Classes of a folder: its subfolders (folder), or these if they look it (auto); none drops all labels.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of images that may be unreadable, in [0, 1]; they are listed in bad_images.csv.
        device: Where images are encoded.
        progress: Show a progress bar.

    Returns:
        The folder; of a part, its own.

    Raises:
        UsageError: If the encoder or the data do not exist, or `out` holds features already; those of a part that are
            of the same images and encoder are left as they are.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, embed
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = embed(encoder, "shapes:train:40", f"{folder}/features", workers=0, progress=False)
        ...     sorted(path.name for path in made.iterdir())
        ['features.json', 'features.npy', 'index.npy', 'labels.npy', 'paths.jsonl']
    """
    from ssl_toolkit.eval.features.growing import Growing
    from ssl_toolkit.eval.features.joining import read_about
    from ssl_toolkit.eval.features.parquet import require_parquet, write_parquet
    from ssl_toolkit.files import make_folder
    from ssl_toolkit.tasks.common import check_reading, open_stills
    from ssl_toolkit.tasks.encoding import encode_into, states
    from ssl_toolkit.tasks.sharding import own_shard
    from ssl_toolkit.tasks.start import load_run_encoder

    check_reading(workers, max_bad_rate)
    part = own_shard(shard)
    folder = Path(out) if part is None else part.folder(out)
    if parquet:
        require_parquet()
    if part is None and (folder / "features.npy").exists() and not overwrite:
        raise UsageError(f"--out {out} holds features already: name another folder, or give --overwrite")
    encoder, metadata = load_run_encoder(run, data, data_root)
    images = open_stills(encoder, data, data_root=data_root, labels=labels)
    first, total = 0, len(images)
    if part is not None:
        first, images = part.first(total), part.of(images)
    state = states(images, metadata["sha256"])
    about = {
        "encoder_sha256": metadata["sha256"],
        "data": images.word,
        "images": len(images),
        "first": first,
        "of": total,
        "state": None if state is None else state(0, len(images)),
    }
    if part is not None and (folder / "features.npy").exists() and not overwrite:
        if state is None or about != {key: read_about(folder).get(key) for key in about}:
            raise UsageError(f"{folder} holds features of other images or of another encoder: give --overwrite")
        say(f"shard {part} is there already")
        return folder
    make_folder(folder, "--out")
    with Growing(folder, state, first) as growing:
        features, _ = encode_into(
            growing, encoder, images, folder / "bad_images.csv", device, workers=workers, max_bad_rate=max_bad_rate,
            progress=progress,
        )  # fmt: skip
        if parquet:
            write_parquet(features, folder / "features.parquet")
        growing.finish(features.paths, about)
    return folder
