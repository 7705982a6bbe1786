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
        (
            "fille;label\na.png;cat\n",
            "list.csv line 1: no column 'path' in the header, which is 'fille;label' (or filepath,",
        ),
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


def test_manifest_names_of_files_that_are_there_need_not_be_utf8(tmp_path):
    word = manifest(tmp_path, "path,label,note\nx/\xe4.png,cat,\xe4\n", encoding="latin-1")
    assert "line 2: not UTF-8, as Windows-1252 it reads 'x/ä.png'" in refusal(word)
    (tmp_path / "x").mkdir()
    try:
        (tmp_path / os.fsdecode(b"x/\xe4.png")).touch()
    except OSError:
        pytest.skip("the file system wants UTF-8")
    assert os.fsencode(open_images(word).path(0)).endswith(b"/x/\xe4.png")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "list.csv: it is UTF-16: save it as UTF-8"),
        ("utf-16-le", "list.csv: it is UTF-16"),
        ("utf-16-be", "list.csv: it is UTF-16"),
        ("utf-32", "list.csv: it is UTF-32"),
        ("cp1252", "list.csv line 3: not UTF-8, as Windows-1252 it reads 'München': save the file as UTF-8"),
    ],
)
def test_manifest_in_another_encoding(tmp_path, encoding, message):
    text = "path,label,split\na.png,Ulm,test\nb.png,{},test\n"
    paint(tmp_path / "b.png")
    assert message in refusal(manifest(tmp_path, text.format("München"), encoding=encoding))
    assert open_images(manifest(tmp_path, text.format("München"))).classes == ["München", "Ulm"]


def test_manifest_split_in_another_encoding(tmp_path):
    assert "line 2: not UTF-8, as Windows-1252 it reads 'prüf'" in refusal(
        manifest(tmp_path, "path,split\na.png,prüf\n", encoding="latin-1")
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_manifest_delimiters(tmp_path, delimiter, name):
    others = "".join({",", ";", "\t"} - {delimiter})
    rows = [
        ["note", "path", "label", "split"],
        ["", f"a{others}.png", "dog", "val"],
        ["x", "b.png", f"c{others}d", "test"],
    ]
    with open(tmp_path / name, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    images = open_images(str(tmp_path / name))
    assert images.classes == [f"c{others}d", "dog"]
    assert images.labels.tolist() == [1, 0]
    assert names(images, tmp_path) == [f"a{others}.png", "b.png"]
    assert names(open_images(f"{tmp_path / name}:test"), tmp_path) == ["b.png"]


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize(
    "path", ["image", "filename", "file_name", "File Name", "filepath", "FilePath", "image-path", "file"]
)
@pytest.mark.parametrize("label", ["class", "category", "Class Name", "label"])
def test_manifest_usual_names_of_columns(tmp_path, path, label, quote):
    header = ";".join(f"{quote}{name}{quote}" for name in ("id", label, path))
    images = open_images(manifest(tmp_path, f"{header}\n1;dog;a.png\n2;cat;b.png\n"))
    assert images.classes == ["cat", "dog"]
    assert images.labels.tolist() == [1, 0]
    assert names(images, tmp_path) == ["a.png", "b.png"]


def test_manifest_of_several_usual_names_the_first_is_taken(tmp_path):
    images = open_images(manifest(tmp_path, "image,class,filename,label,path\n1,x,2,y,3\n"))
    assert (names(images, tmp_path), images.classes) == (["3"], ["y"])
    images = open_images(manifest(tmp_path, "image,category,filename,class\n1,x,2,y\n"))
    assert (names(images, tmp_path), images.classes) == (["2"], ["y"])


def test_long_manifest_counts_lines_of_quoted_cells(tmp_path):
    with open(tmp_path / "list.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["path", "note"], ["a.png", "two\nlines"], ["", "x"]])
    assert "line 4: the path is empty" in refusal(str(tmp_path / "list.csv"))


def test_manifest_with_captions(tmp_path):
    word = manifest(tmp_path, 'path,Caption,split\na.png,"a house, red",x\nb.png,,y\nc.png,ein Bär,y\n')
    images = open_images(word)
    assert [images.caption(row) for row in range(3)] == ["a house, red", "", "ein Bär"]
    assert open_images(f"{word}:y").caption(1) == "ein Bär"
    assert open_images(manifest(tmp_path, "path\na.png", "none.csv")).caption(0) is None
    latin = "path,text\na.png,B\xe4r\n".encode("latin-1")
    (tmp_path / "latin.csv").write_bytes(latin)
    assert "not UTF-8, as Windows-1252 it reads 'Bär'" in refusal(str(tmp_path / "latin.csv"))
