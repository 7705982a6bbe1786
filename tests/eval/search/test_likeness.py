"""Likeness of pixels: copies are alike whatever was done to them, and images of one kind are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from ssl_toolkit.data import shapes
from ssl_toolkit.eval.search.likeness import ALIKE, SIDE, coarse_likeness, likeness, thumbnails, turned
from tests.conftest import BLUE, RED, plain

Edit = Callable[[Image.Image], Image.Image]


def scene(number: int) -> Image.Image:
    """A rendered shape over detail of its own."""
    noise = np.random.default_rng(number).integers(-60, 60, (24, 24, 3)).repeat(4, 0).repeat(4, 1)
    pixels = shapes.render("test", number, 96).transpose(1, 2, 0) * 0.7 + 40 + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def page(number: int) -> Image.Image:
    """Lines of words, at the same places on every page."""
    rng = np.random.default_rng(number)
    pixels = np.full((160, 120), 255, np.uint8)
    for line in range(10, 150, 9):
        at = 10
        while at < 100:
            width = int(rng.integers(4, 18))
            pixels[line : line + 5, at : min(at + width, 110)] = rng.integers(0, 90)
            at += width + 4
    return Image.fromarray(pixels)


def lit(number: int) -> Image.Image:
    """The same light on each, from the left, over detail of its own."""
    detail = np.random.default_rng(number).integers(-25, 25, (24, 24, 1)).repeat(4, 0).repeat(4, 1)
    return Image.fromarray((np.linspace(30, 220, 96)[None, :, None] + detail.repeat(3, 2)).astype(np.uint8))


def framed(number: int) -> Image.Image:
    """A dark picture in a white frame."""
    image = ImageEnhance.Brightness(scene(number)).enhance(0.6)
    for box in ((0, 0, 96, 8), (0, 88, 96, 96), (0, 0, 8, 96), (88, 0, 96, 96)):
        image.paste("white", box)
    return image


def scores(*images: Image.Image, folder: Path) -> np.ndarray:
    """Likeness of the first image to each of the others."""
    paths = [str(folder / f"{number}.png") for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    small, there = thumbnails(paths)
    assert there.all()
    pairs = np.array([(0, other) for other in range(1, len(paths))])
    coarse, orientation = coarse_likeness(small, pairs)
    return np.where(coarse >= ALIKE, likeness(small, pairs, orientation), -1)


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(io.BytesIO(buffer.getvalue()))


EDITS: dict[str, Edit] = {
    "smaller": lambda image: image.resize((image.width * 2 // 3, image.height * 2 // 3)),
    "larger": lambda image: image.resize((image.width * 2, image.height * 2)),
    "another shape": lambda image: image.resize((image.width, image.height * 3 // 4)),
    "recompressed": recompressed,
    "cut at the middle": lambda image: image.crop((3, 4, image.width - 3, image.height - 4)),
    "cut at one side": lambda image: image.crop((0, 0, round(image.width * 0.95), round(image.height * 0.95))),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.75),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned": lambda image: image.rotate(90, expand=True),
}


@pytest.mark.parametrize("make", [scene, page])
@pytest.mark.parametrize("edit", EDITS)
def test_a_copy_is_alike(make: Callable[[int], Image.Image], edit: str, tmp_path: Path) -> None:
    least = [scores(make(number), EDITS[edit](make(number)), folder=tmp_path)[0] for number in range(4)]
    assert min(least) > 0.8


def test_an_edge_is_found_where_it_was_cut(tmp_path: Path) -> None:
    image = scene(0)
    shifted = [image.crop((x, y, x + 90, y + 90)) for x in (0, 6) for y in (0, 6)]
    assert scores(image, *shifted, folder=tmp_path).min() > 0.9


@pytest.mark.parametrize("make", [scene, page, lit, framed])
def test_others_of_one_kind_are_not(make: Callable[[int], Image.Image], tmp_path: Path) -> None:
    step = 1 if make is page else len(shapes.CLASSES)  # the same shape again
    assert scores(*(make(step * number) for number in range(12)), folder=tmp_path).max() < 0.7


def test_half_a_page_that_differs_counts(tmp_path: Path) -> None:
    one = page(0)
    other = one.copy()
    other.paste(page(1).crop((0, 80, 120, 160)), (0, 80))
    assert scores(one, other, folder=tmp_path)[0] < 0.75


def test_flat_images_are_alike_by_their_light(tmp_path: Path) -> None:
    plains = [Image.new("RGB", (20, 20), colour) for colour in ("white", "white", "black", (250, 250, 250))]
    found = scores(*plains, folder=tmp_path)
    np.testing.assert_allclose(found, [1, -1, 1], atol=1e-5)
    red, blue = (Image.fromarray(plain(colour, 20).transpose(1, 2, 0)) for colour in (RED, BLUE))
    assert scores(red, blue, folder=tmp_path)[0] < 0
    spotted = plains[0].copy()
    spotted.paste("black", (8, 8, 12, 12))
    assert scores(plains[0], spotted, folder=tmp_path)[0] < 0.7


def test_orientations_are_eight() -> None:
    image = torch.arange(9).reshape(1, 1, 3, 3)
    assert len({tuple(turned(image, number).flatten().tolist()) for number in range(8)}) == 8


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    scene(0).save(tmp_path / "there.png")
    (tmp_path / "broken.png").write_text("no image")
    np.save(tmp_path / "six.npy", np.zeros((2, 6, 16, 16), np.uint8))
    paths = [str(tmp_path / name) for name in ("there.png", "broken.png", "gone.png")]
    small, there = thumbnails([*paths, "shapes:test#3"])
    assert there.tolist() == [True, False, False, True]
    assert (small.shape, small.dtype) == ((4, 3, SIDE, SIDE), np.uint8)
    assert not small[1:3].any()
    assert thumbnails([f"{tmp_path}/six.npy#1"], channels=6)[1].all()
    assert thumbnails([f"{tmp_path}/six.npy#1"])[1].tolist() == [False]
