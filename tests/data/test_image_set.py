import base64
import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ssl_toolkit.data.image_set import SIDE, ImageSet, Subset, read_some
from tests.conftest import Arrays


def test_subset(noise_images: Callable) -> None:
    part = Subset(noise_images(10), np.array([7, 2]))
    assert len(part) == 2
    assert part.path(0) == "arrays#7"
    assert part.load(1, 16)[0, 0, 0] == 2
    assert part.labels.tolist() == [3, 2]


def test_read_some_passes_over_what_cannot_be_read(noise_images: Callable) -> None:
    images = noise_images(6, broken=(4, 0))
    assert [int(image[0, 0, 0]) for image in read_some(images, [4, 3, 0, 5, 1], 2)] == [3, 5]
    assert len(read_some(images, [0, 4], 2)) == 0


def test_it_is_told_in_a_line(noise_images: Callable) -> None:
    assert repr(noise_images(1200)) == "Arrays('arrays': images 1,200, channels 3, classes 4)"
    clips = noise_images(5, frames=2)
    clips.word, clips.frames, clips.classes = "a\n\udcff'b", 2, None
    assert repr(clips) == """Arrays("a\\n\\udcff'b": clips 5, frames 2, channels 3)"""


def picture_of(images: ImageSet) -> np.ndarray:
    """What a notebook shows: the squares, (N, SIDE, SIDE, 3) uint8."""
    (content,) = re.findall(r'<img src="data:image/png;base64,([A-Za-z0-9+/=]+)">', images._repr_html_())
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    return sheet.reshape(SIDE, -1, SIDE, 3).swapaxes(0, 1)


def plain_set(count: int, channels: int = 3, broken: tuple[int, ...] = ()) -> Arrays:
    """Images of 10 x 20 px; channel c of image i is 10 * i + c all over."""
    values = 10 * np.arange(count)[:, None] + np.arange(channels)
    return Arrays(np.broadcast_to(values[..., None, None], (count, channels, 10, 20)).astype(np.uint8), None, broken)


def test_a_notebook_shows_images_from_all_over_the_set() -> None:
    shown = picture_of(plain_set(22, broken=(3,)))
    rows = [0, 6, 9, 12, 15, 18, 21]  # eight, evenly spread, but for one that cannot be read
    assert shown.shape == (7, SIDE, SIDE, 3)
    assert [np.unique(square.reshape(-1, 3), axis=0).tolist() for square in shown] == [
        [[10 * row, 10 * row + 1, 10 * row + 2]] for row in rows
    ]
    assert len(picture_of(plain_set(2))) == 2


@pytest.mark.parametrize("channels", [1, 2])
def test_of_fewer_channels_a_notebook_shows_the_first(channels: int) -> None:
    assert np.unique(picture_of(plain_set(3, channels))).tolist() == [0, 10, 20]


def test_of_more_channels_a_notebook_shows_the_first_three() -> None:
    assert picture_of(plain_set(3, channels=13))[2, 0, 0].tolist() == [20, 21, 22]


def test_of_clips_a_notebook_shows_the_first_frames() -> None:
    clips = plain_set(3, channels=6)
    clips.frames = 2
    assert picture_of(clips)[2, 0, 0].tolist() == [20, 21, 22]


def test_sizes_and_classes_in_a_notebook(noise_images: Callable) -> None:
    images = noise_images(8)
    images.classes = [f"c{number}" for number in range(13)]
    page = images._repr_html_()
    assert "<tr><th>images</th><td>8</td></tr><tr><th>channels</th><td>3</td></tr>" in page
    assert "<th>size of those shown</th><td>16 x 16 px</td>" in page
    assert "<td>c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, and 3 more</td>" in page
    images.pixels = [each[:, : 16 - place] for place, each in enumerate(images.pixels)]
    assert "<td>16 x 9 px to 16 x 16 px</td>" in images._repr_html_()
    images.broken = tuple(range(8))
    assert "<img" not in images._repr_html_()


def test_names_in_a_notebook_are_text(noise_images: Callable) -> None:
    images = noise_images(4)
    images.word, images.classes = "<script>\"&'</table>", ["<img src=x onerror=alert(1)>", "\udcff", "c"]
    page = images._repr_html_()
    page.encode()  # a notebook is UTF-8, and a file's name need not be
    assert "&lt;script&gt;&quot;&amp;&#x27;&lt;/table&gt;" in page
    assert "&lt;img src=x onerror=alert(1)&gt;, ?, c" in page
    assert sorted(set(re.findall("<[^>]*", page[: page.index("<img")]))) == [
        *("</table", "</td", "</th", "</tr", "<table", "<td", "<th", "<tr"),
    ]
