"""One picture of an encoder, by name."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from pathlib import Path
from typing import Literal

from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.tasks.settings import AnyChannels, AnyData, AnyPath, AnyTrained


def plot(
    name: str,
    run: AnyTrained,
    data: AnyData | None = None,
    out: AnyPath | None = None,
    images: int = 8,
    sample: int = 1000,
    layer: str | None = None,
    unit: int | None = None,
    target: str | None = None,
    picture_channels: AnyChannels | None = None,
    seed: int = 0,
    labels: Literal["auto", "folder", "none"] = "auto",
    data_root: str = "data",
    workers: int = 2,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Path:
    """Draw one picture of an encoder.

    In Python, `run` may be whatever `load_run_encoder` takes, and `data` whatever `open_images` takes.

    Args:
        name: pca, tsne or umap (maps), neighbours, filters (of the first layer), features (feature maps), patches (that
            excite a unit most), occlusion, saliency, guided, smoothgrad or shapley (what speaks for a class), attention
            (of a vision transformer), invariance (how far features move as images are changed), or ascent (images that
            units or classes answer to most).
        run: Run folder or encoder file.
        data: Images to show; with labels, where a class is explained.
        out: The PNG file; if not given, the picture's name.
        images: How many images are shown, one a class as far as they go; or how many units or classes.
        sample: How many images, drawn at random, are encoded for maps, neighbours, patches and the probe.
        layer: Layer of features, patches and ascent; if not given, the last with maps of at least 12 positions a side.
        unit: The one unit of the layer to show; if not given, those that stand out.
        target: Class to explain, by name; if not given, the one that a linear probe on the sample names.
        picture_channels: Channels that pictures show as red, green and blue, or one as grey, counted from 1, such as
            4,3,2; if not given, the first three, or the first.
        seed: Decides which images are drawn, and all other draws.
        labels: How a folder is read.
        data_root: Folder of torchvision's data sets.
        workers: Processes that read images.
        device: Where images are encoded.
        progress: Show a progress bar.

    Returns:
        The picture.

    Raises:
        UsageError: If there is no such picture, it does not suit the encoder or needs images, or cannot be written.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, plot
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot("filters", encoder, out=f"{folder}/filters.png", progress=False).name
        'filters.png'
    """
    if not 1 <= images <= 64:
        raise UsageError(f"--images is {images}: it must be from 1 to 64")
    if sample < 2:
        raise UsageError(f"--sample is {sample}: it must be at least 2")
    from ssl_toolkit.data.shown import parse_picture_channels
    from ssl_toolkit.eval.features.sample import Sample, draw_from
    from ssl_toolkit.eval.pictures import PLOTS, Subject, write_figure
    from ssl_toolkit.tasks.common import pick_device
    from ssl_toolkit.tasks.start import load_run_encoder

    if name not in PLOTS:
        raise unknown_name("picture", name, PLOTS)
    shown = parse_picture_channels(picture_channels)
    chosen, (encoder, _) = PLOTS[name], load_run_encoder(run, data, data_root)
    chosen.suits(encoder)
    if data is None and chosen.data in ("few", "many"):
        raise UsageError(f"plot {name} shows images: say which with --data")
    drawn = None
    if chosen.data != "none" and data is not None:
        count = sample if chosen.data != "few" else min(sample, 16 * images)  # to find one of each class among
        source, place = draw_from(data, encoder, root=data_root, labels=labels), pick_device(device)
        drawn = Sample.take(
            encoder, source, count, picture_channels=shown, seed=seed, device=place, workers=workers, progress=progress
        )
    subject, file = Subject(encoder, drawn, images, layer, unit, target, seed), Path(out or f"{name}.png")
    write_figure(chosen.draw(subject), file, "--out")
    return file
