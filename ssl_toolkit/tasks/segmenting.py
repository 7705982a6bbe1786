"""Dense probes of an encoder: linear segmentation and depth, and k-means of places without labels."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.settings import AnyPath, AnyTrained
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ssl_toolkit.data.masks import MaskedSet
    from ssl_toolkit.encoders import Encoder

TITLES = {"miou": "mIoU, %", "pixel_accuracy": "pixels right, %", "rmse": "RMSE", "delta1": "within 1.25, %"}


class DenseScores(Found, dict[str, Any]):
    """What was asked, and by encoder the scores of its dense probe; without scores, where the picture is."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row an encoder: its name and its scores."""
        return [{"encoder": name, **scores} for name, scores in self.get("results", {}).items()]

    def table(self) -> Table:
        """A row an encoder, shares in percent, RMSE in the units of the depths."""
        from ssl_toolkit.eval.pictures.words import ENCODERS

        if not self.rows:
            return Table([], [[f"{self['kmeans']} clusters: {self['picture']}"]], ["<"])
        keys = [key for key in TITLES if key in self.rows[0]]
        cells = [
            [ENCODERS[row["encoder"]], *(f"{row[k]:.3g}" if k == "rmse" else f"{100 * row[k]:.1f}" for k in keys)]
            for row in self.rows
        ]
        return Table(["", *(TITLES[key] for key in keys)], cells, ["<16", *(">17" for _ in keys)])


