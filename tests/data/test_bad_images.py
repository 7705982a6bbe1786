from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.errors import ToolkitError


def test_too_many_bad_images_end_the_run(noise_images: Callable, tmp_path: Path) -> None:
    images = noise_images(20, broken=(3, 4))
    bad = BadImages(images, tmp_path / "bad.csv", max_rate=0.05)
    with pytest.raises(ToolkitError, match=r"2 of the 20 images of 'arrays' .* 5.0%.*arrays#3: broken on purpose"):
        list(ImageLoader(images, 16, bad=bad))
    with pytest.raises(ToolkitError, match="cannot be read"):
        list(ImageLoader(noise_images(8, broken=tuple(range(8))), 16, batch_size=4, shuffle=True))


@pytest.mark.parametrize("torn", ["", "path,reason\n", "path,reason\narrays#7,broken\narr"])
def test_a_torn_list_of_bad_images_is_gone_on_with(noise_images: Callable, tmp_path: Path, torn: str) -> None:
    file = tmp_path / "bad_images.csv"
    file.write_text(torn)
    bad = BadImages(noise_images(20), file, max_rate=0.5)
    assert len(bad) == ("#7" in torn)
    bad.record({3: "broken"})
    assert file.read_text().startswith("path,reason\n")
