"""``ssl-toolkit evaluate``: how good is an encoder, beside random weights and raw pixels?"""

import json
import time
from pathlib import Path
from typing import Any, Literal

from ssl_toolkit.cli.parser import Parser, say
from ssl_toolkit.errors import UsageError


def evaluate(
    run: str,
    train: str,
    test: str | None = None,
    protocol: str = "knn,linear",
    out: str | None = None,
    baselines: bool = True,
    seed: int = 0,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Score an encoder on labelled images, by kNN and linear probe on frozen features.

    Args:
        run: Run folder or encoder file.
        train: Labelled images that vote and train the probe (a folder, a .csv, a word like cifar10:train).
        test: Labelled images that are classified, once; if not given, those of `train`, of which kNN leaves out one at
            a time and the probes hold out a fifth.
        protocol: Scores, separated by commas: knn, linear, low_shot (1, 5 and 10 labels a class, 1 and 10 %).
        out: JSON file for the results; a run folder also keeps them in results.json.
        baselines: Whether random weights and raw pixels are scored too.
        seed: Decides the random weights.
        labels: Whether subfolders of a folder are classes; auto: if they look like it.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of images that may be unreadable, in [0, 1]; a run folder lists them in
            bad_images_train.csv and bad_images_test.csv.
        device: Where images are encoded.
        progress: Whether progress bars are shown.

    Returns:
        The results: encoder, protocol, and for each encoder the scores, accuracies in [0, 1].

    Raises:
        UsageError: If the encoder or the data do not exist or have no labels.
    """
    from ssl_toolkit.cli.common import load_run_encoder, open_loader, pick_device
    from ssl_toolkit.encoders import versions
    from ssl_toolkit.eval.baselines import pixels, random_weights
    from ssl_toolkit.eval.protocol import check_protocols, match_labels, score
    from ssl_toolkit.files import make_folder, write_atomic
    from ssl_toolkit.runs import RunFolder

    started = time.time()
    protocols = [name.strip() for name in protocol.split(",")]
    check_protocols(protocols)
    files = [RunFolder(run).results_file] if Path(run).is_dir() else []
    files += [Path(out)] if out else []
    for file in files:
        make_folder(file.parent, "--out")
        if file.is_dir():
            raise UsageError(f"--out {file} is a folder: name a file")
    encoder, metadata = load_run_encoder(run)
    common: dict[str, Any] = {
        "data_root": data_root, "labels": labels, "workers": workers, "max_bad_rate": max_bad_rate,
        "progress": progress, "cache": "auto",
    }  # fmt: skip
    lists = {part: Path(run) / f"bad_images_{part}.csv" if Path(run).is_dir() else None for part in ("train", "test")}
    bank = open_loader(encoder, train, bad_images_file=lists["train"], **common)
    queries = None
    if test is not None:
        queries = open_loader(encoder, test, bad_images_file=lists["test"], **common)
    asked = bank if queries is None else queries
    match_labels(asked.images, bank.images)
    place = pick_device(device)
    encoders: dict[str, Any] = {"trained": encoder.to(place)}
    if baselines:
        encoders |= {"random": random_weights(encoder, seed), "pixels": pixels()}
    results = score(
        encoders, bank, queries, protocols, view=encoder.eval_view(), device=place,
        progress=progress, say=say,
    )  # fmt: skip
    summary = {
        "encoder": {
            "path": str(run),
            "name": encoder.config.name,
            "method": metadata["method"],
            "sha256": metadata["sha256"],
            "image_size": encoder.config.image_size,
        },
        "protocol": {
            "names": protocols,
            "train": {"data": train, "images": bank.total, "bad": len(bank.bad)},
            "test": {"data": test or train, "images": asked.total, "bad": len(asked.bad)},
            "left_out": test is None,
            "classes": len(bank.images.classes or []),
            "class_names": bank.images.classes,
        },
        "results": results,
        "seed": seed,
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.time() - started, 1),
    }
    text = json.dumps(summary, indent=2) + "\n"
    for file in files:
        write_atomic(file, lambda temporary: temporary.write_text(text))
    return summary


def table(summary: dict[str, Any]) -> str:
    """The results as lines of text, accuracies in percent."""
    from ssl_toolkit.eval.metrics import in_percent
    from ssl_toolkit.eval.visualize import ENCODERS, PROTOCOLS

    protocols = summary["protocol"]["names"]
    lines = [f"{'top-1, %':<16}" + "".join(f"{PROTOCOLS[p]:>14}" for p in protocols)]
    for key, scores in summary["results"].items():
        lines.append(f"{ENCODERS[key]:<16}" + "".join(f"{in_percent(scores[p]):>14}" for p in protocols))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("evaluate", evaluate, positional=("run",)).parse(argv)
    if settings is not None:
        print(table(evaluate(**settings)))
