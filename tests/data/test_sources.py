from __future__ import annotations

import os

import pytest

from ssl_toolkit.data import sources
from ssl_toolkit.data.sources import open_images
from tests.data.small_files import names, paint, refusal


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


@pytest.mark.parametrize("name", sources.NAMES)
def test_every_name_refuses_what_it_does_not_have(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name in refusal(f"{name}:nothing-like-it")


@pytest.mark.parametrize("suffix", sources.FILES)
def test_every_kind_of_file_refuses_what_it_is_not(suffix, tmp_path):
    (tmp_path / f"list{suffix}").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert f"list{suffix}" in refusal(str(tmp_path / f"list{suffix}"))
    assert "no such file or folder" in refusal(f"none{suffix}")
    assert "no such file or folder" in refusal(f"none{suffix}:train")
