"""A report: a run folder as one HTML page."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import os
from pathlib import Path
from typing import Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.settings import AnyChannels


def report(
    run: str | os.PathLike,  # type: ignore[type-arg]  # see `pretrain`
    out: str | None = None,
    images: int = 1000,
    projection: Literal["pca", "tsne", "umap"] = "pca",
    pictures: str = "",
    picture_channels: AnyChannels | None = None,
    data_root: str | None = None,
    workers: int = 2,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Path:
    """Write a run folder as one HTML page with everything in it: scores, curves, views, neighbours, a map.

    Args:
        run: Run folder.
        out: HTML file; if not given, report.html in the run folder.
        images: Images that are drawn at random for the neighbours and the map.
        projection: The map of the features: pca, tsne, or umap (extra umap).
        pictures: More pictures, which take longer: names that ssl-toolkit plot knows, separated by commas.
        picture_channels: Channels that pictures show as red, green and blue, or one as grey, counted from 1, such as
            4,3,2; if not given, the first three, or the first.
        data_root: Folder of torchvision's data sets; if not given, the run's own.
        workers: Processes that read images.
        device: Where images are encoded.
        progress: Show a progress bar.

    Returns:
        The HTML file.

    Raises:
        UsageError: If there is no such run or picture, or the page cannot be written.

    Examples:
        With feature maps, and the image parts that excite units most, beside what every page has:

            report("runs/photos", out="photos.html", pictures="features,patches")
    """
    if images < 2:
        raise UsageError(f"--images is {images}: it must be at least 2")
    from ssl_toolkit.data.shown import parse_picture_channels
    from ssl_toolkit.eval.report.page import make_report
    from ssl_toolkit.tasks.common import pick_device

    return make_report(
        Path(run), out, data_root=data_root, images=images, projection=projection, device=pick_device(device),
        pictures=[name.strip() for name in pictures.split(",") if name.strip()],
        picture_channels=parse_picture_channels(picture_channels), workers=workers, progress=progress,
    )  # fmt: skip
