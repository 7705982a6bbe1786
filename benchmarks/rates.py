"""How many images a second a core trains on: the figures behind the defaults, `ssl_toolkit/tasks/rules.py`.

    python benchmarks/rates.py

One thread, seconds of the process (other programs on the machine count little): views, forward, backward and the
optimiser's step; reading images is not in it. The first table has SimCLR with the encoders of the rules at several
sizes of a view, the second every method with the small encoder, as multiples of half a SimCLR step: of one view.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch

from ssl_toolkit.data.batch import Batch
from ssl_toolkit.methods import installed_methods
from ssl_toolkit.optim import build_optimizer
from ssl_toolkit.tasks.assembly import assemble
from ssl_toolkit.tasks.pretraining import settings_of


def images_per_second(method: str, encoder: dict[str, Any], size: int, batch: int, rounds: int, **more: Any) -> float:
    """Images that one core trains on in a second of its own: the median of some steps, the first two left out."""
    data = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    settings = {
        "data": data, "out": "", "method": method, "encoder": encoder, "image_size": size, "load_size": size,
        "batch_size": batch, "epochs": 1, "accelerator": "cpu", "precision": "32-true", "logger": "csv",
        "views": {"size": size, **more},
    }  # fmt: skip
    _, trained = assemble(settings_of(settings))
    trained.train()
    optimizer = build_optimizer(trained, trained.optimizer_config, batch)
    image = torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()
    given = Batch(image, torch.full((batch,), -1), torch.arange(batch))
    taken = []
    for _ in range(rounds + 2):
        since = time.process_time()
        with torch.no_grad():
            views = trained.views(image)
        trained.step(views, given)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.process_time() - since)
    return batch / statistics.median(taken[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| encoder | view, px | images a second and core | view pixels a second and core |\n|---|---:|---:|---:|")
    for name, sizes in (
        ("convnet", (16, 24, 32, 40, 64, 80)), ("resnet18", (32, 64, 128)), ("test_vit", (24, 32, 64)),
    ):  # fmt: skip
        for size in sizes:
            encoder = {"name": name} | ({"patch_size": size // 8} if name == "test_vit" else {})
            batch = 16 if name == "resnet18" else 128
            rate = images_per_second("simclr", encoder, size, batch, rounds, blur_p=0.0)
            print(f"| {name} | {size} | {rate:.0f} | {2 * rate * size**2:,.0f} |", flush=True)
    print("\n| method | time of an image, views of SimCLR |\n|---|---:|")
    base = images_per_second("simclr", {"name": "convnet"}, 32, 64, rounds)
    for method in installed_methods():
        if method in ("video_colorization", "inpainting"):
            continue  # clips; two optimisers
        encoder = {"name": "test_vit", "patch_size": 4} if method == "masked_autoencoder" else {"name": "convnet"}
        more: dict[str, Any] = {"local_count": 0} if method in ("dino", "swav") else {}
        print(f"| {method} | {2 * base / images_per_second(method, encoder, 32, 64, rounds, **more):.2f} |", flush=True)


if __name__ == "__main__":
    main()
