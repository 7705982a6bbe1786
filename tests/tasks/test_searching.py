"""`search` in Python: an open index, queries and encoders that are objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssl_toolkit import EmbeddingIndex, index, search
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
READ: dict[str, Any] = {"workers": 0, "progress": False}
NETWORK = nn.Conv2d(3, 8, 3)


@pytest.fixture
def built(tmp_path: Path, small_encoder: Encoder) -> EmbeddingIndex:
    return EmbeddingIndex.load(index(small_encoder, IMAGES, tmp_path / "index", **READ))


def nearest(found: list[dict[str, Any]]) -> list[str]:
    return [one["hits"][0]["path"].rpartition("#")[2] for one in found]


def test_images_of_every_kind_are_asked(built: EmbeddingIndex, tmp_path: Path) -> None:
    asked = IMAGES[[4, 1]]
    tensor = torch.from_numpy(asked)
    data = torch.utils.data.TensorDataset(tensor, torch.zeros(2, dtype=torch.int64))
    for queries in (asked, tensor, data, [Image.fromarray(image.transpose(1, 2, 0)) for image in asked]):
        assert nearest(search(built, queries, k=2, **READ)) == ["4", "1"]
    Image.fromarray(asked[0].transpose(1, 2, 0)).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png"), [tmp_path / "a.png"]):
        assert nearest(search(built, path, k=2, **READ)) == ["4"]


def test_an_array_is_never_taken_for_the_one_that_was_indexed(built: EmbeddingIndex) -> None:
    found = search(built, IMAGES[::-1].copy(), k=6, **READ)  # of the same shape, so of the same description
    assert nearest(found) == ["5", "4", "3", "2", "1", "0"]
    assert {len(one["hits"]) for one in found} == {6}


def test_vectors_are_asked_as_they_are(built: EmbeddingIndex) -> None:
    for vectors in (np.asarray(built.vectors[[2, 0]]), torch.from_numpy(np.asarray(built.vectors[[2, 0]]))):
        found = search(built, vectors, k=1, **READ)
        assert nearest(found) == ["2", "0"]
        assert found[0]["query"].endswith("#0")


def test_results_print_a_line_a_hit_and_are_a_list(built: EmbeddingIndex) -> None:
    found = search(built, np.asarray(built.vectors[:1]), k=2, **READ)
    assert [line.split()[0] for line in str(found).splitlines()] == ["<numpy.ndarray", "1", "2"]
    assert len(found) == 1
    assert found._repr_html_().count("<tr>") == 3
    assert "<numpy" not in found._repr_html_()


def test_an_encoder_that_is_there_must_be_the_indexs_own(built: EmbeddingIndex, small_encoder: Encoder) -> None:
    assert nearest(search(built, IMAGES[:1], encoder=small_encoder, **READ)) == ["0"]
    other = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    with pytest.raises(UsageError, match="is not the one of the index"):
        search(built, IMAGES[:1], encoder=other, **READ)


def test_a_module_is_given_again_where_images_are_encoded(tmp_path: Path) -> None:
    index(NETWORK, IMAGES, tmp_path / "index", **READ)
    with pytest.raises(UsageError, match="was an object of Python"):
        search(tmp_path / "index", IMAGES[:1], **READ)
    like = nn.Conv2d(3, 8, 3)
    before = like.weight.detach().clone()
    assert nearest(search(tmp_path / "index", IMAGES[3:4], encoder=like, **READ)) == ["3"]
    assert torch.equal(like.weight, before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"index": 3}, r"^index is <int>: give an index folder or an EmbeddingIndex"),
        ({"queries": 3}, r"^queries is <int>: give a word or path"),
        ({"queries": np.ones((2, 5))}, r"queries must be \(N, 256\), got \(2, 5\)"),
        ({"encoder": 3}, r"^encoder is <int>: give a run folder or encoder file"),
        ({"k": 0}, r"^-k is 0"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(built: EmbeddingIndex, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        search(**{"index": built, "queries": IMAGES[:1], **READ, **given})
    assert len(str(error.value).splitlines()) == 1
