"""Images of any source as shards."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import json
from pathlib import Path
from typing import BinaryIO, Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.settings import AnyData, AnyPath, AnyRange

SETTINGS = "pack.json"


def pack(
    data: AnyData,
    out: AnyPath,
    size: int | None = None,
    shard_mb: float = 500,
    shuffle: bool = False,
    overwrite: bool = False,
    labels: Literal["auto", "folder", "none"] = "auto",
    channels: int | None = None,
    range: AnyRange | None = None,
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    progress: bool = True,
) -> Path:
    """Write images as shards, tar files as WebDataset has them, with labels, lists of their images and checksums.

    The same command goes on where it was stopped. In Python, `data` may be whatever `open_images` takes.

    Args:
        data: Images of any source (a folder, a .csv, a word like cifar10:train or hf:NAME:train).
        out: The folder to make; read it as wds:FOLDER.
        size: Short side to which images are resized, pixels, as JPEG files; without it files stay as they are, byte for
            byte, and all else is written without loss.
        shard_mb: Megabytes of images in a shard.
        shuffle: Write images in an order that is drawn, always the same, in the place of their own: what streams of
            sorted classes need.
        overwrite: Replace shards in `out` that are of other images or settings.
        labels: Classes of a folder: its subfolders (folder), or these if they look it (auto); none drops all labels.
        channels: See pretrain; other than 1 and 3 are written as TIFF files (extra deep).
        range: Values of images deeper than 8 bits that become 0 and 1, such as 0,4095; they are written as TIFF files.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of images that may be unreadable, in [0, 1]; they are listed in bad_images.csv.
        progress: Show a progress bar.

    Returns:
        The folder.

    Raises:
        UsageError: If the data do not exist, a number is out of range, `out` holds other shards, or another process
            is writing there.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import open_images, pack
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shards = pack("shapes:train:32", f"{folder}/shards", workers=0, progress=False)
        ...     len(open_images(f"wds:{shards}"))
        32
    """
    if size is not None and not 8 <= size <= 4096:
        raise UsageError(f"--size is {size}: it must be from 8 to 4096")
    if not 0.001 <= shard_mb <= 10**6:
        raise UsageError(f"--shard-mb is {shard_mb}: it must be from 0.001 to 1000000")
    from ssl_toolkit.data.bad_images import BadImages
    from ssl_toolkit.data.packing import ShardWriter, write_shards
    from ssl_toolkit.data.sources import open_images
    from ssl_toolkit.files import lock, make_folder, opened
    from ssl_toolkit.tasks.common import check_reading

    check_reading(workers, max_bad_rate)
    images = open_images(data, root=data_root, labels=labels, channels=channels, range=range)
    if shuffle and not images.indexed:
        raise UsageError(f"--shuffle needs images that can be read in any order, and '{images.word}' is a stream")
    folder = Path(out)
    asked = {"data": images.word, "images": len(images), "size": size, "shard_mb": shard_mb, "shuffle": shuffle,
             "channels": images.channels, "range": images.range, "labels": labels}  # fmt: skip
    if images.indexed:
        asked |= {"first": images.path(0), "last": images.path(len(images) - 1)}
    make_folder(folder, "--out")
    with opened(folder / SETTINGS) as settings:
        lock(settings, folder)
        _begin(folder, settings, json.dumps(asked, indent=2) + "\n", images.classes, overwrite)
        writer = ShardWriter(folder, int(shard_mb * 1e6))
        if writer.position:
            say(f"{writer.images} images in {len(writer.sums)} shards are there, going on")
        bad = BadImages(images, folder / "bad_images.csv", max_bad_rate)
        write_shards(images, writer, bad, size=size, shuffle=shuffle, workers=workers, progress=progress)
    if bad:
        say(f"{len(bad)} could not be read and are not in the shards: {bad.file}")
    say(f"{writer.images} images in {len(writer.sums)} shards: --data wds:{folder}")
    return folder


def _begin(folder: Path, settings: BinaryIO, asked: str, classes: list[str] | None, overwrite: bool) -> None:
    """Write down what is packed, and the names of the classes; refuse a folder that holds something else."""
    from ssl_toolkit.data.packing import SUMS
    from ssl_toolkit.data.shards import CLASSES
    from ssl_toolkit.files import force, write_atomic

    there = sorted([*folder.glob("*.tar"), *folder.glob("*.index.npz")])
    told = settings.read()
    if told != asked.encode():
        if there and not overwrite:
            if not told:
                (folder / SETTINGS).unlink()  # made a moment ago, in a folder of somebody else's shards
            raise UsageError(f"--out {folder} holds shards of other images or settings: give another, or --overwrite")
        if there:
            for path in [*there, *(folder / name for name in ("bad_images.csv", CLASSES, SUMS))]:
                path.unlink(missing_ok=True)
        settings.seek(0)
        settings.truncate()
        settings.write(asked.encode())
        force(settings)  # shards without it would be taken for somebody else's
    if classes is None:
        (folder / CLASSES).unlink(missing_ok=True)  # of what was begun with other settings
    else:
        write_atomic(folder / CLASSES, lambda temporary: temporary.write_text(json.dumps(classes) + "\n"))
