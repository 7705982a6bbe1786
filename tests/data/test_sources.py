from __future__ import annotations

import builtins
import csv
import json
import os
import pickle
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ssl_toolkit.data import sources
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.sources import ImageSet, PathList, list_images, open_images, open_item
from ssl_toolkit.errors import UsageError


def paint(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def names(images: ImageSet, folder: Path) -> list[str]:
    return [os.path.relpath(images.path(i), folder) for i in range(len(images))]


def refusal(word: str, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        open_images(word, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cifar11:train", "unknown data set 'cifar11': did you mean cifar10 or cifar100?"),
        ("shape:train", "did you mean shapes?"),
        ("cifar10", "cifar10 needs a split: cifar10:train or cifar10:test"),
        ("cifar10:", "unknown split of cifar10 ''"),
        ("cifar10:trian", "unknown split of cifar10 'trian': did you mean train?"),
        ("shapes", "shapes needs a split"),
        ("shapes:tset", "unknown split of shapes 'tset': did you mean test?"),
        ("shapes:train:0", "the count must be a whole number from 1"),
        ("shapes:train:many", "the count must be a whole number from 1"),
        ("shapes:train:2:3", "shapes needs a split and may have a count"),
        ("/no/such/place", "no such file or folder: '/no/such/place'"),
        ("./photos", "no such file or folder: './photos'"),
        ("list.csv", "no such file or folder: 'list.csv'"),
        ("list.csv:train", "no such file or folder: 'list.csv:train'"),
        ("list.npy", "no such file or folder: 'list.npy'"),
        ("photos", "unknown data set 'photos'"),
        ("photos", "no file or folder of that name"),
        ("", "unknown data set ''"),
    ],
)
def test_words_that_mean_nothing(word, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(word)


def test_labels_option_is_checked():
    assert "did you mean folder?" in refusal("shapes:train", labels="folders")
    assert "labels by folder need a folder" in refusal("shapes:train", labels="folder")


def test_an_existing_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "shapes:train" / "a.png")
    assert names(open_images("shapes:train"), tmp_path) == ["shapes:train/a.png"]


def test_a_file_of_another_kind_and_a_pipe(tmp_path):
    paint(tmp_path / "a.png")
    assert "give their folder" in refusal(str(tmp_path / "a.png"))
    os.mkfifo(tmp_path / "pipe.csv")
    assert "neither a folder nor a regular file" in refusal(str(tmp_path / "pipe.csv"))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paint(tmp_path / "photos" / "a.png")
    images = open_images("~/photos")
    assert images.word == "~/photos"
    assert images.path(0) == str(tmp_path / "photos" / "a.png")


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_shapes():
    images = open_images("shapes:test:25")
    assert (len(images), images.channels, images.word) == (25, 3, "shapes:test:25")
    assert images.classes is not None
    assert images.classes[images.labels[12]] == "car"
    assert images.load(7, 32).shape == (3, 32, 32)
    assert images.load(7, None).shape == (3, 64, 64)
    np.testing.assert_array_equal(open_item(images.path(7)), images.load(7, None))
    assert open_images("shapes:test:25", channels=1).load(7, 32).shape == (1, 32, 32)
    with pytest.raises(IndexError):
        images.load(25, 32)


def test_shapes_without_a_count():
    assert len(open_images("shapes:train")) == 10_000
    assert len(open_images("shapes:test")) == 2_000


def test_labels_none_drops_them():
    images = open_images("shapes:test:5", labels="none")
    assert images.classes is None
    assert images.labels.tolist() == [-1] * 5


# --- folders ---------------------------------------------------------------------------------------------------------


def test_class_folders_give_labels(tmp_path):
    for name in ("dog/2.png", "dog/deep/1.jpg", "cat/b.PNG", "cat/a.jpeg", "empty/notes.txt"):
        paint(tmp_path / name) if name.lower().endswith(("g",)) else (tmp_path / "empty").mkdir()
    images = open_images(str(tmp_path))
    assert images.classes == ["cat", "dog"]
    assert names(images, tmp_path) == ["cat/a.jpeg", "cat/b.PNG", "dog/2.png", "dog/deep/1.jpg"]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.labels.dtype == np.int64
    assert images.load(0, None).shape == (3, 4, 6)
    assert open_images(str(tmp_path), channels=1).load(0, 8).shape == (1, 8, 12)
    assert open_item(images.path(3)).shape == (3, 4, 6)


@pytest.mark.parametrize(
    "files",
    [
        ("a.png", "b.png"),  # flat
        ("all/a.png", "all/b.png"),  # one subfolder
        ("cat/a.png", "dog/a.png", "loose.png"),  # one image outside
        ("train/cat/a.png", "test/cat/a.png"),  # splits
        ("train/a.png", "unlabeled/a.png", "cat/a.png"),  # splits beside something else
        ("Train/a.png", "Test/a.png"),  # capitalised
    ],
)
def test_folders_that_are_no_classes_give_no_labels(tmp_path, files):
    for name in files:
        paint(tmp_path / name)
    images = open_images(str(tmp_path))
    assert images.classes is None
    assert images.labels.tolist() == [-1] * len(files)


def test_labels_by_folder_on_demand(tmp_path):
    paint(tmp_path / "train" / "a.png")
    paint(tmp_path / "car" / "a.png")
    assert open_images(str(tmp_path), labels="folder").classes == ["car", "train"]
    assert open_images(str(tmp_path), labels="none").classes is None
    paint(tmp_path / "loose.png")
    assert "loose.png' lies in no subfolder" in refusal(str(tmp_path), labels="folder")


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    paint(tmp_path / ".hidden.png")
    paint(tmp_path / ".cache" / "a.png")
    assert "no images in" in refusal(str(tmp_path))


def test_files_only_give_one_or_three_channels(tmp_path):
    paint(tmp_path / "a.png")
    assert "1 or 3 channels, not 4" in refusal(str(tmp_path), channels=4)


def test_listing_survives_loops_and_keeps_bad_files(tmp_path):
    paint(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("d")
    (tmp_path / "d").symlink_to("c")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = list(list_images(tmp_path))
    assert found == [b"pipe.jpg", b"a/self.png", b"a/x.png"]
    images = open_images(str(tmp_path))
    with pytest.raises(BadImageError, match="a pipe"):
        images.load(0, 32)


def test_links_to_other_folders_are_followed(tmp_path):
    paint(tmp_path / "elsewhere" / "x.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    paint(tmp_path / "set" / "dog" / "y.png")
    assert open_images(str(tmp_path / "set")).classes == ["cat", "dog"]


def test_listing_opens_no_file_and_is_sorted(tmp_path, monkeypatch):
    wanted = []
    for folder in ("b", "a", "a/z"):
        (tmp_path / folder).mkdir()
        for i in (10, 9, 1):
            (tmp_path / folder / f"{i}.jpg").touch()
            wanted.append(f"{folder}/{i}.jpg".encode())

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    found = list(list_images(tmp_path))
    assert sorted(found) == sorted(wanted)
    assert found == [b"a/" + name for name in (b"1.jpg", b"10.jpg", b"9.jpg", b"z/1.jpg", b"z/10.jpg", b"z/9.jpg")] + [
        b"b/" + name for name in (b"1.jpg", b"10.jpg", b"9.jpg")
    ]


def test_very_deep_folders(tmp_path):
    deep = tmp_path
    for _ in range(150):
        deep = deep / "d"
    paint(deep / "x.png")
    assert len(open_images(str(tmp_path))) == 1


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    paint(tmp_path / "a" / "x.png")
    scandir = os.scandir

    def scan(path: bytes) -> object:
        if path.endswith(b"/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert f"cannot list the folder '{tmp_path}/a': Permission denied" in refusal(str(tmp_path))


def test_names_that_are_not_utf8(tmp_path):
    name = b"\xff\xfe.png"
    try:
        Image.new("RGB", (2, 2)).save(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    except OSError:
        pytest.skip("the file system wants UTF-8")
    images = open_images(str(tmp_path))
    assert os.fsencode(images.path(0)).endswith(name)
    assert pickle.loads(pickle.dumps(images)).load(0, None).shape == (3, 2, 2)


def test_a_hundred_thousand_paths_stay_compact():
    listed = [f"class{i % 100:03d}/image_{i:06d}.jpg".encode() for i in range(100_000)]
    paths = PathList("/data", listed)
    size = len(pickle.dumps(paths))
    assert size < sum(map(len, listed)) + 8 * len(listed) + 1_000  # no str objects: those take some 50 bytes more each
    assert len(paths) == 100_000
    assert paths[12_345] == "/data/class045/image_012345.jpg"
    assert pickle.loads(pickle.dumps(paths))[99_999] == "/data/class099/image_099999.jpg"
    for outside in (100_000, -1):
        with pytest.raises(IndexError):
            paths[outside]


# --- manifests -------------------------------------------------------------------------------------------------------


def manifest(tmp_path: Path, text: str, name: str = "list.csv", encoding: str = "utf-8") -> str:
    (tmp_path / name).write_bytes(text.encode(encoding))
    return str(tmp_path / name)


def test_manifest_with_labels_and_splits(tmp_path):
    paint(tmp_path / "x" / "a.png", 7)
    word = manifest(
        tmp_path,
        f"Label,path,split,note\ndog,x/a.png,train,\ncat,{tmp_path}/b.png,test,hm\n\n,c.png,train,\nant,d.png,test,\n",
        encoding="utf-8-sig",
    )
    images = open_images(word)
    assert images.classes == ["ant", "cat", "dog"]
    assert images.labels.tolist() == [2, 1, -1, 0]
    assert images.path(1) == str(tmp_path / "b.png")
    assert images.load(0, None)[:, 0, 0].tolist() == [7, 7, 7]
    train = open_images(f"{word}:train")
    assert train.word == f"{word}:train"
    assert train.labels.tolist() == [2, -1]
    assert train.classes == ["ant", "cat", "dog"]  # of the whole file: numbers mean the same in every split
    assert names(train, tmp_path) == ["x/a.png", "c.png"]


def test_manifest_of_paths_alone(tmp_path):
    images = open_images(manifest(tmp_path, 'path\r\n"with, comma.png"\r\nb.png'))
    assert images.classes is None
    assert images.labels.tolist() == [-1, -1]
    assert names(images, tmp_path) == ["with, comma.png", "b.png"]


def test_manifest_with_numbers_as_labels(tmp_path):
    images = open_images(manifest(tmp_path, "path,label\na.png,10\nb.png,9\nc.png,10\n"))
    assert images.classes == ["9", "10"]
    assert images.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv line 1: no column 'path'"),
        ("file,label\na.png,cat\n", "list.csv line 1: no column 'path' in the header, which is 'file, label'"),
        ("path,label\n", "list.csv: no rows"),
        ("path,label\na.png,cat\nb.png\n", "list.csv line 3: 1 fields, the header has 2"),
        ("path,label\na.png,cat\nb.png,cat,dog\n", "list.csv line 3: 3 fields, the header has 2"),
        ("path,label\na.png,cat\n\n ,cat\n", "list.csv line 4: the path is empty"),
        ("path\na\0.png\n", "list.csv line 2"),
        ("path\n" + "x" * 200_000 + "\n", "list.csv line 2: field larger than field limit"),
        ("\x89PNG\0\0\x01\x02", "list.csv line 1"),
    ],
)
def test_manifest_faults_name_the_line(tmp_path, text, message):
    assert message in refusal(manifest(tmp_path, text))


def test_manifest_split_that_is_not_there(tmp_path):
    word = manifest(tmp_path, "path,split\na.png,train\nb.png,test\n")
    assert "'tran': did you mean train?" in refusal(f"{word}:tran")
    word = manifest(tmp_path, "path\na.png\n")
    assert "line 1: no column 'split' in the header, but 'train' is asked for" in refusal(f"{word}:train")


def test_manifest_names_need_not_be_utf8(tmp_path):
    images = open_images(manifest(tmp_path, "path\n\xe4.png\n", encoding="latin-1"))
    assert os.fsencode(images.path(0)).endswith(b"/\xe4.png")


def test_long_manifest_counts_lines_of_quoted_cells(tmp_path):
    with open(tmp_path / "list.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["path", "note"], ["a.png", "two\nlines"], ["", "x"]])
    assert "line 4: the path is empty" in refusal(str(tmp_path / "list.csv"))


# --- arrays ----------------------------------------------------------------------------------------------------------


def stored(tmp_path: Path, pixels: np.ndarray, **more: np.ndarray) -> str:
    if more:
        np.savez(tmp_path / "a.npz", images=pixels, **more)
        return str(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", pixels)
    return str(tmp_path / "a.npy")


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 13, 20, 30), dtype=np.uint8)  # (N, C, H, W)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_npy_with_any_number_of_channels_in_both_layouts(tmp_path, channels):
    wanted = PIXELS[:, :channels]
    for pixels in (wanted, wanted.transpose(0, 2, 3, 1)):
        images = open_images(stored(tmp_path, pixels))
        assert (len(images), images.channels, images.classes) == (5, channels, None)
        got = images.load(3, None)
        np.testing.assert_array_equal(got, wanted[3])
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert images.load(3, 10).shape == (channels, 10, 15)
        np.testing.assert_array_equal(open_item(images.path(3), channels), wanted[3])


def test_npy_grey_stack(tmp_path):
    images = open_images(stored(tmp_path, PIXELS[:, 0]))
    assert images.channels == 1
    np.testing.assert_array_equal(images.load(2, None)[0], PIXELS[2, 0])
    rgb = open_images(stored(tmp_path, PIXELS[:, 0]), channels=3)
    np.testing.assert_array_equal(rgb.load(2, None), np.repeat(PIXELS[2, :1], 3, axis=0))
    assert open_images(stored(tmp_path, PIXELS[:, :3]), channels=1).load(0, 8).shape == (1, 8, 12)
    assert "13 channels, 3 are wanted" in refusal(stored(tmp_path, PIXELS), channels=3)


def test_npy_is_mapped_and_not_sent_to_workers(tmp_path):
    images = open_images(stored(tmp_path, np.zeros((1000, 30, 30), dtype=np.uint8)))
    sent = pickle.dumps(images)
    assert len(sent) < 12_000  # the labels; 900,000 bytes of pixels stay in the file
    assert pickle.loads(sent).load(999, None).shape == (1, 30, 30)
    first = images.load(0, None)
    first[:] = 9  # what a caller does to its copy stays there
    assert images.load(0, None).max() == 0


def test_sixteen_bit_and_float_arrays(tmp_path):
    deep = np.zeros((2, 4, 4), dtype=np.uint16)
    deep[1] = 386
    assert np.unique(open_images(stored(tmp_path, deep)).load(1, None)).tolist() == [2]
    share = np.zeros((3, 4, 4), dtype=np.float32)
    share[1] = 0.5
    share[2] = 1.5
    images = open_images(stored(tmp_path, share))
    assert np.unique(images.load(1, 8)).tolist() == [128]
    with pytest.raises(BadImageError, match=r"a\.npy#2: float values from 1.5 to 1.5: scale them to \[0, 1\]"):
        images.load(2, None)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((2, 4, 4), 255.0), r"scale them to [0, 1]"),
        (np.zeros((2, 4, 4), dtype=np.int64), "values are int64"),
        (np.zeros((2, 4), dtype=np.uint8), "shape (2, 4) is none of"),
        (np.zeros((0, 4, 4), dtype=np.uint8), "shape (0, 4, 4) is none of"),
        (np.zeros((2, 8, 4, 8), dtype=np.uint8), "reads as (N, H, W, C) and as (N, C, H, W)"),
        (np.array([{"a": 1}], dtype=object), "cannot be read as an array"),
        (np.uint8(3), "shape () is none of"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, pixels, message):
    np.save(tmp_path / "a.npy", pixels, allow_pickle=True)
    assert message in refusal(str(tmp_path / "a.npy"))


def test_damaged_array_files(tmp_path):
    for name in ("a.npy", "a.npz"):
        for content in (b"", b"nonsense", b"PK\x03\x04nonsense", b"\x93NUMPY\x01\x00\xff\xff"):
            (tmp_path / name).write_bytes(content)
            assert "cannot be read as an array" in refusal(str(tmp_path / name))


def test_pickles_are_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trap"),))

    np.savez(tmp_path / "a.npz", images=np.array([Trap()], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.npy"):
        assert "cannot be read as an array" in refusal(str(tmp_path / name))
    assert not (tmp_path / "trap").exists()


def test_npz_with_labels(tmp_path):
    images = open_images(stored(tmp_path, PIXELS[:, :3], labels=np.array([[2], [0], [-1], [2], [1]], dtype=np.int8)))
    assert images.labels.tolist() == [2, 0, -1, 2, 1]
    assert images.classes == ["0", "1", "2"]
    words = open_images(stored(tmp_path, PIXELS[:, :3], y=np.array(["dog", "cat", "dog", "ant", "cat"])))
    assert words.labels.tolist() == [2, 1, 2, 0, 1]
    assert words.classes == ["ant", "cat", "dog"]
    np.savez(tmp_path / "x.npz", data=PIXELS)
    assert open_images(str(tmp_path / "x.npz")).classes is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4, dtype=int), "5 images, but labels of shape (4,)"),
        (np.full(5, -2), "class numbers from 0"),
        (np.full(5, 0.5), "not float64"),
    ],
)
def test_npz_labels_that_do_not_fit(tmp_path, labels, message):
    assert message in refusal(stored(tmp_path, PIXELS, labels=labels))


def test_npz_without_images(tmp_path):
    np.savez(tmp_path / "a.npz", weights=PIXELS)
    assert "no array named images or x or data (it has: weights)" in refusal(str(tmp_path / "a.npz"))


# --- items -----------------------------------------------------------------------------------------------------------


def test_open_item_beyond_the_end_or_missing(tmp_path):
    with pytest.raises(UsageError, match="the set has 5 images, the last is #4"):
        open_item("shapes:test:5#5")
    with pytest.raises(UsageError, match="no such image"):
        open_item(str(tmp_path / "none.png"))
    assert open_item(str(paint(tmp_path / "file#3/x#1.png"))).shape == (3, 4, 6)


# --- torchvision -----------------------------------------------------------------------------------------------------


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
    for name, known in sources._TORCHVISION.items():
        for options in known.splits.values():
            with pytest.raises((RuntimeError, FileNotFoundError)):
                getattr(torchvision.datasets, known.build)(tmp_path, **options)
        assert sources.torchvision_names()[name] == list(known.splits)


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
