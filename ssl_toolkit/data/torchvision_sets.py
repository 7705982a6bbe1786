"""The data sets of torchvision: found where they lie, or downloaded."""

from __future__ import annotations

import os
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.arrays import ArraySet
from ssl_toolkit.data.file_set import FileSet, PathList
from ssl_toolkit.data.image_set import ImageSet, Wanted
from ssl_toolkit.errors import UsageError, unknown_name


def _samples(dataset: Any) -> Iterator[tuple[Any, int]]:
    """Path and label of each image of a data set that has a `loader`, by a loader that opens nothing."""
    dataset.loader = os.fspath
    return (dataset[i] for i in range(len(dataset)))


@dataclass(frozen=True)
class _Known:
    """A data set of torchvision.

    Attributes:
        build: Name of its class.
        splits: The class's arguments for each split.
        missing: What the user must fetch where torchvision cannot download.
        samples: Path and label of each image, for a data set of files.
    """

    build: str
    splits: dict[str, dict[str, Any]]
    missing: str = ""
    samples: Callable[[Any], Iterable[tuple[Any, int]]] = _samples


def _sorted_samples(dataset: Any) -> list[tuple[Any, int]]:
    """For a data set that torchvision lists in the order of the disk, which differs between machines."""
    return sorted(_samples(dataset))


def _omniglot_samples(dataset: Any) -> list[tuple[str, int]]:
    """As `_sorted_samples`; of Omniglot even the numbers of the classes depend on the disk."""
    dataset.classes = sorted(dataset._characters)
    number = {name: i for i, name in enumerate(dataset.classes)}
    return sorted((path, number[dataset._characters[label]]) for path, label in _samples(dataset))


def _caltech101_samples(dataset: Any) -> Iterator[tuple[str, int]]:
    folder = os.path.join(dataset.root, "101_ObjectCategories")
    for number, label in zip(dataset.index, dataset.y, strict=True):
        yield os.path.join(folder, dataset.categories[label], f"image_{number:04d}.jpg"), label


def _caltech256_samples(dataset: Any) -> Iterator[tuple[str, int]]:
    folder = os.path.join(dataset.root, "256_ObjectCategories")
    for number, label in zip(dataset.index, dataset.y, strict=True):
        yield os.path.join(folder, dataset.categories[label], f"{label + 1:03d}_{number:04d}.jpg"), label


def _named(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"split": name} for name in names}


_TRAIN_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_PLACES: dict[str, dict[str, Any]] = {"train": {"split": "train-standard"}, "val": {"split": "val"}}

TORCHVISION = {
    "caltech101": _Known("Caltech101", {"all": {}}, samples=_caltech101_samples),
    "caltech256": _Known("Caltech256", {"all": {}}, samples=_caltech256_samples),
    "cifar10": _Known("CIFAR10", _TRAIN_FLAG),
    "cifar100": _Known("CIFAR100", _TRAIN_FLAG),
    "country211": _Known("Country211", _named("train", "valid", "test")),
    "dtd": _Known("DTD", _named("train", "val", "test")),
    "eurosat": _Known("EuroSAT", {"all": {}}),
    "fashion_mnist": _Known("FashionMNIST", _TRAIN_FLAG),
    "fgvc_aircraft": _Known("FGVCAircraft", _named("train", "val", "trainval", "test")),
    "flowers102": _Known("Flowers102", _named("train", "val", "test")),
    "food101": _Known("Food101", _named("train", "test")),
    "gtsrb": _Known("GTSRB", _named("train", "test"), samples=lambda dataset: dataset._samples),
    "imagenet": _Known(
        "ImageNet",
        _named("train", "val"),
        missing="ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_train.tar or ILSVRC2012_img_val.tar from image-net.org"
        " (already unpacked as folders? then give the folder instead of the name)",
    ),
    "imagenette": _Known("Imagenette", _named("train", "val")),
    "kmnist": _Known("KMNIST", _TRAIN_FLAG),
    "mnist": _Known("MNIST", _TRAIN_FLAG),
    "omniglot": _Known(
        "Omniglot",
        {"background": {"background": True}, "evaluation": {"background": False}},
        samples=_omniglot_samples,
    ),
    "oxford_pets": _Known(
        "OxfordIIITPet",
        _named("trainval", "test"),
        samples=lambda dataset: zip(dataset._images, dataset._labels, strict=True),
    ),
    # The 256-pixel version; the high-resolution one is five times the download for images that are shrunk anyway.
    "places365": _Known("Places365", {name: {**options, "small": True} for name, options in _PLACES.items()}),
    "places365_large": _Known("Places365", _PLACES),
    "stl10": _Known("STL10", _named("train", "test", "unlabeled", "train+unlabeled")),
    "sun397": _Known("SUN397", {"all": {}}, samples=_sorted_samples),
    "svhn": _Known("SVHN", _named("train", "test", "extra")),
    "usps": _Known("USPS", _TRAIN_FLAG),
}


