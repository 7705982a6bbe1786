"""What several tests need: small images, a small encoder, and training in two lines."""

from __future__ import annotations

import atexit
import functools
import inspect
import io
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import InMemory
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.method import Method

# Several processes that each spin two threads on two cores take minutes for what one thread does in seconds.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# A script that starts pytest in its background has SIGINT ignored, and so would be all that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The first backward pass decides whether autograd has threads, and what has them cannot fork: tracing a network before
# it would give it some, on a CPU too.
torch.ones(1, requires_grad=True).backward()


def ks_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance of two empirical distributions (Kolmogorov-Smirnov)."""
    grid = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(x.sort().values, grid, right=True) / len(x) for x in (a, b)]
    return float((below[0] - below[1]).abs().max())


@functools.cache
def small_teacher() -> str:
    """Encoder file of random weights, for images of 16 px; it ends with the process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    torch.manual_seed(5)
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16, load_size=16)), f"{folder}/teacher.safetensors")
    return f"{folder}/teacher.safetensors"


def tiny_heads(found: type) -> dict[str, Any]:
    """Options that make a method's heads, prototypes and queue small, whichever of them it has; and its teacher."""
    names = inspect.signature(found).parameters
    small = {name: 16 for name in names if name.endswith("_dim") or name in ("prototypes", "queue_size")}
    if "slice_size" in names:
        small["projection_dim"] = 4  # features of which batches of eight have more images
    return small | ({"teacher": small_teacher()} if "teacher" in names else {})


def small_config(found: type[Method], size: int) -> EncoderConfig:
    """A small network of the kind that a method trains, for images of a size."""
    vit = found.default_encoder.startswith("vit")
    return EncoderConfig(
        "test_vit" if vit else "convnet",
        image_size=size,
        load_size=size,
        norm=found.encoder_norm,
        colours=found.encoder_colours,
        patch_size=4 if vit else 0,
        pool=found.encoder_pool,
    )


def frames_of(found: type[Method]) -> int:
    """The fewest frames that a method makes anything of; images are one."""
    return getattr(found, "min_frames", 1)


RED, BLUE = (250, 10, 20), (10, 20, 250)


def plain(colour: tuple[int, ...], side: int = 8) -> np.ndarray:
    """An image (C, side, side) of one colour."""
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (len(colour), side, side)).copy()


def pixels(figure: Any) -> np.ndarray:
    """The drawn figure, (H, W, 3) uint8."""
    from ssl_toolkit.eval.pictures.png import figure_png

    return np.asarray(Image.open(io.BytesIO(figure_png(figure))).convert("RGB"))


def count(picture: np.ndarray, colour: str | tuple[int, ...]) -> int:
    """How many pixels of a picture (H, W, 3) have a colour."""
    rgb = np.round(255 * np.array(to_rgb(colour))) if isinstance(colour, str) else np.array(colour)
    return int((picture == rgb).all(axis=-1).sum())


SOUND = (64, 98)  # mels and steps of a second


class Arrays(ImageSet):
    """An image set out of an array, with captions and sounds; images whose position is in `broken` cannot be read."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray | None = None, broken: tuple[int, ...] = ()) -> None:
        self.word = "arrays"
        self.pixels, self.broken = pixels, broken
        self.labels = np.full(len(pixels), -1) if labels is None else labels
        self.classes = None if labels is None else [str(c) for c in range(int(labels.max()) + 1)]
        self.channels = pixels.shape[1]

    def load(self, index: int, size: int | None) -> np.ndarray:
        from ssl_toolkit.data.images import BadImageError

        if index in self.broken:
            raise BadImageError(self.path(index), "broken on purpose")
        return self.pixels[index]

    def path(self, index: int) -> str:
        return f"arrays#{index}"

    def caption(self, index: int) -> str:
        return f"picture {index}"

    def sound(self, index: int) -> NDArray[np.float16]:
        return np.random.default_rng(index).standard_normal(SOUND).astype(np.float16)


def small_shapes(size: int, train: int, test: int) -> tuple[ImageSet, ImageSet]:
    """Rendered shapes to learn from, and others."""
    images = (open_images(word) for word in (f"shapes:train:{train}", f"shapes:test:{test}"))
    first, second = (InMemory(each, size, BadImages(each)) for each in images)
    return first, second


def some_noise(count: int = 20, broken: tuple[int, ...] = (), frames: int = 1) -> Arrays:
    """Labelled 16 px images of noise; image i has i in its first pixel. With `frames` they are clips."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3 * frames, 16, 16), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return Arrays(pixels, np.arange(count) % 4, broken)


@pytest.fixture
def noise_images() -> Callable[..., Arrays]:
    """``noise_images(count, broken=(...))``: see `some_noise`."""
    return some_noise


BuildIndex = Callable[..., Any]
"""What `build_index` gives."""


def noise(count: int, seed: int = 0, width: int = 8) -> NDArray[np.float32]:
    """Made-up features (N, D)."""
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


def same_hits(one: Any, two: Any) -> bool:
    """Whether two `Hits` are equal in all they hold."""
    arrays = np.array_equal(one.score, two.score) and np.array_equal(one.position, two.position)
    return arrays and (one.path, one.label) == (two.path, two.label)


@pytest.fixture
def build_index(tmp_path: Path) -> BuildIndex:
    """``build_index(features, ...)``: an index with made-up paths and an encoder file of a few bytes."""
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    encoder = tmp_path / "encoder.safetensors"
    encoder.write_bytes(b"the weights of an encoder")

    def make(x: NDArray[np.float32], paths: list[str] | None = None, **options: Any) -> EmbeddingIndex:
        options = {"encoder_file": encoder, "encoder_sha256": "e" * 64, "data": "photos/", **options}
        return EmbeddingIndex.build(x, paths or [f"{i}.jpg" for i in range(len(x))], **options)

    return make


@pytest.fixture
def small_encoder() -> Encoder:
    """The small network for 16 px images, the same weights each time."""
    torch.manual_seed(0)
    return Encoder(EncoderConfig("convnet", image_size=16, load_size=16))


def train_in(
    folder: Path, found: Any, images: ImageSet, *, size: int = 16, out: str = "run", epochs: int = 2, **options: Any
) -> Any:
    """The trained method, in a run folder of its own below `folder`."""
    from ssl_toolkit.optim import OptimizerConfig
    from ssl_toolkit.runs import start_run
    from ssl_toolkit.training import fit

    batch_size, seed = options.pop("batch_size", 8), options.pop("seed", 0)
    torch.manual_seed(seed)
    method = found(
        Encoder(small_config(found, size)),
        found.default_views(**{"size": size, "channels": images.channels, **options.pop("views", {})}),
        options.pop("optimizer", OptimizerConfig()),
        **options.pop("method", {}),
    )
    run = start_run(folder / out, {}, resume=options.get("resume", False))
    loader = ImageLoader(images, size, batch_size=batch_size, shuffle=True, workers=options.pop("workers", 0))
    fit(method, loader, run, epochs=epochs, seed=seed, progress=False, accelerator="cpu", **options)
    return method


@pytest.fixture
def train_quickly(tmp_path: Path) -> Callable[..., Any]:
    """``train_quickly(method_class, images, epochs=...)``: see `train_in`."""
    return functools.partial(train_in, tmp_path)
