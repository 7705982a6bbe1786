"""One set of images through every kind of source: the same losses, the same scores, the same weights after a kill."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback

from ssl_toolkit import check, doctor, embed, evaluate, finetune, index, pack, pretrain, search
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data import streaming
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.data.tar import samples
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features import load_features
from ssl_toolkit.logs import read_metrics
from tests.data import packed
from tests.killing import killed

TINY: dict[str, Any] = {
    "method": "simclr", "encoder": "convnet", "image_size": 16, "epochs": 2, "batch_size": 8, "progress": False,
    "doctor": False, "logger": "csv", "accelerator": "cpu", "seed": 3,
}  # fmt: skip
QUIET: dict[str, Any] = {"workers": 0, "progress": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 rendered images in three classes, as a folder and as shards."""
    out = tmp_path_factory.mktemp("sources")
    shown = open_images("shapes:train:30")
    from ssl_toolkit.data.packing import image_file

    packed.folder(out / "folder", [image_file(shown.load(row, 24), lossless=True)[1] for row in range(30)])
    pack(out / "folder", out / "shards", shard_mb=0.01, **QUIET)
    return out


def table(place: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    source = open_images(place / "folder")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=source.classes)})
    cells = [{"bytes": Path(source.path(row)).read_bytes(), "path": None} for row in range(30)]
    return datasets.Dataset.from_dict({"image": cells, "label": source.labels.tolist()}, features=features)


def as_folder(place: Path) -> str:
    return str(place / "folder")


def as_shards(place: Path) -> str:
    assert len(list((place / "shards").glob("*.tar"))) > 2
    return f"wds:{place}/shards"


def as_hf(place: Path) -> str:
    table(place).save_to_disk(str(place / "saved"))
    return f"hf:{place}/saved"


def as_lance(place: Path) -> str:
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    source = open_images(place / "folder")
    assert source.classes is not None
    files = [Path(source.path(row)).read_bytes() for row in range(30)]
    names = [source.classes[label] for label in source.labels]
    lance.write_dataset(pa.table({"image": files, "label": names}), str(place / "a.lance"), mode="overwrite")
    return f"{place}/a.lance"


def as_stream(place: Path) -> str:
    return f"stream:{as_shards(place)}"


def as_hf_stream(place: Path) -> str:
    return f"stream:{as_hf(place)}"


KINDS = [as_shards, as_hf, as_lance]
STREAMS = [as_stream, as_hf_stream]


def losses(out: Path, data: str, **more: Any) -> list[float]:
    pretrain(data=data, out=out, **TINY | {"workers": 0, "cache": "none"} | more)
    return [row["loss"] for row in read_metrics(out / "metrics.csv") if "loss" in row]


@pytest.fixture(scope="module")
def expected(place: Path) -> list[float]:
    return losses(place / "run", as_folder(place))


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_the_folder(
    place: Path, expected: list[float], tmp_path: Path, kind: Callable[[Path], str]
) -> None:
    assert len(expected) == 6
    assert losses(tmp_path / "run", kind(place)) == expected
    if kind is not as_lance:  # whose readers take seconds to start: test_lance_table.py
        assert losses(tmp_path / "two", kind(place), workers=2) == expected


def test_no_reader_outlives_the_training(place: Path, tmp_path: Path) -> None:
    """Though Python's collector, which would find the readers later, does not come by."""
    before, readers = {*active_children()}, set()
    count = LambdaCallback(on_train_batch_end=lambda *_: readers.update({*active_children()} - before))
    gc.disable()
    try:
        losses(tmp_path / "run", as_folder(place), workers=2, callbacks=[count])
        assert len(readers) == 2
        assert not readers & {*active_children()}
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [*KINDS, *STREAMS])
def test_what_is_embedded_and_scored_is_that_of_the_folder(
    place: Path, tmp_path: Path, kind: Callable[[Path], str]
) -> None:
    data = kind(place)
    pretrain(data=as_folder(place), out=tmp_path / "run", **TINY | {"epochs": 1, "workers": 0})
    embedded = partial(embed, tmp_path / "run", **QUIET)
    expected = load_features(embedded(as_folder(place), tmp_path / "expected"))
    found = load_features(embedded(data, tmp_path / "found"))
    np.testing.assert_array_equal(found.x, expected.x)
    assert found.label.tolist() == expected.label.tolist()
    assert found.paths is not None
    assert len(set(found.paths)) == 30
    scores = [
        evaluate(tmp_path / "run", train=each, test=as_folder(place), protocol="knn", baselines=False, **QUIET)
        for each in (as_folder(place), data)
    ]
    assert scores[0]["results"] == scores[1]["results"]
    near = search(index(tmp_path / "run", data, tmp_path / "index", **QUIET), f"{place}/folder/ant/0000.jpg", k=1)
    assert near[0]["hits"][0]["path"] == found.paths[0]


class KillAt(pl.Callback):
    """Kill -9 when a batch begins."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("kind", "batch", "workers"), [(as_stream, 4, 2), (as_hf_stream, 2, 0)])
def test_killed_in_a_streaming_epoch_it_resumes_to_the_same_weights(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_quickly: Callable[..., Any],
    kind: Callable[[Path], str],
    batch: int,
    workers: int,
) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 10)  # blocks of one batch of eight, three an epoch
    word, common = kind(place), {"epochs": 2, "checkpoint_every": 1}
    whole = train_quickly(SimCLR, open_images(word), out="whole", **common).state_dict()
    stopped = partial(train_quickly, SimCLR, open_images(word), out="stopped", **common)
    assert killed(partial(stopped, callbacks=[KillAt(batch)]))
    resumed = stopped(resume=True, workers=workers).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_all_that_a_stream_is_asked_for(place: Path, tmp_path: Path) -> None:
    word = as_stream(place)
    settings = TINY | {"out": tmp_path / "run", "data": word, "workers": 2}
    settings |= {"encoder": {"name": "convnet", "normalize": "data"}, "recalibrate": 16}
    pretrain(**settings)
    assert check(**TINY | {"data": word, "workers": 0}, steps=20, overfit_steps=10)
    assert doctor(tmp_path / "run", workers=0)["measures"]
    evaluate(tmp_path / "run", train=word, protocol="knn", baselines=False, **QUIET)  # leaves out one at a time
    with pytest.raises(UsageError, match="is a stream"):
        finetune(tmp_path / "run", train=word, test=word, out=tmp_path / "tuned", progress=False)
    with pytest.raises(UsageError, match="--knn-every needs labels from the start"):
        pretrain(**TINY | {"data": word, "out": tmp_path / "no", "knn_every": 1})


def test_webdataset_reads_what_pack_wrote(place: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    first = sorted((place / "shards").glob("*.tar"))[0]
    theirs = list(webdataset.WebDataset(str(first), shardshuffle=False))
    with first.open("rb") as file:
        ours = list(samples(file, None, None, whole=True))
    assert [(each["png"], int(each["cls"])) for each in theirs] == [(each.data, each.label) for each in ours]
