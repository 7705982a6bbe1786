"""`propagate` on clips laid out as DAVIS is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from ssl_toolkit import propagate
from ssl_toolkit.errors import UsageError

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "size": 32}


def davis(root: Path, names: tuple[str, ...] = ("bear", "camel"), step: int = 4) -> Path:
    """A square of its own colours moves over a dark ground; its mask is its frame's."""
    for name in names:
        images, masks = root / "JPEGImages" / "480p" / name, root / "Annotations" / "480p" / name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for number in range(5):
            frame = np.full((64, 92, 3), 20, np.uint8)
            mask = np.zeros((64, 92), np.uint8)
            for label, colour in ((1, (250, 40, 40)), (2, (40, 60, 250))):
                left = 8 + step * number + 32 * (label - 1)
                frame[16:40, left : left + 24], mask[16:40, left : left + 24] = colour, label
            Image.fromarray(frame).save(images / f"{number:05d}.jpg", quality=95)
            palette = Image.fromarray(mask, "P")
            palette.putpalette([value for value in range(256) for _ in range(3)])
            palette.save(masks / f"{number:05d}.png")
    return root


class Colours(nn.Module):
    """Its features are the colours of places."""

    def forward(self, image: Any) -> Any:
        return nn.functional.avg_pool2d(image, 4)


def test_objects_are_carried_and_scored(tmp_path: Path) -> None:
    found = propagate(Colours(), davis(tmp_path / "davis"), tmp_path / "out", baselines=False, **QUIET)
    trained, copied = found["results"]["trained"], found["results"]["copied"]
    assert trained["j"] > 0.75
    assert trained["j_and_f"] == pytest.approx((trained["j"] + trained["f"]) / 2)
    assert trained["j_and_f"] > copied["j_and_f"] + 0.1
    # By hand: of the copied mask, moved by 4, 8 and 12 of 24 px, J is (24 - d) / (24 + d).
    assert copied["j"] == pytest.approx(np.mean([(24 - d) / (24 + d) for d in (4, 8, 12)]))
    assert set(trained["clips"]) == {"bear", "camel"}
    assert json.loads((tmp_path / "out" / "results.json").read_text())["protocol"]["clips"] == 2
    assert [line.split()[0] for line in str(found).splitlines()] == ["J&F,", "trained", "first"]
    with Image.open(tmp_path / "out" / "sheet.png") as drawn:
        assert drawn.width > 2 * drawn.height
    with pytest.raises(UsageError, match="--overwrite"):
        propagate(Colours(), tmp_path / "davis", tmp_path / "out", **QUIET)
    again = propagate(Colours(), tmp_path / "davis", tmp_path / "out", baselines=False, overwrite=True, **QUIET)
    assert again["results"] == found["results"]


def test_a_split_names_the_clips(tmp_path: Path) -> None:
    root = davis(tmp_path / "davis")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("camel\n")
    found = propagate(Colours(), root, tmp_path / "out", baselines=False, **QUIET)
    assert set(found["results"]["trained"]["clips"]) == {"camel"}
    (root / "ImageSets" / "2017" / "val.txt").write_text("dog\n")
    with pytest.raises(UsageError, match=r"there is no .*dog"):
        propagate(Colours(), root, tmp_path / "other", **QUIET)


def test_what_is_of_one_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are for one clip"):
        propagate(Colours(), davis(tmp_path / "davis"), tmp_path / "out", stride=2, **QUIET)