def segment(
    run: AnyTrained,
    train: str,
    test: str | None = None,
    target: Literal["masks", "depth"] = "masks",
    size: int | None = None,
    kmeans: int | None = None,
    picture: AnyPath | None = None,
    images: int = 8,
    out: AnyPath | None = None,
    baselines: bool = True,
    seed: int = 0,
    data_root: str = "data",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> DenseScores:
    """Score what an encoder knows of each place of an image, by a linear layer on its patch tokens or feature map.

    Images are squeezed to squares. In Python, `run` may be whatever `load_run_encoder` takes.

    Args:
        run: Run folder or encoder file.
        train: Images and masks to learn from: two folders IMAGES,MASKS whose files have the same names, or
            shapes:train:500, or voc:train; with kmeans, images alone will do.
        test: Likewise, those that are segmented.
        target: What the second folder holds: masks, PNGs whose palette index or grey value is the class (255 is none),
            or depth, .npy or 16-bit PNGs (0 is none).
        size: Side of the images, pixels; the more, the finer the feature map. If not given, the encoder's own.
        kmeans: Instead, draw this many parts that look alike to the encoder, found without labels.
        picture: PNG of some images, what they show, and what the encoders take it for.
        images: How many images are on the picture.
        out: JSON file for the results.
        baselines: Score random weights too.
        seed: Of random weights, of the choice of images and of the first clusters.
        data_root: Folder of torchvision's data sets.
        device: Where images are encoded.
        progress: Show a progress bar.

    Returns:
        By encoder mean intersection over union and the share of pixels that are right, or root mean square error of
        depths and the share within a factor of 1.25.

    Raises:
        UsageError: If something asked for does not exist, or the encoder has no feature maps.

    Examples:
        >>> from ssl_toolkit import Encoder, segment
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> found = segment(encoder, "shapes:train:8", "shapes:test:4", size=32, baselines=False, progress=False)
        >>> sorted(found["results"]["trained"])
        ['iou', 'l2', 'miou', 'pixel_accuracy']
    """
    for option, value, low in (("size", size, 16), ("kmeans", kmeans, 2), ("images", images, 1)):
        if value is not None and value < low:
            raise UsageError(f"--{option} is {value}: it must be at least {low}")
    if (test is None) == (kmeans is None):
        raise UsageError(
            "give the images to segment as --test, or the number of parts to draw without labels as --kmeans"
        )
    from ssl_toolkit.tasks.common import Results, pick_device, random_baseline
    from ssl_toolkit.tasks.start import load_run_encoder

    encoder, metadata = load_run_encoder(run, train.split(",")[0], data_root)
    results = Results(run, encoder, metadata, seed)
    place, side = pick_device(device), size or encoder.config.image_size
    encoders = {"trained": encoder.to(place), **(random_baseline(encoder, seed) if baselines else {})}
    if kmeans is not None:
        drawn = Path(picture or "clusters.png")
        _draw_clusters(encoders, _stills(encoder, train, data_root), side, kmeans, images, drawn, seed)
        return DenseScores({"kmeans": kmeans, "picture": os.fspath(drawn)})
    sets = [_opened(encoder, word, target, data_root) for word in (train, test or "")]
    found, answers = _probed(encoders, sets, target, side, seed, progress)
    about = {"target": target, "size": side, "train": train, "test": test, "images": [len(each) for each in sets]}
    if picture is not None:
        _draw_answers(sets[1], answers, target, side, images, Path(picture))
    return DenseScores(results.write({"protocol": about, "results": found}, [Path(out)] if out else []))


def _opened(encoder: "Encoder", word: str, target: Literal["masks", "depth"], root: str) -> "MaskedSet":
    from ssl_toolkit.data.masks import open_masked

    return open_masked(word, target, root=root, channels=encoder.config.channels)


def _stills(encoder: "Encoder", word: str, root: str) -> "MaskedSet":
    """Images without masks: of two folders, those of the first."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from ssl_toolkit.data.masks import MaskedSet
    from ssl_toolkit.tasks.common import open_stills

    images = open_stills(encoder, word.split(",")[0], data_root=root, labels="none", argument="train")

    def read(index: int, side: int) -> "tuple[NDArray[np.uint8], NDArray[np.int64]]":
        pixels = torch.from_numpy(images.load(index, side))[None].float()
        squeezed = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)[0]
        return squeezed.round().byte().numpy(), np.zeros((side, side), np.int64)

    return MaskedSet(word, len(images), read, channels=images.channels)


def _probed(
    encoders: "Mapping[str, Encoder]", sets: "list[MaskedSet]", target: str, side: int, seed: int, progress: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """By encoder the scores, and what was answered, with the truth."""
    from ssl_toolkit.eval.scores import segmentation
    from ssl_toolkit.progress import progress_bar

    probe = segmentation.segment if target == "masks" else segmentation.estimate_depth
    scores, answers = {}, {}
    with progress_bar(len(encoders) * sum(map(len, sets)), "encoding", "image", progress) as bar:
        for name, encoder in encoders.items():
            train, test = (segmentation.dense_features(encoder, each, side, tick=bar.update) for each in sets)
            found = probe(train, test, seed=seed)
            answers[name], answers["true"] = found.pop("answer"), test.values
            scores[name] = found
    return scores, answers


def _draw_answers(
    images: "MaskedSet", answers: "dict[str, NDArray[Any]]", target: str, side: int, count: int, out: Path
) -> None:
    import numpy as np

    from ssl_toolkit.eval.pictures import write_figure
    from ssl_toolkit.eval.pictures.clip_files import overlaid
    from ssl_toolkit.eval.pictures.sheets import Heat, sheet
    from ssl_toolkit.eval.pictures.words import ENCODERS

    rows = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    pixels = [images.load(int(row), side)[0] for row in rows]
    shown = [np.broadcast_to(each, (3, side, side)) for each in pixels]
    names = ["true", *(name for name in answers if name != "true")]
    high = float(answers["true"].max())

    def tile(frame: "NDArray[np.uint8]", values: "NDArray[Any]") -> Any:
        if target == "depth":
            return Heat(values, values.shape, 0.0, high)
        return overlaid(frame, np.maximum(values, 0))

    tiles = [[tile(frame, answers[name][row]) for frame, row in zip(shown, rows, strict=True)] for name in names]
    figure = sheet([shown, *tiles], row_names=["image", *(ENCODERS.get(name, name) for name in names)], apart="row")
    write_figure(figure, out, "--picture")


def _draw_clusters(
    encoders: "Mapping[str, Encoder]", images: "MaskedSet", side: int, k: int, count: int, out: Path, seed: int
) -> None:
    import numpy as np

    from ssl_toolkit.data.masks import MaskedSet
    from ssl_toolkit.eval.pictures import write_figure
    from ssl_toolkit.eval.pictures.clip_files import overlaid
    from ssl_toolkit.eval.pictures.sheets import sheet
    from ssl_toolkit.eval.pictures.words import ENCODERS
    from ssl_toolkit.eval.scores.segmentation import clusters, dense_features

    rows = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    channels = next(iter(encoders.values())).config.channels
    some = MaskedSet(images.word, len(rows), lambda index, size: images.load(int(rows[index]), size), channels=channels)
    shown = [np.broadcast_to(some.load(row, side)[0], (3, side, side)) for row in range(len(some))]
    tiles = []
    for encoder in encoders.values():
        x = dense_features(encoder, some, side).x
        if k > x[..., 0].size:
            raise UsageError(
                f"--kmeans is {k}, and the images have {x[..., 0].size} places: give more --images or --size"
            )
        parts = clusters(x, k, side, seed)
        tiles.append([overlaid(frame, part + 1) for frame, part in zip(shown, parts, strict=True)])
    names = ["image", *(ENCODERS[name] for name in encoders)]
    write_figure(sheet([shown, *tiles], row_names=names, apart="row"), out, "--picture")
