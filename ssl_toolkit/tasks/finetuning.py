"""An encoder and labels in, a run folder with a classifier out."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssl_toolkit.errors import UsageError
from ssl_toolkit.objects import describe, plain
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.progress import say
from ssl_toolkit.runs import RunFolder, start_run
from ssl_toolkit.tasks.pretraining import NOT_STORED
from ssl_toolkit.tasks.settings import LIMITS, AnyData, AnyPath, AnyTrained, Weights, check_numbers, with_defaults
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.data.loader import ImageLoader
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.eval.scores.finetune import BestEpoch, FineTuning

    AnyOptimizer: TypeAlias = OptimizerConfig | Mapping[str, Any]
else:
    AnyOptimizer = OptimizerConfig

OPTIMIZER = OptimizerConfig(lr=1e-3, weight_decay=0.05, warmup=0.1)


class FineTuned(Found, dict[str, Any]):
    """What results.json holds: encoder, protocol and, for each start, the scores, accuracies in [0, 1]."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row a start: its name and all its scores."""
        return [{"start": start, **scores["finetune"]} for start, scores in self["results"].items()]

    def table(self) -> Table:
        """Accuracies in percent."""
        from ssl_toolkit.eval.pictures.words import ENCODERS
        from ssl_toolkit.eval.scores.metrics import in_percent

        rows = [
            [
                ENCODERS[row["start"]], in_percent(row), f"{100 * row['top5']:.1f}", f"{100 * row['per_class']:.1f}",
                str(row["epoch"]),
            ]
            for row in self.rows
        ]  # fmt: skip
        head = ["fine-tuned, %", "top-1", "top-5", "per class", "epoch"]
        return Table(head, rows, ["<16", ">12", ">8", ">11", ">7"])


