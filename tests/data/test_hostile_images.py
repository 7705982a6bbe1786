"""Every hostile file is read or is a bad image, and nothing else; the check without decoding says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit.data.images import BadImageError, check_image, read_image
from tests.hostile_images import made, write_hostile

# What is no fault: an odd kind, or bytes that nobody needs.
READABLE = {
    *("wrong_suffix.png", "garbage_behind.jpg", "line.png", "pixel.png", "cmyk.jpg", "deep.png", "broken_exif.jpg"),
    *("odd_turn.jpg", "animated.gif"),
}
DEPENDS = {"flipped.jpg", "flipped.gif", "flipped.webp", "flipped.tiff", "no_end.jpg"}  # on the decoder


def test_there_are_45_kinds() -> None:
    assert len(made()) == 45


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_hostile(folder)
    return folder


@pytest.mark.parametrize("name", made())
def test_each_is_read_or_named(folder: Path, name: str) -> None:
    if name == "folder_link.jpg":
        pytest.skip("a folder, which no listing takes for an image")
    path = folder / name
    if name in READABLE:
        check_image(path)
        assert read_image(path, size=16).dtype == (np.uint16 if name == "deep.png" else np.uint8)
        return
    reason = fault(path)
    assert name in DEPENDS if reason is None else 0 < len(reason) <= 200


def fault(path: Path) -> str | None:
    try:
        read_image(path, size=16)
    except BadImageError as error:
        return error.reason
    return None
