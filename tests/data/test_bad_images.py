from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.cache import InMemory
from ssl_toolkit.data.image_set import ImageSet, Subset
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.errors import ToolkitError
from tests.data.small_files import paint


def test_too_many_bad_images_end_the_run(noise_images: Callable, tmp_path: Path) -> None:
    images = noise_images(20, broken=(3, 4))
    bad = BadImages(images, tmp_path / "bad.csv", max_rate=0.05)
    with pytest.raises(ToolkitError, match=r"2 of the 20 images of 'arrays' .* 5.0%.*arrays#3: broken on purpose"):
        list(ImageLoader(images, 16, bad=bad))
    with pytest.raises(ToolkitError, match="cannot be read"):
        list(ImageLoader(noise_images(8, broken=tuple(range(8))), 16, batch_size=4, shuffle=True))


@pytest.mark.parametrize(
    ("count", "max_rate", "limit"),
    [
        *((1, 0.01, 0), (2, 0.01, 1), (99, 0.01, 1), (200, 0.01, 2), (299, 0.01, 2)),
        *((50, 0.0, 0), (50, 0.001, 1), (50, 0.1, 5), (1, 1.0, 1), (50, 1.0, 50)),
    ],
)
def test_one_bad_image_ends_no_run_that_may_have_some(
    noise_images: Callable, count: int, max_rate: float, limit: int
) -> None:
    images = noise_images(count, broken=tuple(range(count)))
    bad = BadImages(images, max_rate=max_rate)
    assert bad.limit == limit
    bad.record(dict.fromkeys(range(limit), "broken"))
    assert len(bad) == limit
    if limit < count:
        with pytest.raises(ToolkitError, match=rf"^{count} of the {count} images .* more than {max_rate:.1%}"):
            bad.record({limit: "broken"})


@pytest.mark.parametrize("how", ["evaluation", "training", "memory"])
def test_all_bad_images_are_listed_before_the_run_ends(noise_images: Callable, tmp_path: Path, how: str) -> None:
    """Also those that lie behind the ones that were too many."""
    images = noise_images(60, broken=(2, 5, 30, 59))
    file = tmp_path / "bad.csv"
    bad = BadImages(images, file)
    with pytest.raises(ToolkitError, match=r"4 of the 60 images .* all are listed in .*bad\.csv"):
        InMemory(images, 16, bad) if how == "memory" else list(
            ImageLoader(images, 16, batch_size=4, bad=bad, shuffle=how == "training")
        )
    assert file.read_text().splitlines()[0] == "path,reason"
    lines = [f"arrays#{row},broken on purpose" for row in (2, 30, 5, 59)]
    assert sorted(file.read_text().splitlines()[1:]) == lines
    assert len(bad) == 4


def test_images_are_checked_and_not_loaded_for_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        paint(tmp_path / f"{number:02d}.png")
    for number in (1, 2, 33):
        (tmp_path / f"{number:02d}.png").write_text("no")
    images = open_images(str(tmp_path))
    monkeypatch.setattr(type(images), "load", None)
    bad = BadImages(Subset(images, np.arange(35)), tmp_path / "bad.csv", total=40)
    with pytest.raises(ToolkitError, match="3 of the 40 images"):
        bad.record({1: "no", 2: "no"})
    assert [line.split(",")[0] for line in (tmp_path / "bad.csv").read_text().splitlines()] == [
        "path",
        *(str(tmp_path / name) for name in ("01.png", "02.png", "33.png")),
    ]


def test_a_set_in_memory_knows_what_could_not_be_read(noise_images: Callable) -> None:
    images = noise_images(30, broken=(4, 20, 22))
    kept: ImageSet = InMemory(images, 16, BadImages(images, max_rate=0.5))
    with pytest.raises(ToolkitError, match="3 of the 30 images"):
        list(ImageLoader(kept, 16))


def test_each_is_listed_once_also_when_a_run_goes_on(noise_images: Callable, tmp_path: Path) -> None:
    """What an earlier process has listed may have been mended: only what is met now counts."""
    images, file = noise_images(100), tmp_path / "bad_images.csv"
    file.write_text("path,reason\narrays#7,broken\narrays#8,broken\n")
    bad = BadImages(images, file)
    bad.record({7: "broken"})
    bad.record({7: "broken"})
    assert len(bad) == 1
    assert file.read_text().count("arrays#7") == 1
    with pytest.raises(ToolkitError, match=r"2 of the 100 images"):
        bad.record({9: "broken"})
    assert file.read_text().splitlines()[3:] == ["arrays#9,broken"]


@pytest.mark.parametrize("torn", ["", "path,reason\n", "path,reason\narrays#7,broken\narr"])
def test_a_torn_list_of_bad_images_is_gone_on_with(noise_images: Callable, tmp_path: Path, torn: str) -> None:
    file = tmp_path / "bad_images.csv"
    file.write_text(torn)
    bad = BadImages(noise_images(20), file, max_rate=0.5)
    bad.record({3: "broken", 7: "broken"})
    assert file.read_text().startswith("path,reason\n")
    assert file.read_text().count("#7") == 1
