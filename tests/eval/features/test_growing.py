"""Features that grow on the disk: killed anywhere, gone on with, and the same to the last bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssl_toolkit.data.image_set import ImageSet, unlabelled
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features import growing as module
from ssl_toolkit.eval.features.extraction import load_features
from ssl_toolkit.eval.features.growing import Growing
from ssl_toolkit.tasks import encoding
from ssl_toolkit.tasks.embedding import embed
from tests.killing import killed

COUNT = 40
BAD = (4, 5, 8, 9, 21, 39)  # 4 and 5 end a batch and a block
HIDDEN = {".features.growing.npy", ".features.growing.jsonl"}


class Painted(ImageSet):
    """Forty images, of which some cannot be read and one may kill whoever reads it."""

    def __init__(self, deadly: int = -1, name: str = "painted") -> None:
        self.word, self.classes, self.labels, self.channels = name, None, unlabelled(COUNT), 3
        self.deadly, self.read = deadly, list[int]()

    def load(self, index: int, size: int | None) -> NDArray[np.uint8]:
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if index in BAD:
            raise BadImageError(self.path(index), f"torn {index}")
        self.read.append(index)
        return np.random.default_rng(index).integers(0, 256, (3, 16, 16), np.uint8)

    def path(self, index: int) -> str:
        return f"{self.word}/{index}.jpg"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH", 3)
    monkeypatch.setattr(module, "BLOCK", 4)


@pytest.fixture
def run(small_encoder: Encoder) -> Callable[..., Path]:
    def embedded(images: ImageSet, out: Path, **options: object) -> Path:
        return embed(small_encoder, images, out, workers=0, progress=False, max_bad_rate=0.5, **options)  # type: ignore[arg-type]

    return embedded


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_run_goes_on_where_it_was_and_ends_in_the_same_bytes(
    tmp_path: Path, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = content(run(Painted(), tmp_path / "whole"))
    assert not HIDDEN & set(whole)
    assert whole["bad_images.csv"].count(b"torn") == len(BAD)
    for deadly in (2, 11, 26, 38):
        out = tmp_path / f"out{deadly}"
        assert killed(lambda out=out, deadly=deadly: run(Painted(deadly), out))
        assert set(os.listdir(out)) - {"bad_images.csv"} == HIDDEN
        again = Painted()
        capsys.readouterr()
        run(again, out)
        assert content(out) == whole
        done = min(again.read)
        assert ("going on after image" in capsys.readouterr().err) == (done > 0)
        assert done <= deadly < done + 9  # at most a block and a batch are read again


def test_other_images_or_another_encoder_start_anew(
    tmp_path: Path, run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(run(Painted(), tmp_path / "whole"))
    assert killed(lambda: run(Painted(30), tmp_path / "out"))
    other = Painted(name="others")
    run(other, tmp_path / "out")
    assert min(other.read) == 0
    assert load_features(tmp_path / "out").paths[0] == "others/0.jpg"  # type: ignore[index]
    stamps = {f"painted/{number}.jpg": "written" for number in range(COUNT)}
    monkeypatch.setattr(encoding, "file_stamp", stamps.get)
    assert killed(lambda: run(Painted(30), tmp_path / "again"))
    stamps["painted/13.jpg"] = "written again"
    changed = Painted()
    run(changed, tmp_path / "again")
    assert 0 < min(changed.read) <= 13
    assert {k: v for k, v in content(tmp_path / "again").items() if k != "features.json"} == {
        k: v for k, v in whole.items() if k != "features.json"
    }


def test_what_a_crash_has_torn_is_written_again(tmp_path: Path, run: Callable[..., Path]) -> None:
    whole = content(run(Painted(), tmp_path / "whole"))
    for name in sorted(HIDDEN):
        for damage in (lambda b: b[:-7], lambda b: b[:130], lambda b: b"", lambda b: b[:200] + b"?" + b[201:]):
            out = tmp_path / "out"
            assert killed(lambda out=out: run(Painted(30), out, overwrite=True))
            (out / name).write_bytes(damage((out / name).read_bytes()))
            run(Painted(), out, overwrite=True)
            assert content(out) == whole


def test_arrays_without_names_are_never_gone_on_from(tmp_path: Path, small_encoder: Encoder) -> None:
    assert encoding.states(Painted(), "e") is not None
    nameless = Painted()
    nameless.path = lambda index: f"<numpy.ndarray (40, 16, 16, 3) uint8>#{index}"  # type: ignore[method-assign]
    assert encoding.states(nameless, "e") is None
    with Growing(tmp_path) as growing:
        growing.append(np.ones((6, 2), np.float32), np.zeros(6, np.int64), np.arange(6))
    assert os.listdir(tmp_path) == []


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    def refused() -> int:
        if not (child := os.fork()):
            try:
                Growing(tmp_path)
            except UsageError as error:
                os._exit(7 if "is being written by another process" in str(error) else 1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with Growing(tmp_path):
        assert refused() == 7
    assert refused() == 0


def test_a_part_knows_its_place_in_the_whole(tmp_path: Path) -> None:
    with Growing(tmp_path, first=100) as growing:
        growing.append(torch.ones(2, 3).numpy(), np.array([4, 5]), np.array([0, 2]))
        growing.finish(["a", "b"])
    found = load_features(tmp_path)
    assert (found.index.tolist(), found.label.tolist(), found.paths) == ([100, 102], [4, 5], ["a", "b"])
