"""The pretext tasks on Imagenette at 64 px with a small encoder, beside SimCLR and supervised training.

    python benchmarks/pretext.py --data imagenette128 --out runs/pretext --seeds 3 --chart pretext.png

`--data` is a folder with ``train`` and ``val``. Each task is trained by its recipe ``configs/TASK_imagenette.yaml``,
asked its own question about the held-out images, before and after, and scored by ``ssl-toolkit evaluate``, on
validation images unless ``--choose-on test`` says otherwise; random weights are scored once for each kind of encoder,
and so are raw pixels. ``--methods rotation:epochs=4`` changes a recipe. Supervised training is ``ssl-toolkit finetune``
from random weights; its encoder is then scored like the others. Video colorization learns from clips, and is left out
without them: ``--clips clips:a.mp4:4:12 clips:b.mp4:4:24`` names those to train on and those that are held out. A run
that is there already is not repeated, one that was stopped goes on, so the command can be given again at any time; with
``--table-only`` it only writes down what there is.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from scored_runs import (
    TASK,
    VALIDATION,
    Rows,
    baseline_rows,
    benchmark_parser,
    chart,
    mean_and_deviation,
    name_and_changes,
    parts,
    row_of,
    run_folder,
    score_random,
    scored,
    supervise,
    table,
    train_and_score,
)

from ssl_toolkit.runs import RunFolder

VIDEO = "video_colorization"
# The scalar of `Method.step` that says how well a task is solved.
QUESTIONS = {
    "rotation": "accuracy",
    "relative_patch": "accuracy",
    "jigsaw": "accuracy",
    "autoencoder": "psnr",
    "inpainting": "psnr",
    "colorization": "gain",
    "split_brain": "gain",
    VIDEO: "accuracy",
    "masked_autoencoder": "psnr",
    "supervised": "accuracy",
}
UNITS = {"accuracy": (100, 1, "%"), "psnr": (1, 1, "dB"), "gain": (1, 2, "nats")}  # factor, digits, unit
METHODS = ("simclr", *QUESTIONS)
# Random weights depend on the encoder alone; the other tasks share SimCLR's.
KINDS = {
    "simclr": "", "colorization": ", L alone", "split_brain": ", L and ab apart", VIDEO: ", L alone, 128 px",
    "masked_autoencoder": ", ViT",
}  # fmt: skip
COLUMNS = {
    "seeds": "seeds", "steps": "steps x batch", "minutes": "core-minutes", "task": "own task",
    "untrained": "before training", "knn": "kNN", "linear": "linear",
}  # fmt: skip


def ask(images: str, run: RunFolder) -> None:
    """Keep the scalars of the method's own step on held-out images, as it is trained and as it was before."""
    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.eval.health.measures import examine_method
    from ssl_toolkit.tasks.assembly import assemble
    from ssl_toolkit.tasks.diagnosis import doctor
    from ssl_toolkit.tasks.pretraining import settings_of
    from ssl_toolkit.training import prepare

    trained = doctor(str(run.path), data=images, images=10**6)["measures"]["step"]
    config = run.config()
    held_out, _ = assemble(settings_of(config | {"data": images}))
    trained_on, method = assemble(settings_of(config))

    def loader(source: ImageSet) -> ImageLoader:
        return ImageLoader(source, method.encoder.config.load_size, batch_size=min(256, len(source)), shuffle=True)

    prepare(method, loader(trained_on), config["seed"])
    untrained = examine_method(method, loader(held_out))["step"]
    (run.path / TASK).write_text(json.dumps({"trained": trained, "untrained": untrained}))


def collect(methods: list[str], out: Path) -> Rows:
    """Scores of the runs that are there, and how well their own tasks are solved."""
    rows: Rows = {}
    for method in methods:
        runs = scored(out, method)
        if not runs:
            continue
        kind = f"random weights{KINDS.get(method, '')}"
        rows |= baseline_rows(runs[0], kind)
        rows[method] = {"seeds": str(len(runs)), **row_of(runs), **({"baseline": kind} if kind in rows else {})}
        if method in QUESTIONS:
            asked = [json.loads((run.path / TASK).read_text()) for run in runs]
            scale, digits, unit = UNITS[QUESTIONS[method]]
            for column, state in (("task", "trained"), ("untrained", "untrained")):
                values = [scale * found[state][QUESTIONS[method]] for found in asked if state in found]
                rows[method][column] = f"{mean_and_deviation(values, digits)} {unit}" if values else ""
    return rows


def main() -> None:
    parser = benchmark_parser(
        "The pretext tasks on Imagenette.", METHODS, "imagenette128", "train and val", "runs/pretext"
    )
    parser.add_argument("--clips", nargs=2, metavar=("TRAIN", "HELD_OUT"), help="clips, for video_colorization")
    options = parser.parse_args()
    out = options.out / options.choose_on
    images = parts(options.data, "val", VALIDATION["imagenette"], options.choose_on, out)
    for seed in range(0 if options.table_only else options.seeds):
        for method in options.methods:
            run = run_folder(out, method, seed)
            if method == "supervised":
                supervise(run, run_folder(out, "simclr", seed), images, seed)
            elif method != VIDEO or options.clips:
                unlabelled, held_out = options.clips if method == VIDEO else images
                name, changes = name_and_changes(method)
                config = method if method == VIDEO else f"{name}_imagenette"
                also = [] if name == "simclr" else [partial(ask, held_out)]
                also += [partial(score_random, data=images)] if seed == 0 and also and method in KINDS else []
                train_and_score(config, changes, run, images, seed, seed == 0 and not also, also, unlabelled)
    rows = collect(options.methods, out)
    print(table(rows, COLUMNS))
    if options.chart:
        chart(rows, options.chart, {"raw pixels": ":"})


if __name__ == "__main__":
    main()
