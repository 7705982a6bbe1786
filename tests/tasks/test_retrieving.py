"""`retrieval` with a ground truth: questions are cut out, and images are known by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit import index, retrieval
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

QUIET: dict[str, Any] = {"workers": 0, "progress": False}
COLOURS = {"red": (250, 20, 20), "green": (20, 250, 20), "blue": (20, 20, 250), "grey": (90, 90, 90)}


@pytest.fixture
def made(tmp_path: Path, small_encoder: Encoder) -> Path:
    """An index of plain images, two of each colour, and queries whose left half is red, the right one blue."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        for number in range(2):
            pixels = np.clip(np.array(colour) + rng.integers(-15, 15, (16, 16, 3)), 0, 255).astype(np.uint8)
            (tmp_path / "images").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{name}{number}.png")
    both = np.zeros((16, 32, 3), np.uint8)
    both[:, :16], both[:, 16:] = COLOURS["red"], COLOURS["blue"]
    (tmp_path / "queries").mkdir()
    for name in ("first", "second"):
        Image.fromarray(both).save(tmp_path / "queries" / f"{name}.png")
    index(small_encoder, str(tmp_path / "images"), tmp_path / "index", **QUIET)
    return tmp_path


def test_the_revisited_protocol_asks_for_what_is_in_the_box(made: Path) -> None:
    database = sorted(f"{name}{number}" for name in COLOURS for number in range(2))
    place = {name: number for number, name in enumerate(database)}
    red = {"easy": [place["red0"]], "hard": [place["red1"]], "junk": [place["grey0"]]}
    blue = {"easy": [place["blue0"]], "hard": [place["blue1"]], "junk": []}
    truth = {
        "imlist": database,
        "qimlist": ["second", "first"],
        "gnd": [{"bbx": [0, 0, 16, 16], **red}, {"bbx": [16, 0, 32, 16], **blue}],
    }
    (made / "gnd.json").write_text(json.dumps(truth))
    found = retrieval(made / "index", made / "queries", made / "gnd.json", device="cpu", **QUIET)
    assert [found[setting]["map"] for setting in ("easy", "medium", "hard")] == [1, 1, 1]
    assert found["medium"]["queries"] == 2
    lines = [line.split() for line in str(found).splitlines()]
    assert lines[0] == ["map", "mp@1", "mp@5", "mp@10", "queries"]
    assert lines[2] == ["medium", "100.0", "100.0", "100.0", "100.0", "2"]
    truth["gnd"] = truth["gnd"][::-1]
    (made / "gnd.json").write_text(json.dumps(truth))
    swapped = retrieval(made / "index", made / "queries", made / "gnd.json", device="cpu", **QUIET)
    assert swapped["medium"]["map"] == 1  # boxes and answers moved together
    truth["gnd"][0]["bbx"], truth["gnd"][1]["bbx"] = truth["gnd"][1]["bbx"], truth["gnd"][0]["bbx"]  # type: ignore[index]
    (made / "gnd.json").write_text(json.dumps(truth))
    assert retrieval(made / "index", made / "queries", made / "gnd.json", device="cpu", **QUIET)["medium"]["map"] < 0.6


def test_copies_are_found(made: Path) -> None:
    for name in ("red1", "green0"):
        Image.open(made / "images" / f"{name}.png").save(made / "queries" / f"copy_of_{name}.png")
    (made / "copies.csv").write_text(
        "query_id,reference_id\ncopy_of_red1,red1\ncopy_of_green0,green0\nfirst,\nsecond,\n"
    )
    found = retrieval(made / "index", made / "queries", made / "copies.csv", device="cpu", **QUIET)
    assert found["recall@1"] == 1
    assert found["micro_ap"] == pytest.approx(1, abs=0.2)
    assert (found["copies"], found["queries"]) == (2, 4)
    (made / "copies.csv").write_text("query_id,reference_id\ncopy_of_red1,grey0\n")
    assert retrieval(made / "index", made / "queries", made / "copies.csv", device="cpu", **QUIET)["micro_ap"] < 0.5


def test_what_does_not_belong_together_is_said(made: Path) -> None:
    (made / "copies.csv").write_text("query_id,reference_id\nfirst,violet\n")
    for given, message in (
        ((made / "queries", None), "belong together"),
        ((made / "queries", made / "truth.pkl"), "give .json"),
        ((made / "queries", made / "copies.csv"), "1 of 1 images of --truth are not in the index, first 'violet'"),
        ((made / "images", made / "copies.csv"), "not in --queries, first 'first'"),
    ):
        with pytest.raises(UsageError, match=message):
            retrieval(made / "index", *given, device="cpu", **QUIET)
