from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit.data.images import BadImageError, decode_image
from ssl_toolkit.data.items import open_item
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import UsageError
from tests.data import packed
from tests.data.small_files import refusal

JPEGS = packed.jpegs(10)


def table(images: list[bytes | None] = JPEGS, **more: list[object]):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=packed.CLASSES)})
    rows = {"img": [data and {"bytes": data, "path": None} for data in images], "label": packed.labels(len(images))}
    found = datasets.Dataset.from_dict(rows, features=features)
    for name, column in more.items():
        found = found.add_column(name, column)
    return found


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A place for what the package keeps of Parquet files."""
    config = pytest.importorskip("datasets.config")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "kept")
    return tmp_path


def saved(home: Path) -> dict[str, str]:
    import datasets

    table().save_to_disk(home / "one")
    datasets.DatasetDict(train=table(), test=table(JPEGS[:4])).save_to_disk(home / "two")
    table().to_parquet(home / "a.parquet")
    table().to_parquet(home / "files" / "train-00000-of-00001.parquet")
    return {
        "saved": f"hf:{home}/one",
        "split": f"hf:{home}/two:train",
        "parquet": f"{home}/a.parquet",
        "named": f"hf:{home}/a.parquet:train,image=img,label=label",
        "named, by its path": f"{home}/a.parquet,image=img,label=label",
        "folder": f"hf:{home}/files:train",
        "url": f"hf:file://{home}/one",
    }


def test_saved_on_disk_and_as_parquet(home):
    for word in saved(home).values():
        images = open_images(word)
        assert (len(images), images.classes, images.labels.tolist()) == (10, packed.CLASSES, packed.labels(10)), word
        for i, data in enumerate(JPEGS):
            np.testing.assert_array_equal(images.load(i, 12), decode_image(data, size=12))
        np.testing.assert_array_equal(open_item(images.path(3)), decode_image(JPEGS[3]))
        assert images.word == word
    assert len(open_images(f"hf:{home}/two:test")) == 4


def test_object_store(home):
    import fsspec

    table().save_to_disk("memory://saved")
    assert fsspec.filesystem("memory").exists("/saved/state.json")
    images = open_images("hf:memory://saved")
    np.testing.assert_array_equal(images.load(9, None), decode_image(JPEGS[9]))
    table().to_parquet(f"{home}/a.parquet")
    images = open_images(f"hf:file://{home}/a.parquet:train")
    np.testing.assert_array_equal(images.load(9, None), decode_image(JPEGS[9]))


def test_the_object_itself_and_workers():
    images = open_images(table())
    assert (images.classes, images.channels) == (packed.CLASSES, 3)
    images = pickle.loads(pickle.dumps(images))
    batches = [list(ImageLoader(images, 16, batch_size=4, workers=workers)) for workers in (0, 2)]
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one.image.numpy(), other.image.numpy())
    shuffled = open_images(table().shuffle(seed=1).select(range(6)))
    assert len(shuffled) == 6
    assert shuffled.labels.tolist() == table().shuffle(seed=1).select(range(6))["label"]
    assert open_images(table(), labels="none").classes is None


def test_the_iterable_object():
    images = open_images(table().to_iterable_dataset(num_shards=2), count=10)
    assert (images.indexed, len(images), images.classes) == (False, 10, packed.CLASSES)
    assert [label for batch in ImageLoader(images, 16) for label in batch.label.tolist()] == packed.labels(10)
    with pytest.raises(UsageError, match="say how many images an epoch has"):
        open_images(table().to_iterable_dataset())
    with pytest.raises(UsageError, match="count is 3: it is for streams"):
        open_images(table(), count=3)


def test_other_columns(tmp_path):
    found = table(text=[f"c{i % 2}" for i in range(10)], raw=JPEGS, left=[1.5] * 10)
    (tmp_path / "t").mkdir()
    found.save_to_disk(tmp_path / "t")
    images = open_images(f"hf:{tmp_path}/t,image=raw,label=text")
    assert (images.classes, images.labels.tolist()) == (["c0", "c1"], [0, 1] * 5)
    np.testing.assert_array_equal(images.load(1, None), decode_image(JPEGS[1]))
    assert "holds no images, but float64" in refusal(f"hf:{tmp_path}/t,image=left")
    assert "holds neither class numbers nor text, but float64" in refusal(f"hf:{tmp_path}/t,label=left")
    assert "did you mean left?" in refusal(f"hf:{tmp_path}/t,image=lefd")
    found.select_columns(["left", "text"]).save_to_disk(tmp_path / "none")
    assert "no column holds images; there are left (float64), text (string)" in refusal(f"hf:{tmp_path}/none")
    found.rename_columns({"img": "a", "raw": "b"}).save_to_disk(tmp_path / "both")
    assert "the columns a, b hold images: name one" in refusal(f"hf:{tmp_path}/both")


def test_images_that_cannot_be_read():
    images = open_images(table([JPEGS[0], JPEGS[1][:99], None, b"no image"]))
    images.check(0)
    for row in (1, 2, 3):
        with pytest.raises(BadImageError, match=f"#{row}: "):
            images.load(row, None)
        with pytest.raises(BadImageError):
            images.check(row)


def test_refusals(home):
    words = saved(home)
    assert "did you mean train?" in refusal(f"hf:{home}/two:trian")
    assert "needs a split: " in refusal(f"hf:{home}/two")
    assert "it has no splits" in refusal(words["saved"] + ":train")
    assert "Unknown split" in refusal(f"hf:{home}/a.parquet:test")
    (home / "bad.parquet").write_bytes(b"PAR1 no table")
    assert "bad.parquet: " in refusal(f"{home}/bad.parquet")
    assert "it.parquet" in refusal(f"hf:{home}/it.parquet:train")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install '.[hf]'" in refusal("hf:mnist:train")
