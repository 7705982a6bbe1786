"""How many images a second a core trains on: the figures behind the defaults, `ssl_toolkit/tasks/rules.py`.

    python benchmarks/rates.py

One thread, seconds of the process: views, forward, backward and the optimiser's step; reading images is not in it. The
first table has SimCLR with the encoders of the rules at several sizes of a view. The second has the methods of one view
and CPC with the small encoder, in turns with SimCLR, as multiples of half its step: of one view. Those of several views
are in ``benchmarks/methods.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.optim import build_optimizer
from ssl_toolkit.tasks.assembly import assemble
from ssl_toolkit.tasks.pretraining import settings_of

ENCODERS = {"convnet": (16, 24, 32, 40, 64, 80), "resnet18": (32, 64, 128), "test_vit": (24, 32, 64)}
TASKS = (
    "autoencoder",
    "colorization",
    "cpc",
    "jigsaw",
    "masked_autoencoder",
    "relative_patch",
    "rotation",
    "split_brain",
)


def stepper(method: str, encoder: dict[str, Any], size: int, batch: int, **views: Any) -> Callable[[], float]:
    """A function that makes one step of a method, and returns the seconds of this process that it took."""
    data = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    settings = {
        "data": data, "out": "", "method": method, "encoder": encoder, "image_size": size, "load_size": size,
        "batch_size": batch, "epochs": 1, "accelerator": "cpu", "precision": "32-true", "logger": "csv",
        "views": {"size": size, **views},
    }  # fmt: skip
    _, trained = assemble(settings_of(settings))
    trained.train()
    optimizer = build_optimizer(trained, trained.optimizer_config, batch)
    image = torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()
    given = Batch(image, torch.full((batch,), -1), torch.arange(batch))

    def step() -> float:
        since = time.process_time()
        with torch.no_grad():
            made = trained.views(image)
        trained.step(made, given)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - since

    step(), step()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("encoders", "methods"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only != "methods":
        print("| encoder | view, px | images a second and core | views |\n|---|---:|---:|---:|")
        for name, sizes in ENCODERS.items():
            for size in sizes:
                batch = 16 if name == "resnet18" else 128
                options = {"patch_size": size // 8} if name == "test_vit" else {}
                step = stepper("simclr", {"name": name, **options}, size, batch, blur_p=0.0)
                rate = batch / statistics.median(step() for _ in range(given.rounds))
                print(f"| {name} | {size} | {rate:.0f} | {2 * rate:.0f} |", flush=True)
    if given.only != "encoders":
        print("\n| method | time of an image, views |\n|---|---:|")
        for method in TASKS:
            encoder = {"name": "test_vit", "patch_size": 4} if method == "masked_autoencoder" else {"name": "convnet"}
            one, other = stepper("simclr", encoder, 32, 128, blur_p=0.0), stepper(method, encoder, 32, 128)
            ratio = statistics.median(2 * other() / one() for _ in range(given.rounds))
            print(f"| {method} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
