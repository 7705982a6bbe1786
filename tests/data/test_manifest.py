from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from ssl_toolkit.data.sources import open_images
from tests.data.small_files import names, paint, refusal


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
