"""Evaluation: how good is an encoder, beside random weights and raw pixels?"""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say

if TYPE_CHECKING:
    from torch import nn

    AnyTrained: TypeAlias = str | os.PathLike[str] | nn.Module
else:  # of the command line, words
    AnyTrained = str


def evaluate(
    run: AnyTrained,
    train: Any = None,
    test: Any = None,
    sets: list[str] | None = None,
    protocol: str = "knn,linear",
    sgd_epochs: int = 100,
    sgd_lr: float = 0.1,
    sgd_schedule: Literal["cosine", "step"] = "cosine",
    out: str | None = None,
    baselines: bool = True,
    seed: int = 0,
    architecture: str | None = None,
    weights_key: str | None = None,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    labels: Literal["auto", "folder", "none"] = "auto",
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Score an encoder on labelled images, by kNN and linear probes on frozen features.

    Args:
        run: Run folder or encoder file; or weights of timm by name (resnet18.a1_in1k), or a file of weights (see
            `architecture`); or a `Run`, or an `Encoder`.
        train: Labelled images that vote and train the probe (a folder, a .csv, a word like cifar10:train, or an object
            of Python, see `open_images`).
        test: Labelled images that are classified, once; if not given, those of `train`, of which kNN leaves out one at
            a time and the probes hold out a fifth.
        sets: Several labelled sets instead of `train` and `test`, each NAME=TRAIN,TEST or NAME=TRAIN.
        protocol: Scores, separated by commas: knn, linear, low_shot (1, 5 and 10 labels a class, 1 and 10 %), sweep
            (many heads on several depths), sgd (the literature's, on crops: slow), svm.
        sgd_epochs: Passes of the protocol sgd over the images.
        sgd_lr: Learning rate of sgd, for a batch of 256.
        sgd_schedule: Its course: cosine to zero, or step, a tenth from 60 % and again from 80 % of training on.
        out: JSON file for the results; a run folder also keeps them in results.json.
        baselines: Whether random weights and raw pixels are scored too.
        seed: Decides the random weights.
        architecture: Timm architecture (or convnet) of a file of weights of another project; `run` is that file.
        weights_key: Which of several networks in that file, such as student; if not given, the teacher or the only one.
        image_size: Side of the images that such weights are shown, pixels; if not given, what timm shows them.
        mean: Mean of each channel that they were trained with, in [0, 1]; if not given, timm's, of a file ImageNet's.
        std: Standard deviation likewise.
        labels: Whether subfolders of a folder are classes; auto: if they look like it.
        workers: Processes that read images.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of images that may be unreadable, in [0, 1]; a run folder lists them in
            bad_images_train.csv and bad_images_test.csv.
        device: Where images are encoded.
        progress: Whether progress bars are shown.

    Returns:
        The results: encoder, protocol, and for each encoder the scores, accuracies in [0, 1]; of several labelled sets
        the two latter under their names in `sets`.

    Raises:
        UsageError: If the encoder or the data do not exist or have no labels.
    """
    from ssl_toolkit.eval.features.baselines import pixels, random_weights
    from ssl_toolkit.eval.scores.protocol import check_protocols, match_labels, score
    from ssl_toolkit.files import make_folder
    from ssl_toolkit.runs import RunFolder
    from ssl_toolkit.tasks.common import Results, open_loader, pick_device
    from ssl_toolkit.tasks.start import load_run_encoder

    labelled = labelled_sets(train, test, sets)
    protocols = [name.strip() for name in protocol.split(",")]
    check_protocols(protocols)
    if sgd_epochs < 1:
        raise UsageError(f"--sgd-epochs is {sgd_epochs}: it must be at least 1")
    if not sgd_lr > 0:
        raise UsageError(f"--sgd-lr is {sgd_lr}: it must be above 0")
    folder = RunFolder(run) if isinstance(run, str | os.PathLike) and Path(run).is_dir() else None
    files = [folder.results_file] if folder else []
    files += [Path(out)] if out else []
    for file in files:
        make_folder(file.parent, "--out")
        if file.is_dir():
            raise UsageError(f"--out {file} is a folder: name a file")
    encoder, metadata = load_run_encoder(run, architecture, weights_key, image_size, mean, std)
    results = Results(run, encoder, metadata, seed)

    def loaders(name: str, cache: str) -> list[Any]:
        """Of the images that vote and train probes and, if there are such, of those that are classified."""
        opened: list[Any] = []
        for part, word in zip(("train", "test"), labelled[name], strict=False):
            file = folder.path / f"bad_images_{name and name + '_'}{part}.csv" if folder else None
            loader = open_loader(
                encoder, word, bad_images_file=file, data_root=data_root, labels=labels, workers=workers,
                max_bad_rate=max_bad_rate, progress=progress, cache=cache,
            )  # fmt: skip
            match_labels(loader.images, opened[0].images if opened else loader.images)
            opened.append(loader)
        return opened

    if len(labelled) > 1:
        for name in labelled:
            loaders(name, "none")  # what is wrong with the last one is said before the first one is scored
    place = pick_device(device)
    encoders: dict[str, Any] = {"trained": encoder.to(place)}
    if baselines:
        encoders |= {"random": random_weights(encoder, seed), "pixels": pixels()}
    found: dict[str, dict[str, Any]] = {}
    for name in labelled:
        bank, *rest = loaders(name, "auto")
        scores = score(
            encoders, bank, rest[0] if rest else None, protocols, view=encoder.eval_view(), device=place,
            options={"sgd": {"epochs": sgd_epochs, "lr": sgd_lr, "schedule": sgd_schedule}},
            progress=progress, say=lambda text, name=name: say(f"{name}: {text}" if name else text),  # type: ignore[misc]
        )  # fmt: skip
        asked = rest[0] if rest else bank
        about = {
            "names": protocols,
            "train": {"data": bank.images.word, "images": bank.total, "bad": len(bank.bad)},
            "test": {"data": asked.images.word, "images": asked.total, "bad": len(asked.bad)},
            "left_out": not rest,
            "classes": len(bank.images.classes or []),
            "class_names": bank.images.classes,
        }
        found[name] = {"protocol": about, "results": scores}
    return results.write({"sets": found} if sets else found[""], files)


def labelled_sets(train: Any, test: Any, sets: list[str] | None) -> dict[str, list[Any]]:
    """What to score on: by name, the data to learn from and, if there are such, the data to classify.

    Args:
        train: Of the one set that has no name.
        test: Likewise.
        sets: NAME=TRAIN,TEST or NAME=TRAIN each.

    Raises:
        UsageError: There is none, both ways are mixed, or a word is of another form.
    """
    if (train is None) == (not sets) or (sets and test is not None):
        raise UsageError(
            "give the labelled images either as --train DATA --test DATA, or several sets of them as "
            "--sets NAME=TRAIN,TEST NAME=TRAIN,TEST ..."
        )
    if train is not None:
        return {"": [train] if test is None else [train, test]}
    found: dict[str, list[Any]] = {}
    for word in sets or ():
        name, _, data = word.partition("=")
        parts = data.split(",")
        if not re.fullmatch(r"[\w.-]+", name) or not all(parts) or len(parts) > 2:
            raise UsageError(
                f"--sets {word}: a labelled set is NAME=TRAIN,TEST or NAME=TRAIN, its name of letters, digits and . _ -"
            )
        if name in found:
            raise UsageError(f"--sets names {name} twice: give each labelled set a name of its own")
        found[name] = parts
    return found
