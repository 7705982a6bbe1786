"""Does the speed of the views cost anything? The CIFAR-10 recipe with our views and with Kornia's own.

    python benchmarks/views_learning.py --data cifar10 --epochs 2 --seeds 3

`--data` is a folder with ``train`` and ``test``. Everything but the views and, where it is given, the number of epochs
is the recipe ``configs/simclr_cifar10_short.yaml``, in float32; the score is kNN (k = 20) with the whole training set
as bank.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from kornia import augmentation as K
from torch import Tensor, nn

from ssl_toolkit.cli.parser import read_config
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import InMemory
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.eval.features.extraction import extract
from ssl_toolkit.eval.scores.knn import knn
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.runs import start_run
from ssl_toolkit.training import fit


class KorniaViews(nn.Module):
    """The recipe as Kornia's documentation writes it."""

    def __init__(self, size: int, crop_scale: list[float], jitter: list[float], blur_p: float) -> None:
        super().__init__()
        assert blur_p == 0
        self.sequence = K.AugmentationSequential(
            K.RandomResizedCrop((size, size), tuple(crop_scale)),
            K.RandomHorizontalFlip(p=0.5),
            K.ColorJitter(*jitter, p=0.8),
            K.RandomGrayscale(p=0.2),
        )

    def forward(self, image: Tensor, box: Tensor | None = None) -> list[Tensor]:
        """Two views of a uint8 batch."""
        return [self.sequence(image.float() / 255) for _ in range(2)]


def score(encoder: Encoder, train: ImageSet, test: ImageSet) -> float:
    bank, queries = (extract(encoder, ImageLoader(images, 32), view=encoder.eval_view()) for images in (train, test))
    return 100 * knn(bank, queries)["top1"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Learning with fast and with plain views.", allow_abbrev=False)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, help="those of the recipe if not given")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    recipe = read_config("simclr_cifar10_short")
    epochs = options.epochs or recipe["epochs"]
    train, test = (open_images(f"{options.data}/{part}") for part in ("train", "test"))
    train, test = (InMemory(images, 32, BadImages(images), workers=2) for images in (train, test))
    found: dict[str, list[float]] = {"ours": [], "kornia": []}
    for seed in range(options.seeds):
        for name, scores in found.items():
            started = time.perf_counter()
            torch.manual_seed(seed)
            encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
            views = SimCLR.default_views(**recipe["views"]) if name == "ours" else KorniaViews(**recipe["views"])
            method = SimCLR(encoder, views, OptimizerConfig(**recipe["optimizer"]))  # type: ignore[arg-type]
            loader = ImageLoader(train, 32, batch_size=recipe["batch_size"], shuffle=True, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                fit(method, loader, start_run(f"{folder}/run", {}), epochs=epochs, seed=seed, progress=False)
            taken = time.perf_counter() - started
            scores.append(score(encoder.eval(), train, test))
            print(f"seed {seed}, {name}: kNN {scores[-1]:.2f} %, trained in {taken:.0f} s", flush=True)
    print("\n| views | mean kNN, % | standard error |\n|---|---:|---:|")
    for name, scores in found.items():
        error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
        print(f"| {name} | {statistics.mean(scores):.2f} | {error:.2f} |")
    pairs = [ours - theirs for ours, theirs in zip(*found.values(), strict=True)]
    print(f"\nours minus kornia, seed by seed: {', '.join(f'{pair:+.2f}' for pair in pairs)}")


if __name__ == "__main__":
    main()
