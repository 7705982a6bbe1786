"""Images with masks and depths: pairs by name, classes as files keep them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.data import shapes
from ssl_toolkit.data.masks import VOID, open_masked
from ssl_toolkit.errors import UsageError


def test_a_shape_covers_what_differs_from_its_background(monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(20):
        mask, image = shapes.render_mask("train", index, 64), shapes.render("train", index, 64).astype(int)
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, index % 10 + 1}
        with monkeypatch.context() as patched:
            patched.setattr(shapes, "DRAW", tuple(lambda pen, rng: None for _ in shapes.CLASSES))
            behind = shapes.render("train", index, 64).astype(int)
        differs = np.abs(image - behind).max(axis=0) > 0
        assert not (mask > 0)[~differs].any()  # but for pixels that are covered by less than half
        assert ((mask > 0) & differs).sum() > 0.75 * differs.sum()
    assert (shapes.render_mask("train", 3, 32) == shapes.render_mask("train", 3, 128)[2::4, 2::4]).mean() > 0.97


def test_shapes_are_a_masked_set() -> None:
    images = open_masked("shapes:test:7")
    image, mask = images.load(3, 32)
    assert len(images) == 7
    assert shapes.CLASSES[int(mask.max()) - 1] == "house"
    np.testing.assert_array_equal(image, shapes.render("test", 3, 32))
    assert open_masked("shapes:test:7", channels=1).load(3, 32)[0].shape == (1, 32, 32)


def written(folder: Path) -> str:
    (folder / "images" / "a").mkdir(parents=True)
    (folder / "masks" / "a").mkdir(parents=True)
    for name in ("0", "a/1", "alone"):
        Image.new("RGB", (12, 8), (Random(name).randrange(256), 0, 0)).save(folder / "images" / f"{name}.jpg")
    palette = Image.fromarray(np.repeat(np.array([[0, 5, 255]], np.uint8), 4, axis=1).repeat(8, axis=0), "P")
    palette.putpalette([7] * 768)
    palette.save(folder / "masks" / "0.png")
    Image.fromarray(np.repeat(np.array([[0, 150, 255]], np.uint8), 4, axis=1).repeat(8, axis=0)).save(
        folder / "masks" / "a" / "1.png"
    )
    return f"{folder / 'images'},{folder / 'masks'}"


def test_files_of_one_name_belong_together(tmp_path: Path) -> None:
    images = open_masked(written(tmp_path))
    assert len(images) == 2  # one has no mask
    for index, expected in ((0, [0, 5, VOID]), (1, [0, 150, VOID])):
        image, mask = images.load(index, 6)
        assert image.shape == (3, 6, 6)
        assert mask[3].tolist() == np.repeat(expected, 2).tolist()


def test_black_and_white_is_no_and_yes(tmp_path: Path) -> None:
    word = written(tmp_path)
    Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 4, axis=0)).save(tmp_path / "masks" / "0.png")
    assert open_masked(word).load(0, 4)[1].tolist() == [[0, 0, 1, 1]] * 4


def test_depths_are_numbers_as_they_are(tmp_path: Path) -> None:
    word = written(tmp_path)
    np.save(tmp_path / "masks" / "0.npy", np.array([[1.5, np.nan], [0.0, 3.0]], np.float32))
    Image.fromarray(np.array([[700, 0], [65535, 1]], np.uint16)).save(tmp_path / "masks" / "a" / "1.png")
    (tmp_path / "masks" / "0.png").unlink()
    images = open_masked(word, "depth")
    assert images.load(0, 2)[1].tolist() == [[1.5, 0.0], [0.0, 3.0]]
    assert images.load(1, 2)[1].tolist() == [[700.0, 0.0], [65535.0, 1.0]]
    np.save(tmp_path / "masks" / "0.npy", np.zeros((2, 2, 2)))
    with pytest.raises(UsageError, match=r"shape \(2, 2, 2\)"):
        images.load(0, 2)


def test_what_is_no_such_set_is_said(tmp_path: Path) -> None:
    word = written(tmp_path)
    for asked, message in (
        ("no/folder", "name two folders, IMAGES,MASKS, or shapes:train"),
        ("shapes:trian", "did you mean train"),
        ("shapes:train:0", "whole number from 1"),
        ("voc:tset", "unknown split of voc"),
        ("voc:val", "VOCSegmentation of 2012 is not in"),
        (f"{tmp_path / 'images'},{tmp_path / 'images'}", "no image in .* has the name of a .png"),
    ):
        with pytest.raises(UsageError, match=message):
            open_masked(asked, root=str(tmp_path))
    Image.new("RGB", (4, 4)).save(tmp_path / "masks" / "0.png")
    with pytest.raises(UsageError, match="is RGB: a mask has a palette or grey values"):
        open_masked(word).load(0, 4)
    (tmp_path / "masks" / "0.png").write_bytes(b"none")
    with pytest.raises(UsageError, match="cannot be read as an image"):
        open_masked(word).load(0, 4)
