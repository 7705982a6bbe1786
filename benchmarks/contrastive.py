"""The contrastive methods on CIFAR-10 with a small encoder, ten minutes of training each on two CPU cores.

    python benchmarks/contrastive.py --data cifar10 --out runs/contrastive --seeds 3 --chart contrastive.png

`--data` is a folder with ``train`` and ``test``. Each method is trained by its recipe ``configs/METHOD_cifar10.yaml``
and scored by ``ssl-toolkit evaluate``; random weights and raw pixels are scored once for each kind of encoder. A run
that is already there is not repeated, one that was stopped goes on, so the command can be given again at any time, and
with ``--table-only`` it only writes down what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from ssl_toolkit.cli.evaluate import evaluate
from ssl_toolkit.cli.pretrain import main as pretrain
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.runs import RunFolder

METHODS = (
    "simclr", "moco", "moco_v3", "nnclr", "swav", "dino", "byol", "simsiam", "barlow_twins", "vicreg", "cpc",
)  # fmt: skip
SHORTER = {"simclr": 8}  # epochs: the recipe's nine take more than ten minutes
PROTOCOLS = ("knn", "linear")


def train_and_score(method: str, seed: int, data: str, out: Path) -> None:
    """One run, unless it is there."""
    run = RunFolder(out / f"{method}_{seed}")
    if run.results_file.exists():
        return
    shorter = ["--epochs", str(SHORTER[method])] if method in SHORTER else []
    source = ["--config", f"{method}_cifar10", "--data", f"{data}/train", "--labels", "none"]
    pretrain([*source, "--out", str(run.path), "--seed", str(seed), "--resume", *shorter])
    # Random weights depend on the encoder alone; the methods share two of them.
    baselines = seed == 0 and method in ("simclr", "cpc")
    evaluate(str(run.path), f"{data}/train", f"{data}/test", baselines=baselines)


def minutes(run: RunFolder) -> float:
    """Time of the steps, from their speed in ``metrics.csv``."""
    rows = read_metrics(run.metrics_file)
    batch, steps = run.config()["batch_size"], int(rows[-1]["step"])
    return steps * batch / statistics.median(float(row["images_per_second"]) for row in rows) / 60


def collect(methods: list[str], out: Path) -> dict[str, dict[str, Any]]:
    """Scores of the runs that are there, in percent: ``{name: {"runs", "steps", "minutes", "knn": [...], ...}}``."""
    rows: dict[str, dict[str, Any]] = {}
    for method in methods:
        runs = [RunFolder(path) for path in sorted(out.glob(f"{method}_[0-9]*"))]
        runs = [run for run in runs if run.results_file.exists()]
        if not runs:
            continue
        found = [json.loads(run.results_file.read_text())["results"] for run in runs]
        suffix = ", layer norm" if method == "cpc" else ""
        for name, label in (("pixels", "raw pixels"), ("random", f"random weights{suffix}")):
            if name in found[0]:
                rows.setdefault(label, {p: [100 * found[0][name][p]["top1"]] for p in PROTOCOLS})
        rows[method] = {p: [100 * each["trained"][p]["top1"] for each in found] for p in PROTOCOLS}
        rows[method]["steps"] = int(read_metrics(runs[0].metrics_file)[-1]["step"])
        rows[method]["minutes"] = statistics.median(minutes(run) for run in runs)
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| top-1, % | runs | steps | minutes | kNN | linear |", "|---|---:|---:|---:|---:|---:|"]
    for name, row in rows.items():
        scores = [
            f"{statistics.mean(row[p]):.1f}" + (f" ± {statistics.stdev(row[p]):.1f}" if len(row[p]) > 1 else "")
            for p in PROTOCOLS
        ]
        trained = "steps" in row
        cells = [str(len(row["knn"])), str(row["steps"]), f"{row['minutes']:.1f}"] if trained else ["", "", ""]
        lines.append("| " + " | ".join([name, *cells, *scores]) + " |")
    return "\n".join(lines)


def chart(rows: dict[str, dict[str, Any]], path: str) -> None:
    """A bar a method, baselines as lines."""
    from matplotlib.figure import Figure

    trained = {name: row for name, row in rows.items() if "steps" in row}
    names = sorted(trained, key=lambda name: statistics.mean(trained[name]["knn"]))
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(names)), layout="constrained")
    for axis, protocol, title in zip(figure.subplots(1, 2, sharey=True), PROTOCOLS, ("kNN", "linear"), strict=True):
        means = [statistics.mean(trained[name][protocol]) for name in names]
        axis.barh(names, means, color="#1f6f8b", height=0.7)
        for place, mean in enumerate(means):
            axis.text(mean, place, f" {mean:.1f}", va="center", fontsize=8)
        for label, style in (("random weights", "--"), ("raw pixels", ":")):
            if label in rows:
                axis.axvline(rows[label][protocol][0], color="#c4572e", linestyle=style, linewidth=1.2, label=label)
        axis.set_xlim(0, 1.15 * max(means))
        axis.set_xlabel(f"{title} accuracy, %", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="The contrastive methods on CIFAR-10.", allow_abbrev=False)
    parser.add_argument("--data", default="cifar10", help="folder with train and test")
    parser.add_argument("--out", type=Path, default=Path("runs/contrastive"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--chart", help="PNG to draw")
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    if not options.table_only:
        for seed in range(options.seeds):
            for method in options.methods:
                train_and_score(method, seed, options.data, options.out)
    rows = collect(options.methods, options.out)
    print(table(rows))
    if options.chart:
        chart(rows, options.chart)


if __name__ == "__main__":
    main()
