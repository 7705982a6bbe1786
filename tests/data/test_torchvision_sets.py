from __future__ import annotations

import json
import pickle
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.data.torchvision_sets import TORCHVISION, torchvision_names
from tests.data.small_files import PIXELS, paint, refusal


def idx(path: Path, values: np.ndarray) -> None:
    """The file format of MNIST."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


def mnist(folder: Path) -> np.ndarray:
    pixels = PIXELS[:, 0, :, :20]
    for part in ("train", "t10k"):
        idx(folder / "raw" / f"{part}-images-idx3-ubyte", pixels)
        idx(folder / "raw" / f"{part}-labels-idx1-ubyte", np.array([3, 1, 4, 1, 5], dtype=np.uint8))
    return pixels


@pytest.mark.parametrize("place", ["MNIST", "mnist/MNIST"])
def test_mnist_from_local_files(tmp_path, place):
    pixels = mnist(tmp_path / place)
    images = open_images("mnist:train", root=tmp_path)
    assert (len(images), images.channels) == (5, 1)
    assert images.labels.tolist() == [3, 1, 4, 1, 5]
    assert images.classes is not None
    assert images.classes[3] == "3 - three"
    np.testing.assert_array_equal(images.load(2, None)[0], pixels[2])
    assert images.path(2) == "mnist:train#2"
    np.testing.assert_array_equal(open_item("mnist:train#2", 1, root=tmp_path)[0], pixels[2])
    assert open_images("MNIST:test", root=tmp_path, channels=3).load(0, 32).shape == (3, 32, 32)
    assert pickle.loads(pickle.dumps(images)).load(4, None).shape == (1, 20, 20)


@pytest.mark.parametrize(("word", "folder"), [("fashion-mnist:test", "FashionMNIST"), ("kmnist:test", "KMNIST")])
def test_relatives_of_mnist(tmp_path, word, folder):
    mnist(tmp_path / folder)
    assert len(open_images(word, root=tmp_path)) == 5


def test_cifar10_from_local_files(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels.reshape(4, -1), "labels": [3, 0, 1, 3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car", "bird", "cat"]}))
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", None]])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": None})
    images = open_images("cifar10:test", root=tmp_path)
    assert images.classes == ["plane", "car", "bird", "cat"]
    assert images.labels.tolist() == [3, 0, 1, 3]
    np.testing.assert_array_equal(images.load(1, None), pixels[1])


def make_eurosat(root: Path) -> None:
    paint(root / "eurosat" / "2750" / "Forest" / "1.jpg")
    paint(root / "eurosat" / "2750" / "River" / "1.jpg", 200)


def make_dtd(root: Path) -> None:
    paint(root / "dtd" / "dtd" / "images" / "dotted" / "1.jpg")
    paint(root / "dtd" / "dtd" / "images" / "lined" / "1.jpg", 200)
    (root / "dtd" / "dtd" / "labels").mkdir()
    (root / "dtd" / "dtd" / "labels" / "val1.txt").write_text("dotted/1.jpg\nlined/1.jpg\n")


def make_food101(root: Path) -> None:
    paint(root / "food-101" / "images" / "bread" / "1.jpg")
    paint(root / "food-101" / "images" / "pizza" / "2.jpg", 200)
    (root / "food-101" / "meta").mkdir()
    (root / "food-101" / "meta" / "test.json").write_text(json.dumps({"bread": ["bread/1"], "pizza": ["pizza/2"]}))


def make_oxford_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    paint(folder / "images" / "Bengal_1.jpg")
    paint(folder / "images" / "pug_2.jpg", 200)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "test.txt").write_text("Bengal_1 1 1 1\npug_2 2 2 1\n")


def make_caltech101(root: Path) -> None:
    for name, value in (("ant", 0), ("bear", 200), ("BACKGROUND_Google", 9)):
        paint(root / "caltech101" / "101_ObjectCategories" / name / "image_0001.jpg", value)


def make_caltech256(root: Path) -> None:
    for name, value in (("001.ant", 0), ("002.bear", 200)):
        paint(root / "caltech256" / "256_ObjectCategories" / name / f"{name[:3]}_0001.jpg", value)


def make_gtsrb(root: Path) -> None:
    for name, value in (("00000", 0), ("00001", 200)):
        paint(root / "gtsrb" / "GTSRB" / "Training" / name / "1.ppm", value)


def make_imagenet(root: Path) -> None:
    paint(root / "val" / "n01" / "a.JPEG")
    paint(root / "val" / "n02" / "a.JPEG", 200)
    torch.save(({"n01": ("tench", "Tinca"), "n02": ("shark",)}, ["n01", "n02"]), root / "meta.bin")


def make_imagenette(root: Path) -> None:
    paint(root / "imagenette2" / "val" / "n01440764" / "a.jpeg")
    paint(root / "imagenette2" / "val" / "n03028079" / "a.jpeg", 200)


@pytest.mark.parametrize(
    ("word", "make", "classes"),
    [
        ("eurosat", make_eurosat, ["Forest", "River"]),
        ("eurosat:all", make_eurosat, ["Forest", "River"]),
        ("dtd:val", make_dtd, ["dotted", "lined"]),
        ("food101:test", make_food101, ["bread", "pizza"]),
        ("oxford_pets:test", make_oxford_pets, ["Bengal", "Pug"]),
        ("caltech101", make_caltech101, ["ant", "bear"]),
        ("caltech256", make_caltech256, ["001.ant", "002.bear"]),
        ("gtsrb:train", make_gtsrb, ["0", "1"]),
        ("imagenet:val", make_imagenet, ["tench, Tinca", "shark"]),
        ("imagenette:val", make_imagenette, ["tench, Tinca tinca", "church, church building"]),
    ],
)
def test_sets_of_files_are_listed_and_read_by_the_safe_loader(tmp_path, monkeypatch, word, make, classes):
    make(tmp_path)
    monkeypatch.setattr(torchvision.datasets.folder, "default_loader", None)  # nothing is decoded while listing
    images = open_images(word, root=tmp_path)
    assert images.classes == classes
    assert images.labels.tolist() == [0, 1]
    assert [round(images.load(i, 16).mean(), -1) for i in range(2)] == [0, 200]
    assert images.path(0).startswith(str(tmp_path))
    assert open_item(images.path(1)).shape == (3, 4, 6)
    assert len(pickle.dumps(images)) < 2_000


def test_omniglot_and_places_from_local_files(tmp_path, monkeypatch):
    folder = tmp_path / "omniglot-py"
    for name in ("Greek/character01/1.png", "Greek/character02/1.png"):
        paint(folder / "images_evaluation" / name)
    (folder / "images_evaluation.zip").touch()
    monkeypatch.setattr(torchvision.datasets.Omniglot, "zips_md5", {"images_evaluation": None})
    images = open_images("omniglot:evaluation", root=tmp_path)
    assert images.classes == ["Greek/character01", "Greek/character02"]
    assert images.labels.tolist() == [0, 1]
    assert images.load(1, None).shape == (3, 4, 6)

    (tmp_path / "categories_places365.txt").write_text("/a/abbey 0\n/b/beach 1\n")
    (tmp_path / "places365_val.txt").write_text("1.jpg 1\n2.jpg 0\n")
    paint(tmp_path / "val_256" / "1.jpg")
    places = torchvision.datasets.Places365
    monkeypatch.setattr(places, "_CATEGORIES_META", ("categories_places365.txt", None))
    monkeypatch.setattr(places, "_FILE_LIST_META", {"val": ("places365_val.txt", None)})
    images = open_images("places365:val", root=tmp_path)
    assert images.labels.tolist() == [1, 0]
    assert images.classes == ["/a/abbey", "/b/beach"]
    assert images.load(0, None).shape == (3, 4, 6)


def test_a_set_is_downloaded_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: mnist(Path(self.root) / "MNIST"))
    assert len(open_images("mnist:train", root=tmp_path / "new")) == 5
    assert (tmp_path / "new" / "mnist" / "MNIST").is_dir()


def test_a_failed_download_is_one_clear_error(tmp_path, monkeypatch):
    def fail(self: object) -> None:
        raise urllib.error.URLError("no route to host\nsecond line")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fail)
    message = refusal("mnist:train", root=tmp_path)
    assert str(tmp_path) in message
    assert "no route to host" in message
    assert "data root" in message


def test_damaged_local_files_do_not_leave_a_traceback(tmp_path):
    mnist(tmp_path / "MNIST")
    mnist(tmp_path / "mnist" / "MNIST")
    for place in ("MNIST", "mnist/MNIST"):
        (tmp_path / place / "raw" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    assert "mnist is neither in" in refusal("mnist:train", root=tmp_path)


def test_a_folder_of_the_sets_own_name_is_found_without_downloading(tmp_path):
    make_imagenet(tmp_path / "imagenet")
    assert len(open_images("imagenet:val", root=tmp_path)) == 2


def test_imagenet_says_what_to_fetch(tmp_path):
    message = refusal("imagenet:train", root=tmp_path)
    assert "ILSVRC2012_devkit_t12.tar.gz" in message
    assert str(tmp_path / "imagenet") in message
    assert "give the folder instead" in message


def test_every_named_set_exists_in_torchvision_and_takes_its_arguments(tmp_path):
    """No data here: each must say so in its own way, a wrong name or argument would raise something else."""
    for name, known in TORCHVISION.items():
        for options in known.splits.values():
            with pytest.raises((RuntimeError, FileNotFoundError)):
                getattr(torchvision.datasets, known.build)(tmp_path, **options)
        assert torchvision_names()[name] == list(known.splits)


def test_unlabelled_split_has_no_classes(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "unlabeled_X.bin").write_bytes(bytes(range(2)) * (3 * 96 * 96))
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    stl = torchvision.datasets.STL10
    monkeypatch.setattr(stl, "_check_integrity", lambda self: True)
    images = open_images("stl10:unlabeled", root=tmp_path)
    assert images.classes is None
    assert images.labels.tolist() == [-1, -1]
    assert images.load(1, 32).shape == (3, 32, 32)