def finetune(
    run: AnyTrained,
    train: AnyData,
    out: AnyPath,
    test: AnyData | None = None,
    label_budget: float | None = None,
    init: Literal["trained", "random"] = "trained",
    baseline: bool = False,
    epochs: int = 30,
    batch_size: int = 128,
    optimizer: AnyOptimizer = OPTIMIZER,
    layer_decay: float = 0.75,
    probe_first: bool = True,
    label_smoothing: float = 0.1,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    ema: float = 0.99,
    crop_scale: tuple[float, float] = (0.3, 1.0),
    flip_p: float = 0.5,
    randaugment: int = 0,
    magnitude: float = 9.0,
    erase_p: float = 0.0,
    validation: float = 0.1,
    patience: int = 0,
    tta: bool = False,
    seed: int = 0,
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "auto",
    clip_gradient: float = 0.0,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    cache: Literal["auto", "memory", "none"] = "auto",
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    checkpoint_every: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> FineTuned:
    """Fine-tune an encoder into a classifier, on all labels or a few of them.

    In Python, `run` may be whatever `load_run_encoder` takes, `train` and `test` whatever `open_images` takes.

    Args:
        run: Run folder or encoder file; or weights of timm by name (resnet18.a1_in1k), or a file of weights (see
            `architecture`).
        train: Labelled images (a folder, a .csv, a word like cifar10:train); those without a label are left out.
        out: The run folder to make.
        test: Labelled images that are classified, once, at the end; if not given, a fifth of `train` is held out.
        label_budget: Labels that may be used, validation included: below 1 a share of each class, else that many
            images a class; if not given, all.
        init: Weights to start from: the encoder's, or random ones of the same architecture.
        baseline: Train random weights too, in the same way but at one learning rate, in the folder random
            of `out`.
        epochs: Passes over the images, at most.
        batch_size: Images a batch; fewer where there are not so many.
        optimizer: How the weights are moved: an `OptimizerConfig`, or a dictionary of its options.
        layer_decay: Factor of the learning rate from one layer to the one below it; 1 for one rate.
        probe_first: Start the classifier as a linear probe of the encoder's features, not at random; random
            weights never do.
        label_smoothing: Share of each target that is spread over all classes.
        mixup: Parameter alpha of mixup; 0 for none.
        cutmix: Parameter alpha of CutMix; 0 for none. With both, each batch draws one of them.
        ema: Decay of the moving average of the weights, which is what is scored and kept; 0 for none.
        crop_scale: Least and largest share of the image's area in a crop.
        flip_p: Probability of a horizontal flip.
        randaugment: Number of RandAugment's operations; 0 for none.
        magnitude: Magnitude of RandAugment, up to 30.
        erase_p: Probability of erasing a rectangle.
        validation: Share of each class's labels that is held out to choose the epoch; 0 trains on all labels and
            keeps the last epoch.
        patience: Epochs without a better one after which training stops; 0 never stops it.
        tta: Test-time augmentation: mean probabilities of crops and their mirror images.
        seed: Decides everything that is random; equal seeds draw equal labels.
        precision: Arithmetic of the training; auto takes bf16-mixed on a GPU that computes in it natively, 32-true
            elsewhere.
        clip_gradient: Largest norm of the gradient; 0 leaves it alone.
        labels: Classes of a folder: its subfolders (folder), or these if they look it (auto); none drops all labels.
        workers: Processes that read images.
        cache: Keep decoded images in memory; auto does so up to 2 GiB.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of images that may be unreadable, in [0, 1].
        device: Where it is trained.
        checkpoint_every: Optimiser steps between checkpoints; if not given, one every five minutes and one at the end.
        resume: Go on with the run in `out`, if there is one.
        overwrite: Delete a run that is in `out`.
        progress: Show progress bars.

    Returns:
        The results, which print as a table.

    Raises:
        UsageError: If something asked for does not exist or does not fit.
        ToolkitError: If the training fails.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, finetune, load_classifier
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = finetune(encoder, "shapes:train:64", f"{folder}/tuned", epochs=1, workers=0, progress=False)
        ...     load_classifier(f"{folder}/tuned").classes[:3]
        ['boat', 'bottle', 'car']
    """
    return FineTuned(_tuned(settings_of(locals())))


# What goes where.
OBJECTS = ("run", "train", "out", "test", "optimizer")  # in Python more than words
VIEWS = ("crop_scale", "flip_p", "randaugment", "magnitude", "erase_p")
METHOD = ("layer_decay", "label_smoothing", "mixup", "cutmix", "ema")
READING = ("workers", "max_bad_rate", "progress", "cache")
FIT = ("epochs", "seed", "precision", "clip_gradient", "checkpoint_every", "resume", "progress")

SHARED = ("epochs", "batch_size", "workers", "max_bad_rate", "clip_gradient", "checkpoint_every")
OWN_LIMITS: dict[str, tuple[float, float]] = {
    **{key: value for key, value in LIMITS.items() if key in SHARED or key.startswith("optimizer.")},
    "label_budget": (1e-9, 10**9),
    "layer_decay": (0.01, 1),
    "label_smoothing": (0, 0.99),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "ema": (0, 1),
    "flip_p": (0, 1),
    "randaugment": (0, 10),
    "magnitude": (0.01, 29.99),
    "erase_p": (0, 1),
    "validation": (0, 0.9),
    "patience": (0, 10**6),
}


def settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of `finetune`, checked: plain values, objects as they are, and how `run` is read in its options.

    Args:
        given: Arguments of `finetune` by name.

    Raises:
        UsageError: Naming the first that is missing, of another type or out of range.
    """
    objects = {name: given[name] for name in OBJECTS}
    values = with_defaults(finetune, {name: v for name, v in given.items() if name not in objects}, skip=OBJECTS)
    optimizer = objects["optimizer"]
    options = asdict(optimizer) if isinstance(optimizer, OptimizerConfig) else optimizer
    if not isinstance(options, Mapping):
        raise UsageError(f"optimizer is {describe(options)}: give an OptimizerConfig, or a dictionary of its options")
    config = {**values, **objects, "optimizer": with_defaults(OptimizerConfig, options, "optimizer")}
    check_numbers(config, OWN_LIMITS)
    return config


def _stored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as ``config.yaml`` holds them: of objects there are descriptions."""
    source = vars(Weights.of(config["run"]))
    how = {name: value for name, value in source.items() if name != "path"}
    stored: dict[str, Any] = plain({k: v for k, v in config.items() if k not in NOT_STORED})
    stored |= plain({"run": source["path"], **how})
    return stored


def _tuned(config: dict[str, Any]) -> dict[str, Any]:
    """Train and score what `config` says, all of it resolved (see `finetune`)."""
    from ssl_toolkit.tasks.common import Results, pick_device
    from ssl_toolkit.tasks.start import load_run_encoder
    from ssl_toolkit.training import automatic_precision

    pick_device(config["device"])
    if config["precision"] == "auto":
        config["precision"] = automatic_precision(config["device"])
    encoder, metadata = load_run_encoder(config["run"], config["train"], config["data_root"])
    results = Results(config["run"], encoder, metadata, config["seed"])
    parts = _parts(config, encoder)
    config["batch_size"] = min(config["batch_size"], len(parts["train"]))
    run, scores = RunFolder(config["out"]), {}
    starts = [config["init"], *(["random"] if config["baseline"] and config["init"] == "trained" else [])]
    for number, init in enumerate(starts):
        own = config | {"init": init, "out": str(run.path / "random" if number else run.path)}
        if number:  # random weights hold nothing that a smaller rate would keep
            own |= {"baseline": False, "layer_decay": 1.0}
        scores[init] = {"finetune": _train_and_score(own, parts, encoder)}
    return results.write({"protocol": _about(config, parts), "results": scores}, [run.results_file])


def _about(config: dict[str, Any], parts: dict[str, "ImageSet"]) -> dict[str, Any]:
    """What was trained and scored on."""
    train, test = parts["train"], parts["test"]
    return {
        "names": ["finetune"],
        "train": {"data": train.word, "images": len(train)},
        "validation": {"data": train.word, "images": len(parts.get("validation", ()))},
        "test": {"data": test.word, "images": len(test)},
        "left_out": config["test"] is None,
        "label_budget": config["label_budget"],
        "tta": config["tta"],
        "classes": len(train.classes or []),
        "class_names": train.classes,
    }


def _parts(config: dict[str, Any], encoder: "Encoder") -> dict[str, "ImageSet"]:
    """The images that train, those that choose the epoch (if any) and those that are scored, with equal classes."""
    import numpy as np

    from ssl_toolkit.data.image_set import Subset
    from ssl_toolkit.eval.features.extraction import stratified_split
    from ssl_toolkit.eval.scores.low_shot import draw_labels
    from ssl_toolkit.eval.scores.protocol import match_labels
    from ssl_toolkit.tasks.common import open_stills

    budget, share = config["label_budget"], config["validation"]
    if budget is not None and budget > 1 and budget != int(budget):
        raise UsageError(f"--label-budget is {budget}: give a share below 1, or a whole number of images a class")
    opened = partial(open_stills, encoder, data_root=config["data_root"], labels=config["labels"])
    images = opened(config["train"], argument="train")
    test = images if config["test"] is None else opened(config["test"], argument="test")
    for each in (images, test):
        each.require_positions()
    match_labels(test, images)
    rows = np.flatnonzero(images.labels >= 0)
    if config["test"] is None:
        kept, held = stratified_split(images.labels[rows], 0.2, seed=1)  # the fifth that `evaluate` holds out
        test, rows = Subset(images, rows[held]), rows[kept]
    elif missing := int((test.labels < 0).sum()):
        raise UsageError(f"{missing} of {len(test)} images of --test {test.word} have no label: scores need them")
    if budget is not None:
        rows = rows[draw_labels(images.labels[rows], budget, config["seed"])]
    parts = {"test": test, "train": Subset(images, rows)}
    if share:
        if np.unique(images.labels[rows], return_counts=True)[1].max() < 2:
            raise UsageError(f"--validation is {share}, and no class has two labels to share out: give --validation 0")
        kept, held = stratified_split(images.labels[rows], share, seed=config["seed"])
        parts |= {"train": Subset(images, rows[kept]), "validation": Subset(images, rows[held])}
    elif config["patience"]:
        raise UsageError(f"--patience is {config['patience']}, and --validation 0 leaves nothing to be patient about")
    return parts


def _train_and_score(config: dict[str, Any], parts: dict[str, "ImageSet"], encoder: "Encoder") -> dict[str, Any]:
    """Train a copy from one start in a run folder of its own; the scores on the test set, read here for once."""
    method = _method(config, parts["train"], encoder)
    run = start_run(config["out"], _stored(config), overwrite=config["overwrite"], resume=config["resume"])
    say(
        f"{config['init']} weights: {len(parts['train'])} images of '{parts['train'].word}' in "
        f"{len(method.classifier.classes)} classes at {encoder.config.load_size} px"
    )
    best = _fit(config, parts, method, run)
    return _scores(config, parts["test"], method, best, run)


def _method(config: dict[str, Any], images: "ImageSet", encoder: "Encoder") -> "FineTuning":
    """What is trained: a copy of the encoder, or one with random weights, under a classifier."""
    import copy

    import torch

    from ssl_toolkit.augment import finetune_views
    from ssl_toolkit.eval.scores.finetune import FineTuning
    from ssl_toolkit.eval.scores.low_shot import fit_probe
    from ssl_toolkit.randomness import derive_seed
    from ssl_toolkit.tasks.common import encode_all, image_loader

    encoder = encoder.reinitialized(config["seed"]) if config["init"] == "random" else copy.deepcopy(encoder)
    probe = None
    if config["probe_first"] and config["init"] == "trained":
        loader = image_loader(encoder, images, **_chosen(config, READING))
        probe = fit_probe(encode_all(encoder, loader, config["device"], False))
        encoder = encoder.cpu()
    torch.manual_seed(derive_seed(config["seed"], "init"))
    return FineTuning(
        encoder.train(),
        finetune_views(encoder.config.image_size, channels=encoder.config.channels, **_chosen(config, VIEWS)),
        OptimizerConfig(**config["optimizer"]),
        classes=images.classes or [],
        probe=probe,
        **_chosen(config, METHOD),
    )


def _fit(
    config: dict[str, Any], parts: dict[str, "ImageSet"], method: "FineTuning", run: RunFolder
) -> "BestEpoch | None":
    """Train the method, to its best epoch where some images are held out to choose one."""
    from ssl_toolkit.eval.scores.finetune import BestEpoch
    from ssl_toolkit.tasks.common import image_loader, pick_device
    from ssl_toolkit.training import fit

    reader: Callable[..., ImageLoader] = partial(image_loader, method.encoder, **_chosen(config, READING))
    loader = reader(
        parts["train"], bad_images_file=run.bad_images_file, shuffle=True, batch_size=config["batch_size"],
        seed=config["seed"],
    )  # fmt: skip
    best = None
    if "validation" in parts:
        held_out = reader(parts["validation"], bad_images_file=run.path / "bad_images_validation.csv")
        best = BestEpoch(held_out, config["patience"])
    place = pick_device(config["device"]).type
    callbacks = [] if best is None else [best]
    fit(method, loader, run, accelerator={"cuda": "gpu"}.get(place, place), callbacks=callbacks, **_chosen(config, FIT))
    if best is not None:
        best.restore(method)
    return best


def _scores(
    config: dict[str, Any], images: "ImageSet", method: "FineTuning", best: "BestEpoch | None", run: RunFolder
) -> dict[str, Any]:
    """Save the classifier and its encoder, and score it."""
    from ssl_toolkit.encoders import save_encoder
    from ssl_toolkit.eval.scores.classifier import classify, save_classifier, score
    from ssl_toolkit.eval.scores.finetune import FineTuning
    from ssl_toolkit.tasks.common import image_loader, pick_device

    place = pick_device(config["device"])
    classifier = method.classifier.to(place)
    sha256 = save_classifier(classifier, run.path / "classifier.safetensors")
    save_encoder(classifier.encoder, run.encoder_file, FineTuning.__name__)
    file = run.path / "bad_images_test.csv"
    loader = image_loader(classifier.encoder, images, bad_images_file=file, **_chosen(config, READING))
    found = score(classify(classifier, loader, config["tta"], place, config["progress"]), len(classifier.classes))
    epoch = config["epochs"] if best is None else best.best_epoch
    return {**found, "epoch": epoch, **({} if best is None else best.best), "sha256": sha256}


def _chosen(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: config[name] for name in names}