def torchvision_names() -> dict[str, list[str]]:
    """The data sets that come through torchvision, and the splits of each."""
    return {name: list(known.splits) for name, known in TORCHVISION.items()}


def open_torchvision(word: str, wanted: Wanted) -> ImageSet:
    """A data set by its name and split, ``"cifar10:train"``.

    Raises:
        UsageError: No such split, or it is neither there nor can be downloaded.
    """
    name, *options = word.split(":")
    known = TORCHVISION[name]
    if not options and len(known.splits) == 1:
        options = list(known.splits)
    if len(options) != 1:
        raise UsageError(f"{name} needs a split: {' or '.join(f'{name}:{split}' for split in known.splits)}")
    if options[0] not in known.splits:
        raise unknown_name(f"split of {name}", options[0], known.splits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old pickles and .mat files make their readers talk
        dataset = _build(name, known, known.splits[options[0]], wanted.root)
    if not hasattr(dataset, "data"):
        return _torchvision_files(dataset, known, wanted)
    labels = _numpy(dataset.targets if hasattr(dataset, "targets") else dataset.labels).astype(np.int64)
    return ArraySet(f"{name}:{options[0]}", _numpy(dataset.data), labels, _class_names(dataset, labels), wanted)


def _numpy(values: Any) -> NDArray[Any]:
    """Arrays, tensors and lists: the data sets hold their values in all three."""
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values)


def _torchvision_files(dataset: Any, known: _Known, wanted: Wanted) -> FileSet:
    labels = array("q")
    prefix = os.fsencode(os.path.join(wanted.root, ""))

    def names() -> Iterator[bytes]:
        for path, label in known.samples(dataset):
            labels.append(label)
            yield os.fsencode(path).removeprefix(prefix)

    paths = PathList(wanted.root, names())
    numbers: NDArray[np.int64] = np.array(labels, dtype=np.int64)
    return FileSet(paths, numbers, _class_names(dataset, numbers), wanted)


def _class_names(dataset: Any, labels: NDArray[np.int64]) -> list[str]:
    for attribute in ("classes", "categories"):
        if hasattr(dataset, attribute):
            return [name if isinstance(name, str) else ", ".join(name) for name in getattr(dataset, attribute)]
    return [str(i) for i in range(int(labels.max()) + 1)]


def _build(name: str, known: _Known, options: dict[str, Any], root: str) -> Any:
    """The data set from `root` or `root/name`, where it lies; else downloaded to `root/name`."""
    from torchvision import datasets  # a second to import, and only named sets need it

    build = getattr(datasets, known.build)
    own = os.path.join(root, name)
    reason: Exception | None = None
    for place in (root, own):
        if os.path.isdir(place):
            try:
                return build(place, **options)
            except Exception as error:  # not there, incomplete or damaged: the next place, then a fresh copy
                reason = error
    if known.missing:
        raise UsageError(f"{name} cannot be downloaded: put {known.missing} into '{own}'") from reason
    try:
        os.makedirs(own, exist_ok=True)
        return build(own, download=True, **options)
    # Servers, disks and archives fail with anything from URLError to BadZipFile; the user needs one answer to all.
    except Exception as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{name} is neither in '{root}' nor in '{own}', and the download failed ({cause}):"
            " give the folder it lies in as data root, or fetch it on a machine with network access"
        ) from error
