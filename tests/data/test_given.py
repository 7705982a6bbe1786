"""What Python holds as image sets: paths, arrays, tensors, data sets of torch, and what is none of these."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from ssl_toolkit.data.depth import at_depth
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
CHW = PIXELS.transpose(0, 3, 1, 2)


class Items(Dataset[Any]):
    """A data set that makes its items by a function, and counts how often it is asked."""

    def __init__(self, make: Any, count: int = 6, **named: Any) -> None:
        self.make, self.count, self.asked = make, count, 0
        self.__dict__.update(named)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        return self.make(index)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(PIXELS)


def same(images: ImageSet, labels: list[int] | None = None, pixels: np.ndarray = CHW) -> None:
    """The images are `pixels` (N, C, H, W), with these labels."""
    assert len(images) == len(pixels)
    for index, wanted in enumerate(pixels):
        loaded = images.load(index, None)
        np.testing.assert_array_equal(at_depth(loaded, np.uint8), wanted)
        assert loaded.dtype == images.dtype
        assert loaded.flags["C_CONTIGUOUS"]
    assert images.labels.tolist() == (labels or [-1] * len(pixels))
    assert (images.classes is None) == (labels is None)


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        CHW,
        PIXELS.astype(np.uint16) * 257,
        PIXELS / 255,
        torch.from_numpy(PIXELS),
        torch.from_numpy(CHW / 255).float().requires_grad_(),
        list(PIXELS),
        [Image.fromarray(each) for each in PIXELS],
        [torch.from_numpy(each.copy()) for each in CHW],
        TensorDataset(torch.from_numpy(CHW.copy())),
        Subset(Items(lambda i: {"image": PIXELS[i]}), range(6)),
    ],
    ids=lambda given: type(given).__name__,
)
def test_images_of_every_kind_are_the_same_pixels(given: Any) -> None:
    images = open_images(given)
    same(images)
    assert images.word.startswith("<")
    assert images.path(2) == f"{images.word}#2" or images.path(2) == f"data {images.word}#2"
    assert images.load(0, 4).shape == (3, 4, 5)
    with pytest.raises(IndexError):
        images.load(6, None)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    for number, each in enumerate(PIXELS):
        Image.fromarray(each).save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    images = open_images(kind(["0.png", str(tmp_path / "1.png")]))
    same(images, None, CHW[:2])
    assert images.path(0) == os.path.join(tmp_path, "0.png")
    same(open_images([tmp_path / "0.png"]), None, CHW[:1])
    same(open_images(tmp_path))  # a folder as a Path


LABELLED = [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "item",
    [
        lambda i: (PIXELS[i], i % 3),
        lambda i: (Image.fromarray(PIXELS[i]), torch.tensor(i % 3)),
        lambda i: {"img": PIXELS[i], "target": np.int64(i % 3)},
        lambda i: [PIXELS[i], "abc"[i % 3], "more"],
    ],
)
def test_labels_in_items_take_a_pass_where_they_are_wanted(item: Any) -> None:
    items = Items(item)
    same(open_images(items), LABELLED)
    items = Items(item)
    images = open_images(items, labels="none")
    assert items.asked == 1
    same(images)


def test_labels_that_a_data_set_names_are_taken() -> None:
    items = Items(lambda i: (PIXELS[i], 9), targets=LABELLED, classes=["a", "b", "c"])
    images = open_images(items)
    assert items.asked == 1
    same(images, LABELLED)
    assert images.classes == ["a", "b", "c"]
    texts = open_images(Items(lambda i: PIXELS[i], labels=["x", "", "y", "x", "", "y"]))
    assert (texts.labels.tolist(), texts.classes) == ([0, -1, 1, 0, -1, 1], ["x", "y"])


def test_an_item_that_raises_is_a_bad_image() -> None:
    def item(index: int) -> Any:
        if index == 3:
            raise OSError("the disk is gone")
        return PIXELS[index], index % 3

    images = open_images(Items(item))
    assert images.labels.tolist() == [0, 1, 2, -1, 1, 2]
    with pytest.raises(BadImageError, match=r"<test_given.Items of 6>#3: the disk is gone"):
        images.load(3, None)


def test_channels_are_as_asked() -> None:
    assert open_images(PIXELS, channels=1).load(0, None).shape == (1, 8, 10)
    assert open_images(list(PIXELS), channels=1).load(0, None).shape == (1, 8, 10)
    grey = open_images([Image.fromarray(each[..., 0]) for each in PIXELS])
    assert grey.load(0, None).shape == (1, 8, 10)
    assert open_images(np.zeros((4, 5, 9, 8), np.uint8)).load(0, None).shape == (5, 9, 8)


def test_an_image_set_is_itself_but_for_its_labels() -> None:
    given = open_images(TensorDataset(torch.from_numpy(CHW.copy()), torch.tensor(LABELLED)))
    same(open_images(given), LABELLED)
    same(open_images(given, labels="none"))
    assert given.labels.tolist() == LABELLED
    with pytest.raises(UsageError, match="has 3 channels, 1 are wanted"):
        open_images(given, channels=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "data is <int>: give a word"),
        ({"images": PIXELS}, "data is <dict of 1>"),
        (Stream(), r"data is <test_given.Stream>: .*\(map-style\)"),
        ([], "data is <list of 0>: it is empty"),
        (PIXELS[0, 0], r"data <numpy.ndarray \(10, 3\) uint8>: shape \(10, 3\) is none of"),
        (PIXELS.astype(np.int64), "values are int64"),
        (2.0 * PIXELS, "float values from 0 to 510: scale"),
        ([PIXELS[0] / 1.0], "item 0 of <list of 1> cannot be read as an image: float values from"),
        ([None, PIXELS[0]], r"item 0 of <list of 2> .* it is <NoneType>, and must be a PIL image"),
        ([np.zeros((2, 2, 2, 2), np.uint8)], r"its shape is \(2, 2, 2, 2\)"),
        (["a.png", 3], r"item 0 of <list of 2> .* it is <str of 5>"),
        (Items(lambda i: (PIXELS[i], 0.5)), r"data <test_given.Items of 6>: labels must be text, or class numbers"),
        (Items(lambda i: {"picture": PIXELS[i]}), "no image under image, .*: there are picture"),
        (Items(lambda i: 1 / 0), "item 0 of <test_given.Items of 6> cannot be read as an image: division by zero"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_holds_no_images_is_refused_in_a_line(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        open_images(given)
    assert "\n" not in str(error.value)


def test_a_folders_labels_and_a_past_object_are_refused() -> None:
    with pytest.raises(UsageError, match="labels by folder need a folder"):
        open_images(PIXELS, labels="folder")
    with pytest.raises(UsageError, match="data was an object of Python, <list of 3>"):
        open_images("<list of 3>")


def test_a_range_of_what_python_holds() -> None:
    scans = (CHW.astype(np.int16) - 100) * 4
    wanted = CHW.astype(int) * 257
    low, high = -400, 620
    for given in (scans, torch.from_numpy(scans), list(scans), TensorDataset(torch.from_numpy(scans))):
        with pytest.raises(UsageError, match="give --range LOW,HIGH"):
            open_images(given)
        images = open_images(given, range=(low, high))
        assert (images.dtype, images.range) == (np.uint16, (low, high))
        np.testing.assert_array_equal(images.load(2, None), wanted[2])
        measured = open_images(given, range="auto").range
        assert low <= measured[0] < low + 20
        assert high - 20 < measured[1] <= high


def test_a_set_keeps_the_range_that_it_was_opened_with() -> None:
    images = open_images(CHW.astype(np.uint16), range=(0, 255))
    assert open_images(images).range == open_images(images, range="0,255").range == (0, 255)
    with pytest.raises(UsageError, match=r"was opened with the range \(0.0, 255.0\), \(0.0, 99.0\) is wanted"):
        open_images(images, range="0,99")
    assert open_images(open_images(CHW), range="0,99").load(0, None).max() <= 255  # bytes have their own


def test_captions_in_items() -> None:
    images = open_images(Items(lambda n: {"image": CHW[n], "caption": f"number {n}"}))
    assert images.caption(3) == "number 3"
    assert open_images(Items(lambda n: {"image": CHW[n], "captions": [f"{n}", "other"]})).caption(2) == "2"
    assert open_images(Items(lambda n: {"image": CHW[n]})).caption(0) is None
