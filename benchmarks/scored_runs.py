"""What the accuracy benchmarks share: runs by recipe, their scores, one table and one chart."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_toolkit.logs import read_metrics
from ssl_toolkit.runs import RunFolder

PROTOCOLS = ("knn", "linear")
SCORES, RANDOM, TASK = "scores.json", "random.json", "task.json"
Rows = dict[str, dict[str, Any]]
SUPERVISED_EPOCHS = 6
VALIDATION = {"cifar10": 5000, "imagenette": 1000}  # training images on which recipes are chosen


def benchmark_parser(
    description: str, methods: Sequence[str], data: str, parts: str, out: str, others: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """The command line of an accuracy benchmark.

    Args:
        description: What it does.
        methods: Names that may be asked for; all are if none is.
        data: Folder of the images.
        parts: What lies in it.
        out: Folder of the runs.
        others: Names that are run only if they are asked for.
    """
    known = (*methods, *others)

    def named(text: str) -> str:
        if name_and_changes(text)[0] not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
        return text

    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--data", default=data, help=f"folder with {parts}")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--methods", nargs="+", default=list(methods), type=named, metavar="NAME[:option=value...]")
    parser.add_argument("--seeds", type=int, default=1)
    add_choice(parser)
    parser.add_argument("--chart", help="PNG to draw")
    parser.add_argument("--table-only", action="store_true")
    return parser


def name_and_changes(text: str) -> tuple[str, list[str]]:
    """``NAME[:option=value...]`` to the name of a recipe and what differs from it on the command line."""
    name, *changes = text.split(":")
    return name, [f"--{change}" for change in changes]


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The option of what is scored."""
    parser.add_argument(
        "--choose-on",
        choices=("val", "test"),
        default="val",
        help="val, to choose a recipe: images held out of the training ones, which the runs do not see; "
        "test, once it is settled: the test images",
    )


def parts(data: str, test: str, count: int, choose_on: str, out: Path) -> tuple[str, str]:
    """The images that are trained on and are the bank of the scores, and those that are scored, for `open_images`.

    Validation images are those whose class and file name have the smallest hashes: the same ones on every machine.

    Args:
        data: Folder with ``train`` and `test`, each with a folder a class.
        test: Name of the test part.
        count: Validation images.
        choose_on: ``val`` or ``test``.
        out: Where the table of both parts is written for ``val``.
    """
    if choose_on == "test":
        return f"{data}/train", f"{data}/{test}"
    files = sorted(path for path in Path(data, "train").resolve().glob("*/*") if path.is_file())
    digest = {path: hashlib.blake2b(f"{path.parent.name}/{path.name}".encode()).hexdigest() for path in files}
    held_out = set(sorted(files, key=digest.__getitem__)[:count])
    table, part = out / "parts.csv", out / f"parts.{os.getpid()}.tmp"
    out.mkdir(parents=True, exist_ok=True)
    with part.open("w", newline="") as file:
        rows = [(path, path.parent.name, "val" if path in held_out else "train") for path in files]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    part.replace(table)  # another process of the benchmark may be reading it
    return f"{table}:train", f"{table}:val"


def train_and_score(
    config: str,
    options: list[str],
    run: RunFolder,
    data: tuple[str, str],
    seed: int,
    baselines: bool,
    also: Sequence[Callable[[RunFolder], None]] = (),
    unlabelled: str | None = None,
) -> None:
    """One run by its recipe, unless its scores are there; one that was stopped goes on.

    Args:
        config: Name of the recipe.
        options: What differs from it on the command line.
        run: Its folder.
        data: Labelled images to train on, without their labels, and to test on.
        seed: Of the run.
        baselines: Whether random weights and raw pixels are scored too.
        also: More to measure before it is scored.
        unlabelled: What to train on, if not the images of `data`.
    """
    from ssl_toolkit.cli.pretrain import main as pretrain
    from ssl_toolkit.tasks.evaluation import evaluate

    if (run.path / SCORES).exists():
        return
    source = ["--config", config, "--data", unlabelled or data[0], "--labels", "none", "--out", str(run.path)]
    pretrain([*source, "--seed", str(seed), "--resume", *options])
    for measure in also:
        measure(run)
    evaluate(str(run.encoder_file), *data, out=str(run.path / SCORES), baselines=baselines)


def supervise(run: RunFolder, like: RunFolder, data: tuple[str, str], seed: int) -> None:
    """Train the encoder of another run from random weights on all labels, and score its features."""
    from ssl_toolkit.tasks.evaluation import evaluate
    from ssl_toolkit.tasks.finetuning import finetune

    if (run.path / SCORES).exists():
        return
    found = finetune(
        str(like.path), data[0], str(run.path), test=data[1], init="random", epochs=SUPERVISED_EPOCHS, validation=0.0,
        layer_decay=1.0, seed=seed, resume=True,
    )  # fmt: skip
    (run.path / TASK).write_text(json.dumps({"trained": {"accuracy": found["results"]["random"]["finetune"]["top1"]}}))
    evaluate(str(run.encoder_file), *data, out=str(run.path / SCORES), baselines=False)


