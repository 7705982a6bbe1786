"""`propagate` in Python: a module of one's own carries colours, and its results print as the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from ssl_toolkit import propagate
from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.propagating import Carried


def clip(folder: Path) -> Path:
    wide = np.random.default_rng(0).integers(0, 256, (32, 60, 3), dtype=np.uint8)
    folder.mkdir()
    for number in range(3):
        Image.fromarray(wide[:, 8 * number : 8 * number + 40]).save(folder / f"{number}.png")
    return folder


def test_a_module_carries_colours(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 8, 8, stride=8)
    found = propagate(network, clip(tmp_path / "clip"), tmp_path / "out", size=32, progress=False, device="cpu")
    assert found["encoder"]["path"] == "<torch.nn.modules.conv.Conv2d>"
    assert [row["from"] for row in found.rows] == ["trained", "random", "copied", "own"]
    assert len(str(found).splitlines()) == 5
    with pytest.raises(UsageError, match="--overwrite"):
        propagate(network, tmp_path / "clip", tmp_path / "out", size=32)


def test_the_table_has_a_gap_where_nothing_was_carried() -> None:
    found = Carried(
        colours={"trained": {"ab_error": 2.5, "psnr": 20.0}, "own": {"ab_error": 0.0, "psnr": 30.0}},
        masks={"trained": {"iou": 0.5}},
    )
    assert [line.split() for line in str(found).splitlines()] == [
        ["ab", "error", "PSNR,", "dB", "mask", "IoU,", "%"],
        ["trained", "2.50", "20.00", "50.00"],
        ["own", "colours", "0.00", "30.00"],
    ]


def test_what_does_not_fit_is_said_in_a_line(tmp_path: Path) -> None:
    for run, message in ((3, "^run is <int>"), (nn.Conv2d(4, 8, 3), "cannot take images")):
        with pytest.raises(UsageError, match=message) as error:
            propagate(run, tmp_path, tmp_path / "out", size=32)  # type: ignore[arg-type]
        assert len(str(error.value).splitlines()) == 1
