"""The contrastive methods on CIFAR-10 with small encoders, minutes of training each on two CPU cores.

    python benchmarks/contrastive.py --data cifar10 --out runs/contrastive --seeds 3 --chart contrastive.png

`--data` is a folder with ``train`` and ``test``. Each method is trained by its recipe ``configs/METHOD_cifar10.yaml``
and scored by ``ssl-toolkit evaluate``, on validation images unless ``--choose-on test`` says otherwise; random weights
and raw pixels are scored once for each kind of encoder. ``--methods byol:epochs=4`` changes a recipe, and
``distill:method.teacher=runs/simclr`` gives one what it needs. A run that is already there is not repeated, one that
was stopped goes on, so the command can be given again at any time, and with ``--table-only`` it only writes down what
there is.
"""

from __future__ import annotations

from pathlib import Path

from scored_runs import (
    VALIDATION,
    Rows,
    baseline_rows,
    benchmark_parser,
    chart,
    name_and_changes,
    parts,
    row_of,
    run_folder,
    scored,
    table,
    train_and_score,
)

METHODS = (
    "simclr", "dcl", "moco", "moco_v3", "ressl", "nnclr", "swav", "dino", "byol", "simsiam", "barlow_twins", "vicreg",
    "tico", "w_mse", "dense_cl", "deepcluster_v2", "pirl", "pixpro", "cpc", "supcon",
)  # fmt: skip
VIT = ("i_jepa", "data2vec2", "simmim", "lejepa", "ibot", "dinov2", "msn")
# The recipe's nine epochs take more than ten minutes; SupCon, the mark for the others, sees labels.
OPTIONS = {"simclr": ["--epochs", "8"], "supcon": ["--labels", "auto"]}
# Random weights depend on the encoder alone; these have one of each kind.
KINDS = {"simclr": "random weights", "cpc": "random weights, layer norm", "i_jepa": "random weights, ViT"}
COLUMNS = {"runs": "runs", "steps": "steps", "minutes": "minutes", "knn": "kNN", "linear": "linear"}


def collect(methods: list[str], out: Path) -> Rows:
    """Scores of the runs that are there."""
    rows: Rows = {}
    for method in methods:
        runs = scored(out, method)
        if not runs:
            continue
        rows |= baseline_rows(runs[0], KINDS.get(method, "random weights"))
        rows[method] = {"runs": str(len(runs)), **row_of(runs)}
    return rows


def main() -> None:
    options = benchmark_parser(
        "The contrastive methods on CIFAR-10.",
        METHODS,
        "cifar10",
        "train and test",
        "runs/contrastive",
        (*VIT, "distill"),
    ).parse_args()
    out = options.out / options.choose_on
    data = parts(options.data, "test", VALIDATION["cifar10"], options.choose_on, out)
    for seed in range(0 if options.table_only else options.seeds):
        for method in options.methods:
            run, baselines = run_folder(out, method, seed), seed == 0 and method in KINDS
            name, changes = name_and_changes(method)
            train_and_score(f"{name}_cifar10", [*OPTIONS.get(name, []), *changes], run, data, seed, baselines)
    rows = collect(options.methods, out)
    print(table(rows, COLUMNS))
    if options.chart:
        chart(rows, options.chart, {"random weights": "--", "raw pixels": ":"})


if __name__ == "__main__":
    main()
