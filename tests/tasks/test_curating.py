"""What `duplicates` and `outliers` say: groups, sums, tables, files, and pictures headed as what they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.cli.duplicates import main as duplicates_command
from ssl_toolkit.cli.outliers import main as outliers_command
from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures import neighbours
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.tasks.curating import Groups, duplicates, outliers
from tests.conftest import BuildIndex


@pytest.fixture
def index(build_index: BuildIndex, tmp_path: Path) -> EmbeddingIndex:
    """Six images of noise, labelled; 1 is a smaller copy of 0, and 5 is far from all."""
    degrees = np.radians([0, 1, 2, 3, 4, 90])
    paths = []
    for number in range(6):
        pixels = np.random.default_rng(number or 1).integers(0, 256, (16, 16, 3), np.uint8)
        image = Image.fromarray(pixels.repeat(5, axis=0).repeat(5, axis=1))
        paths.append(str(tmp_path / f"{number}.png"))
        image.resize((80, 80) if number != 1 else (60, 60)).save(paths[-1])
    x = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    made = build_index(x, paths, labels=np.array([0, 0, 1, 1, 1, -1]))
    made.save(tmp_path / "index")
    return made


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that pictures of neighbours show, as they are drawn."""
    told: list[str] = []
    real = neighbours._Sheet._text

    def text(self: Any, x: float, y: float, words: str, *rest: Any, **style: Any) -> None:
        told.append(words)
        real(self, x, y, words, *rest, **style)

    monkeypatch.setattr(neighbours._Sheet, "_text", text)
    return told


def test_duplicates_in_python(index: EmbeddingIndex, tmp_path: Path, heads: list[str]) -> None:
    groups = duplicates(index, grid=tmp_path / "grid.png", csv=tmp_path / "out" / "copies.csv", progress=False)
    (group,) = groups
    assert [(image["path"], image["keep"], image["label"]) for image in group] == [
        (index.paths[0], True, 0), (index.paths[1], False, 0),
    ]  # fmt: skip
    size = Path(index.paths[1]).stat().st_size
    assert group[1]["bytes"] == size
    assert 0.8 < group[1]["likeness"] < 1 == group[0]["likeness"]
    assert str(groups) == f"keep  {index.paths[0]}\n{group[1]['likeness']:.2f}  {index.paths[1]}"
    assert groups.summary() == (
        f"1 group, 2 images of 6 (likeness {groups.threshold:.2f} or more); without the 1 that need not be kept "
        f"{size / 1e6:.1f} MB would be freed"
    )
    with (tmp_path / "out" / "copies.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["group", "keep", "likeness", "path", "label", "bytes"]
    assert [(row["group"], row["keep"], row["path"]) for row in rows] == [
        ("1", "True", index.paths[0]), ("1", "False", index.paths[1]),
    ]  # fmt: skip
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.format == "PNG"
    assert heads[:2] == ["to keep", "its copies, likeness below each"]
    assert f"{group[1]['likeness']:.2f}" in heads


def test_the_summary_counts_what_is_gone_and_what_is_free(index: EmbeddingIndex) -> None:
    Path(index.paths[1]).unlink()
    groups = duplicates(index, progress=False)
    assert groups.summary().splitlines() == [
        f"no copies among 5 images (likeness {groups.threshold:.2f} or more)",
        "1 images of the index cannot be read any more",
    ]


def test_the_sum_is_of_what_is_not_kept() -> None:
    sizes = [[5, 2, 1], [7, 4]]
    groups = Groups([{"keep": not place, "bytes": size * 10**6} for place, size in enumerate(group)] for group in sizes)
    groups.threshold, groups.images, groups.unread = 0.8, 9, 0
    assert groups.summary() == (
        "2 groups, 5 images of 9 (likeness 0.80 or more); without the 3 that need not be kept 7.0 MB would be freed"
    )


def test_images_of_more_channels(build_index: BuildIndex, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 32, 32), np.uint8)
    pixels[3] = pixels[0]
    np.save(tmp_path / "set.npy", pixels)
    save_encoder(Encoder(EncoderConfig("convnet", channels=5, image_size=16)), tmp_path / "five.safetensors")
    x = np.random.default_rng(0).standard_normal((4, 8), np.float32)
    paths = [f"{tmp_path}/set.npy#{number}" for number in range(4)]
    index = build_index(x, paths, encoder_file=tmp_path / "five.safetensors", encoder_sha256=None)
    (group,) = duplicates(index, grid=tmp_path / "grid.png", progress=False)
    assert [image["path"] for image in group] == [paths[0], paths[3]]


def test_outliers_in_python(index: EmbeddingIndex, tmp_path: Path, heads: list[str]) -> None:
    found = outliers(index, count=2, k=2, grid=tmp_path / "grid.png")
    assert [item["path"] for item in found] == [index.paths[5], index.paths[0]]
    assert [item["label"] for item in found] == [None, 0]
    assert str(found).splitlines() == [
        "cosine to the nearest other number 2: the lower, the farther out",
        "cosine    label         path",
        f"0.052                   {index.paths[5]}",
        f"0.999     0             {index.paths[0]}",
    ]
    assert heads[:2] == ["farthest out first", "the nearest others it has, cosine below each"]
    assert {"5.png", "0.png", "0.07"} <= set(heads)
    assert outliers(index, count=1, k=99).k == 5


def test_outliers_by_distance(build_index: BuildIndex) -> None:
    found = outliers(build_index(np.array([[0.0], [1], [9]], np.float32), metric="l2", labels=np.arange(3)), k=1)
    assert str(found).splitlines()[:3] == [
        "distance to the nearest other number 1: the higher, the farther out",
        "distance  label         path",
        "8.000     2             2.jpg",
    ]
    assert str(found).splitlines()[3].split() == ["1.000", "0", "0.jpg"]  # a class that is number 0 has a label


def test_commands(index: EmbeddingIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "index")
    duplicates_command([folder, "--progress", "false"])
    told = capsys.readouterr()
    assert told.out == f"{duplicates(index, progress=False)}\n"
    assert told.err.startswith("1 group, 2 images of 6")
    duplicates_command([folder, "--json", "--progress", "false", "--threshold", "0.9999"])
    assert json.loads(capsys.readouterr().out) == []
    outliers_command([folder, "-k", "2", "--count", "1", "--json"])
    assert [item["path"] for item in json.loads(capsys.readouterr().out)] == [index.paths[5]]
    outliers_command([folder, "-k", "2", "--count", "1"])
    assert capsys.readouterr().out == f"{outliers(index, 1, 2)}\n"


def test_what_does_not_fit_is_named(index: EmbeddingIndex, tmp_path: Path) -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(UsageError, match=f"--threshold is {wrong}: it must be from 0 to 1"):
            duplicates(index, wrong)
    with pytest.raises(UsageError, match="--count is 0"):
        outliers(index, 0)
    with pytest.raises(UsageError, match="-k is 0"):
        outliers(index, k=0)
    (tmp_path / "file").write_text("no folder")
    for out in (tmp_path / "file" / "x.csv", tmp_path / "index"):
        with pytest.raises(UsageError, match=rf"--csv {tmp_path}/\w+.* cannot be written"):
            duplicates(index, csv=out, progress=False)
