"""`check` in Python: the arguments of `pretrain`, and a result that prints as the table of the command."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssl_toolkit import check
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.encoders import ConvNet
from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.checking import Checks

IMAGES = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
TINY: dict[str, Any] = {
    "image_size": 16, "batch_size": 8, "epochs": 1, "workers": 0, "progress": False, "accelerator": "cpu",
}  # fmt: skip


def test_objects_are_checked() -> None:
    found = check(SimCLR, IMAGES, steps=20, overfit_steps=6, encoder=ConvNet(widths=(8, 8, 8, 8, 8)), **TINY)
    assert [each["name"] for each in found["checks"]] == ["first loss", "overfits a few batches"]
    assert Checks(checks=[{"name": name, "passed": name == "a"} for name in "ab"]).failed == ["b"]
    lines = str(found).splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:2] == ["first", "loss"]
    assert "; configured is 2.0e-03" in lines[2]
    assert lines[-1].endswith("for 1 epochs")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": 7}, r"^data is <int>"),
        ({"method": 3}, r"^method is <int>"),
        ({"steps": 3}, r"^--steps is 3"),
        ({"epocs": 3}, r"'epocs': did you mean epochs"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        check(**{"method": "simclr", "data": IMAGES, "encoder": "convnet", **TINY, **given})
    assert len(str(error.value).splitlines()) == 1