def score_random(run: RunFolder, data: tuple[str, str]) -> None:
    """Score random weights of a run's architecture, without the raw pixels, which are the same for all."""
    from ssl_toolkit.encoders import load_encoder, save_encoder
    from ssl_toolkit.eval.features.baselines import random_weights
    from ssl_toolkit.tasks.evaluation import evaluate

    file = run.path / "random.safetensors"
    save_encoder(random_weights(load_encoder(run.path), 0), file)
    evaluate(str(file), *data, out=str(run.path / RANDOM), baselines=False)


def run_folder(out: Path, recipe: str, seed: int) -> RunFolder:
    """Where the run of a recipe, see `name_and_changes`, lies."""
    return RunFolder(out / f"{recipe.replace(':', '+').replace('/', '_')}_{seed}")


def steps_of(run: RunFolder) -> int:
    """Steps that a run took, from its newest checkpoint."""
    return max(int(path.stem.split("-")[1]) for path in run.checkpoints.glob("step-*.ckpt"))


def minutes(run: RunFolder) -> float:
    """Time of the steps, from their speed in ``metrics.csv``."""
    rows, batch = read_metrics(run.metrics_file), run.config()["batch_size"]
    speeds = [float(row["images_per_second"]) for row in rows if row["images_per_second"]]  # none right after a resume
    return steps_of(run) * batch / statistics.median(speeds) / 60


def scored(out: Path, recipe: str) -> list[RunFolder]:
    """The runs of a recipe that have scores, by seed."""
    runs = (run_folder(out, recipe, seed) for seed in range(100))
    return [run for run in runs if (run.path / SCORES).exists()]


def scores(run: RunFolder, encoder: str = "trained", file: str = SCORES) -> dict[str, float] | None:
    """Accuracies by protocol, in percent; None if that encoder was not scored."""
    path = run.path / file
    found = json.loads(path.read_text())["results"].get(encoder) if path.exists() else None
    return found and {protocol: 100 * found[protocol]["top1"] for protocol in PROTOCOLS}


def baseline_rows(run: RunFolder, kind: str) -> Rows:
    """Rows of raw pixels and of random weights, as far as they were scored beside a run.

    Args:
        run: The run.
        kind: What to call its kind of random weights.
    """
    found = {"raw pixels": scores(run, "pixels"), kind: scores(run, "random") or scores(run, file=RANDOM)}
    return {name: {protocol: [row[protocol]] for protocol in PROTOCOLS} for name, row in found.items() if row}


def row_of(runs: list[RunFolder]) -> dict[str, Any]:
    """Steps, minutes and scores of the runs of one method."""
    found = [scores(run) for run in runs]
    return {
        "steps": f"{steps_of(runs[0]):,} x {runs[0].config()['batch_size']}",
        "minutes": f"{statistics.median(minutes(run) for run in runs):.1f}",
        **{protocol: [each[protocol] for each in found if each] for protocol in PROTOCOLS},
    }


def mean_and_deviation(values: list[float], digits: int = 1) -> str:
    """``59.5 ± 0.2``; of one value, itself."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(rows: Rows, columns: Mapping[str, str]) -> str:
    """Markdown.

    Args:
        rows: By name; a list of numbers is shown as mean and standard deviation, what is missing as nothing.
        columns: Key in a row to heading.
    """
    lines = ["| " + " | ".join(["top-1, %", *columns.values()]) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [row.get(key, "") for key in columns]
        lines.append(
            "| " + " | ".join([name, *(mean_and_deviation(c) if isinstance(c, list) else c for c in cells)]) + " |"
        )
    return "\n".join(lines)


def chart(rows: Rows, path: str, lines: Mapping[str, str]) -> None:
    """A bar a method, the best on top; baselines as lines.

    Args:
        rows: As for `table`; those with steps are bars; their ``baseline`` names a row that is marked on them.
        path: PNG to draw.
        lines: Name of a row to the style of its line.
    """
    from matplotlib.figure import Figure

    trained = {name: row for name, row in rows.items() if "steps" in row and row["knn"]}
    names = sorted(trained, key=lambda name: statistics.mean(trained[name]["knn"]))
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(names)), layout="constrained")
    for axis, protocol, title in zip(figure.subplots(1, 2, sharey=True), PROTOCOLS, ("kNN", "linear"), strict=True):
        means = [statistics.mean(trained[name][protocol]) for name in names]
        axis.barh(names, means, color="#1f6f8b", height=0.7)
        marks = [
            (rows[trained[n]["baseline"]][protocol][0], p) for p, n in enumerate(names) if "baseline" in trained[n]
        ]
        ends = {place: mark for mark, place in marks}
        for place, mean in enumerate(means):
            axis.text(max(mean, ends.get(place, 0)), place, f" {mean:.1f}", va="center", fontsize=8)
        if marks:
            axis.scatter(
                *zip(*marks, strict=True), marker="|", s=260, color="#c4572e", label="random weights of its kind"
            )
        for label, style in lines.items():
            if label in rows:
                axis.axvline(rows[label][protocol][0], color="#c4572e", linestyle=style, linewidth=1.2, label=label)
        axis.set_xlim(0, 1.15 * max(means))
        axis.set_xlabel(f"{title} accuracy, %", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
