"""The contrastive methods on CIFAR-10 or Imagenette with small encoders, minutes of training each on two CPU cores.

    python benchmarks/contrastive.py --data cifar10 --out runs/contrastive --seeds 3 --chart contrastive.png
    python benchmarks/contrastive.py --images imagenette --data imagenette128 --out runs/contrastive

`--data` is a folder with ``train`` and ``test`` (Imagenette: ``val``). Each method is trained by its recipe
``configs/METHOD_cifar10.yaml``, on Imagenette with the sizes, views and epochs of ``simclr_imagenette``, and scored by
``ssl-toolkit evaluate``, on validation images unless ``--choose-on test`` says otherwise; random weights and raw pixels
are scored once for each kind of encoder. ``--methods byol:epochs=4`` changes a recipe, and
``distill:method.teacher=runs/simclr`` gives one what it needs. ``supervised`` trains SimCLR's encoder, once that is
there, from random weights on all labels. A run that is already there is not repeated, one that
was stopped goes on, so the command can be given again at any time, and with ``--table-only`` it only writes down what
there is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
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
    supervise,
    table,
    train_and_score,
)

METHODS = (
    "simclr", "dcl", "moco", "moco_v3", "ressl", "nnclr", "swav", "dino", "byol", "simsiam", "barlow_twins", "vicreg",
    "tico", "w_mse", "dense_cl", "deepcluster_v2", "pirl", "pixpro", "cpc", "supcon",
)  # fmt: skip
VIT = ("i_jepa", "data2vec2", "simmim", "lejepa", "ibot", "dinov2", "msn")
# The recipe's nine epochs take more than ten minutes; SupCon, the mark for the others, sees labels.
OPTIONS = {"simclr": ["--epochs=8"], "supcon": ["--labels=auto"]}
TEST = {"cifar10": "test", "imagenette": "val"}
CONFIGS = Path(__file__).parents[1] / "configs"
# On Imagenette: of an image of 64 px for 32, and as strong as `simclr_imagenette`.
SIZES = {24: 40, 32: 64, 36: 60}
SCALE, JITTER = [0.2, 1.0], [0.4, 0.4, 0.4, 0.1]
# Random weights depend on the encoder alone; these have one of each kind.
KINDS = {"simclr": "random weights", "cpc": "random weights, layer norm", "i_jepa": "random weights, ViT"}
COLUMNS = {"runs": "runs", "steps": "steps", "minutes": "minutes", "knn": "kNN", "linear": "linear"}


def at_imagenette(recipe: dict[str, Any]) -> list[str]:
    """What a recipe for CIFAR-10 gets on the command line for Imagenette; patches of a ViT grow with the image."""
    views = recipe.get("views", {})
    sizes = {f"views.{name}": SIZES[views[name]] for name in ("size", "jigsaw_size") if name in views}
    crops = {f"views.{name}": SCALE for name in ("crop_scale", "global_scale") if name in views}
    colours = {"views.jitter": JITTER} if "jitter" in views else {}
    patches = {} if recipe["encoder"] == "convnet" else {"encoder.patch_size": 2 * recipe["encoder"]["patch_size"]}
    changes = {"image_size": 64, **patches, **sizes, **crops, **colours, "epochs": 8}
    return [f"--{name}={value}" for name, value in changes.items()]


def recipe_of(name: str, images: str) -> tuple[str, list[str]]:
    """The recipe of a method on some images, and what differs from it."""
    if (CONFIGS / f"{name}_{images}.yaml").exists():
        return f"{name}_{images}", OPTIONS.get(name, [])
    recipe = yaml.safe_load((CONFIGS / f"{name}_cifar10.yaml").read_text())
    return f"{name}_cifar10", [*at_imagenette(recipe), *OPTIONS.get(name, [])]


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
    parser = benchmark_parser(
        "The contrastive methods on CIFAR-10 or Imagenette.",
        METHODS,
        "cifar10",
        "train and test (Imagenette: val)",
        "runs/contrastive",
        (*VIT, "distill", "bigan", "supervised"),
    )
    parser.add_argument("--images", choices=TEST, default="cifar10")
    options = parser.parse_args()
    out = options.out / options.images / options.choose_on
    data = parts(options.data, TEST[options.images], VALIDATION[options.images], options.choose_on, out)
    for seed in range(0 if options.table_only else options.seeds):
        for method in options.methods:
            run, baselines = run_folder(out, method, seed), seed == 0 and method in KINDS
            name, changes = name_and_changes(method)
            if name == "supervised":
                supervise(run, run_folder(out, "simclr", seed), data, seed)
                continue
            config, usual = recipe_of(name, options.images)
            train_and_score(config, [*usual, *changes], run, data, seed, baselines)
    rows = collect(options.methods, out)
    print(table(rows, COLUMNS))
    if options.chart:
        chart(rows, options.chart, {"random weights": "--", "raw pixels": ":"})


if __name__ == "__main__":
    main()
