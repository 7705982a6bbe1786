"""`index` and `merge` in Python: images and encoders that are objects, and indexes that are open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ssl_toolkit import EmbeddingIndex, index, merge, open_images, retrieval
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16), dtype=np.uint8)
DATA = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.arange(8) % 2)
READ: dict[str, Any] = {"workers": 0, "progress": False}


def test_an_index_of_a_data_set_by_a_module(tmp_path: Path) -> None:
    built = EmbeddingIndex.load(index(nn.Conv2d(3, 8, 3), DATA, tmp_path / "index", **READ))
    assert len(built) == 8
    assert built.dimension == 8
    assert built.data == "<torch.utils.data.dataset.TensorDataset of 8>"
    assert built.label(1) == "1"
    assert built.encoder_file.parent == tmp_path / "index"


def test_an_index_that_is_open_is_merged_and_scored(tmp_path: Path, small_encoder: Encoder) -> None:
    for number in range(2):
        index(small_encoder, f"shapes:{'train' if number else 'test'}:20", tmp_path / str(number), **READ)
    parts = [EmbeddingIndex.load(tmp_path / "0"), tmp_path / "1"]
    merged = EmbeddingIndex.load(merge(parts, tmp_path / "merged"))
    assert len(merged) == 40
    found = retrieval(merged)
    assert found == retrieval(tmp_path / "merged")
    assert found["queries"] > 0
    assert [line.split()[0] for line in str(found).splitlines()] == list(found)
    assert str(found).splitlines()[0].endswith(" %")


def test_images_without_names_do_not_change_an_index(tmp_path: Path, small_encoder: Encoder) -> None:
    index(small_encoder, IMAGES, tmp_path / "index", **READ)
    for change in ("add", "remove", "update"):
        with pytest.raises(UsageError, match=r"^data is <numpy.ndarray .*> have no names|whose images have no names"):
            index(small_encoder, IMAGES[::-1], tmp_path / "index", **{change: True}, **READ)
    index(small_encoder, open_images(IMAGES[:4]), tmp_path / "index", overwrite=True, **READ)
    assert len(EmbeddingIndex.load(tmp_path / "index")) == 4


def test_images_in_a_file_that_was_changed_are_encoded_again(tmp_path: Path, small_encoder: Encoder) -> None:
    data, folder = tmp_path / "images.npy", tmp_path / "index"
    np.save(data, IMAGES)
    index(small_encoder, data, folder, **READ)
    before = np.array(EmbeddingIndex.load(folder).vectors)
    np.save(data, IMAGES[::-1])
    os.utime(data, (1, 1))
    index(small_encoder, data, folder, update=True, **READ)
    np.testing.assert_allclose(EmbeddingIndex.load(folder).vectors, before[::-1], atol=1e-6)
    index(small_encoder, data, tmp_path / "parts", shard="0/2", **READ)
    np.save(data, IMAGES)
    with pytest.raises(UsageError, match="holds an index of other images: give --update or --overwrite"):
        index(small_encoder, data, tmp_path / "parts", shard="0/2", **READ)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out, encoder: index(7, IMAGES, out, **READ), r"^run is <int>"),  # type: ignore[arg-type]
        (lambda out, encoder: index(encoder, {"a": 1}, out, **READ), r"^data is <dict of 1>"),
        (lambda out, encoder: merge([3], out), r"^indexes is <int>: give an index folder or an EmbeddingIndex"),  # type: ignore[list-item]
        (lambda out, encoder: retrieval(3), r"^index is <int>: give an index folder"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path, small_encoder: Encoder, call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        call(tmp_path / "out", small_encoder)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
