from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.data.video import Movie, open_movie
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures.clip_files import (
    overlaid,
    read_frames,
    read_mask,
    read_masks,
    resized,
    sheet_of,
    write_clip,
    write_masks,
)
from tests.conftest import pixels, plain

GREY = (100, 100, 100)


def movie(folder: Path, count: int = 5, size: tuple[int, int] = (24, 16)) -> Movie:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"f{10 * number}.png")
    return open_movie(str(folder))


def mask_file(path: Path, left: int = 4, mode: str = "L", size: tuple[int, int] = (24, 16)) -> Path:
    path.parent.mkdir(exist_ok=True)
    image = Image.new(mode, size)
    image.paste(255 if mode == "L" else 2, (left, 4, left + 8, 12))
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(path)
    return path


def test_frames_are_read_at_a_size_and_in_their_order(tmp_path: Path) -> None:
    frames = list(read_frames(movie(tmp_path / "a", 40), range(1, 40, 1), 8))
    assert [frame[0, 0, 0] for frame in frames] == list(range(1, 40))
    assert frames[0].shape == (3, 8, 12)
    assert next(read_frames(open_movie(str(tmp_path / "a")), range(1), None)).shape == (3, 16, 24)


def test_frames_that_do_not_go_together(tmp_path: Path) -> None:
    movie(tmp_path / "a")
    Image.new("RGB", (24, 17)).save(tmp_path / "a" / "f99.png")
    with pytest.raises(UsageError, match="differ in size"):
        list(read_frames(open_movie(str(tmp_path / "a")), range(6), None))
    (tmp_path / "a" / "f99.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"the clip cannot be carried through: .*f99.png"):
        list(read_frames(open_movie(str(tmp_path / "a")), range(6), None))


def test_a_mask_is_white_on_black_or_of_palette_indices(tmp_path: Path) -> None:
    for mode, number in (("L", 1), ("P", 2)):
        mask = read_mask(mask_file(tmp_path / f"{mode}.png", mode=mode))
        assert mask.shape == (16, 24)
        assert set(mask[4:12, 4:12].flat) == {number}
        assert (mask > 0).sum() == 64
    assert resized(mask, (32, 48))[8:24, 8:24].tolist() == [[2] * 16] * 16


def test_masks_are_found_by_the_names_of_their_frames(tmp_path: Path) -> None:
    frames = movie(tmp_path / "a")
    for name, left in (("f0", 4), ("f20", 8), ("f40", 12), ("other", 0)):
        mask_file(tmp_path / "masks" / f"{name}.png", left)
    found = read_masks(str(tmp_path / "masks"), frames, range(0, 5, 2))
    assert {number: int(mask.any(axis=0).argmax()) for number, mask in found.items()} == {0: 4, 1: 8, 2: 12}
    assert list(read_masks(str(tmp_path / "masks" / "f20.png"), frames, range(5))) == [0]
    assert (Movie("x").place_of("mask_0012"), Movie("x").place_of("mask")) == (12, None)  # of a video


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    frames = movie(tmp_path / "a")

    def refusal(path: Path) -> str:
        with pytest.raises(UsageError) as caught:
            read_masks(str(path), frames, range(5))
        return str(caught.value)

    assert "no such file or folder" in refusal(tmp_path / "missing.png")
    mask_file(tmp_path / "masks" / "f20.png")
    assert "named after the first frame" in refusal(tmp_path / "masks")
    Image.new("L", (24, 16)).save(tmp_path / "empty.png")
    assert "empty" in refusal(tmp_path / "empty.png")
    assert "has 8x6 px, the frames have 16x24" in refusal(mask_file(tmp_path / "small.png", size=(6, 8)))
    (tmp_path / "text.png").write_text("no image")
    assert "cannot be read as an image" in refusal(tmp_path / "text.png")


def test_a_clip_is_written_as_a_video_where_pyav_is(tmp_path: Path) -> None:
    pytest.importorskip("av")
    frames = [plain((20 * number, 100, 50), 32)[:, :, :31] for number in range(6)]
    assert write_clip(tmp_path, frames, 12.5) == "coloured.mp4"
    back = open_movie(str(tmp_path / "coloured.mp4"))
    assert (back.length, round(back.rate)) == (6, 12)
    for frame, read in zip(frames, back.read(range(6), None, 3), strict=True):
        assert read.shape == (3, 32, 30)
        assert np.abs(read.astype(int) - frame[:, :, :30]).mean() < 8


def test_a_clip_is_written_as_frames_where_pyav_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    frames = [plain((20 * number, 100, 50), 32) for number in range(3)]
    assert write_clip(tmp_path, frames, 25) == "coloured/"
    read = open_movie(str(tmp_path / "coloured")).read(range(3), None, 3)
    assert all(np.array_equal(one, two) for one, two in zip(frames, read, strict=True))


def test_masks_are_written_as_they_are_read(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2], [0, 6, 0]])
    assert write_masks(tmp_path, [mask, mask]) == "masks/"
    np.testing.assert_array_equal(read_mask(tmp_path / "masks" / "00001.png"), mask)


def test_a_mask_lies_over_its_frame(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), dtype=np.int64)
    mask[2:4] = 1
    over = overlaid(plain(GREY), mask)
    np.testing.assert_array_equal((over != 100).any(axis=0), mask > 0)
    assert over[:, 2, 0].tolist() == [round(0.6 * part + 40) for part in (0xA9, 0x0B, 0xF7)]


def test_twenty_masks_are_told_apart() -> None:
    looks = [overlaid(plain(GREY), np.full((8, 8), number)).tobytes() for number in range(1, 21)]
    assert len(set(looks)) == 20


def test_the_sheet_shows_first_and_last_frame() -> None:
    frames = [plain((number, 0, 250)) for number in range(9)]
    picture = pixels(sheet_of({"true": frames, "grey": frames}, [np.ones((8, 8), dtype=np.int64)] * 9, 3))
    shown = {int(red) for red in np.unique(picture[(picture[..., 1] == 0) & (picture[..., 2] == 250)][:, 0])}
    assert shown == {0, 4, 8}
