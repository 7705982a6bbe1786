from __future__ import annotations

import builtins
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.folder import list_images
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from tests.data.small_files import names, paint, refusal


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


def test_a_folder_may_mix_depths(tmp_path):
    """All are given as deep as the deepest."""
    grey = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert open_images(tmp_path, channels=1).dtype == np.uint8
    Image.fromarray(grey.astype(np.uint16) * 257 + 1).save(tmp_path / "b.png")
    (tmp_path / "0.png").write_bytes(b"no image")
    images = open_images(tmp_path, channels=1)
    assert images.dtype == np.uint16
    assert images.load(1, None).tolist() == [(grey.astype(int) * 257).tolist()]
    assert images.load(2, None)[0, 0, 1] == 100 * 257 + 1
    with pytest.raises(BadImageError):
        images.load(0, None)
    loader = ImageLoader(images, 2, bad=BadImages(images, max_rate=0.5))
    assert [batch.image.dtype for batch in loader] == [torch.uint16]
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    Image.fromarray(grey.astype(np.uint16) * 4).save(tmp_path / "a.png")
    images = open_images(tmp_path, channels=1, range="0,1020")
    assert images.range == (0, 1020)
    assert images.load(0, None).tolist() == [(grey.astype(int) * 257).tolist()]
    images.check(0)
    assert open_images(tmp_path, channels=1, range="auto").range == pytest.approx((1, 1019), abs=1.5)
