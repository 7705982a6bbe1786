"""Whatever a loader gives becomes a `Batch` in one place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssl_toolkit.data.batch import Batch, as_batch
from ssl_toolkit.errors import UsageError

IMAGE, LABEL = torch.rand(2, 3, 4, 4), torch.tensor([5, 7], dtype=torch.int32)


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (IMAGE, [-1, -1]),
        ([IMAGE], [-1, -1]),
        ((IMAGE, LABEL), [5, 7]),
        ([IMAGE, LABEL, torch.zeros(2)], [5, 7]),
        ({"image": IMAGE, "label": LABEL}, [5, 7]),
        ({"pixel_values": IMAGE, "labels": LABEL}, [5, 7]),
        ({"img": IMAGE, "name": ["a", "b"]}, [-1, -1]),
        ((IMAGE, ["cat", "dog"]), [-1, -1]),
        ((IMAGE, torch.rand(2, 10)), [-1, -1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_tensors_tuples_and_dictionaries(given: Any, label: list[int]) -> None:
    batch = as_batch(given)
    assert torch.equal(batch.image, IMAGE)
    assert (batch.label.dtype, batch.label.tolist()) == (torch.int64, label)
    assert (batch.index.tolist(), batch.box) == ([-1, -1], None)


def test_a_batch_stays() -> None:
    batch = Batch(IMAGE, LABEL, LABEL)
    assert as_batch(batch) is batch


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "images are a str"),
        (torch.zeros(3, 4, 4), r"images are \(3, 4, 4\): they must be a tensor \(N, C, H, W\)"),
        ((), "an empty tuple"),
        ({"label": LABEL}, "no image under image, .*: there are label"),
    ],
)
def test_what_holds_no_images_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        as_batch(given)


def test_captions_of_a_loader() -> None:
    assert as_batch({"image": IMAGE, "text": [f"{n}" for n in range(len(IMAGE))]}).caption == ["0", "1"][: len(IMAGE)]
    assert as_batch({"image": IMAGE}).caption is None
    assert as_batch((IMAGE, LABEL)).caption is None
