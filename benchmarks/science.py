"""Recipes at full length, as far as the minutes go, and on from there at the next call.

    python benchmarks/science.py --data cifar10 --minutes 9 --recipes simclr moco
    python benchmarks/science.py --data cifar10 --recipes simclr:optimizer.lr=0.12 --epochs 50 --choose-on val

`--data` is a folder with train/ and test/, a folder a class. Each recipe (configs/NAME_cifar10_r18.yaml) is trained by
`ssl-toolkit pretrain` in a run folder of its own; when the minutes are over it is stopped as by Ctrl-C, which saves it.
Then kNN (k = 200 and 20, temperature .1) and the linear probe, one row of JSON a run and call in OUT/rows.jsonl, and
the table of all rows. Recipes are chosen on a validation part, training images by the hash of their names
(`--choose-on val`, the default); `--choose-on test` scores the test images, once a recipe is settled.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scored_runs import VALIDATION, add_choice, name_and_changes, parts

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import InMemory
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import load_encoder
from ssl_toolkit.eval.features.extraction import Features, extract
from ssl_toolkit.eval.scores.knn import knn
from ssl_toolkit.eval.scores.linear_probe import linear_probe
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.runs import RunFolder

COMMAND = [sys.executable, "-c", "from ssl_toolkit.cli import main; main()", "pretrain"]


def train(recipe: str, run: RunFolder, options: argparse.Namespace, data: str, seconds: float) -> bool:
    """Train on, for so many seconds at most; whether the run is finished."""
    name, changes = name_and_changes(recipe)
    arguments = ["--config", f"{name}_{options.set_name}_r18", "--data", data, "--labels", "none"]
    arguments += ["--out", str(run.path), "--resume", *changes]
    if options.epochs:
        arguments += ["--epochs", str(options.epochs)]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        return False


def evaluate(run: RunFolder, train_images: ImageSet, test_images: ImageSet) -> dict[str, float]:
    """Scores by kNN and linear probe of the encoder as it stands."""
    encoder = load_encoder(run.encoder_file)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts: list[Features] = [
        extract(encoder, ImageLoader(images, encoder.config.load_size), view=encoder.eval_view(), device=device)
        for images in (train_images, test_images)
    ]
    return {
        "knn200": knn(*parts, k=200)["top1"],
        "knn20": knn(*parts, k=20)["top1"],
        "linear": linear_probe(*parts, device=device)["top1"],
    }


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown."""
    lines = ["| recipe | epochs | min | images/s | kNN, k = 200 | k = 20 | linear | scored on |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---|")
    for row in rows:
        scores = " | ".join(f"{100 * float(str(row[name])):.1f}" for name in ("knn200", "knn20", "linear"))
        lines.append(
            f"| {row['recipe']} | {row['epochs']} of {row['of']} | {row['minutes']} | {row['images_per_second']:,} "
            f"| {scores} | {row['scored_on']} |"
        )
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Recipes at full length.", allow_abbrev=False)
    parser.add_argument("--data", default="cifar10", help="folder with train/ and test/")
    parser.add_argument("--set-name", default="cifar10", help="which recipes: NAME_SET_r18")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--recipes", nargs="+", default=["simclr"], metavar="NAME[:option=value...]")
    parser.add_argument("--epochs", type=int, help="in the place of the recipe's")
    add_choice(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/science"))
    return parser.parse_args()


def train_all(data: str, options: argparse.Namespace) -> dict[str, tuple[RunFolder, bool, float]]:
    """Train each recipe for its share of the minutes: its run, whether that is finished, and the seconds it took."""
    end = time.monotonic() + 60 * options.minutes
    trained = {}
    for number, recipe in enumerate(options.recipes):
        run = RunFolder(options.out / f"{recipe.replace(':', '+').replace('/', '_')}_{options.choose_on}")
        share = (end - time.monotonic()) / (len(options.recipes) - number)
        started = time.monotonic()
        trained[recipe] = (run, train(recipe, run, options, data, share), time.monotonic() - started)
    return trained


def scored(
    recipe: str, run: RunFolder, done: bool, seconds: float, bank: ImageSet, queries: ImageSet
) -> dict[str, Any]:
    """A row on a run as it stands."""
    metrics, config = read_metrics(run.metrics_file), run.config()
    speeds = [float(row["images_per_second"]) for row in metrics if row.get("images_per_second")]
    return {
        "recipe": recipe, "epochs": int(metrics[-1]["epoch"]) + done, "of": config["epochs"],
        "minutes": round(seconds / 60, 2), "images_per_second": round(float(np.median(speeds))),
        **evaluate(run, bank, queries),
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__, "date": str(datetime.date.today()),
    }  # fmt: skip


def main() -> None:
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    test = "test" if options.set_name == "cifar10" else "val"
    seen, asked = parts(options.data, test, VALIDATION[options.set_name], options.choose_on, options.out)
    trained = train_all(seen, options)
    size = 32 if options.set_name == "cifar10" else 146
    workers = min(16, os.cpu_count() or 1)
    bank, queries = (
        InMemory(images, size, BadImages(images), workers=workers) for images in map(open_images, (seen, asked))
    )
    for recipe, (run, done, seconds) in trained.items():
        if not read_metrics(run.metrics_file) or not run.encoder_file.exists():
            print(f"{recipe}: nothing was trained")
            continue
        row = scored(recipe, run, done, seconds, bank, queries) | {"scored_on": options.choose_on}
        with (options.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    rows = [json.loads(line) for line in (options.out / "rows.jsonl").read_text().splitlines()]
    print(table(rows))


if __name__ == "__main__":
    main()
