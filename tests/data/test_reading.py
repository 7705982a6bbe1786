import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.reading import Fetch, center_crop, pad
from tests.killing import ended


def test_center_crop() -> None:
    image = np.arange(5 * 8).reshape(1, 5, 8)
    assert center_crop(image, 4)[0].tolist() == [[2 + 8 * r + c for c in range(4)] for r in range(4)]
    assert center_crop(image, 6)[0].tolist() == [[1 + 8 * r + c for c in range(6)] for r in range(5)]


def test_pad() -> None:
    one, two = np.ones((2, 3, 5), np.uint8), np.full((2, 4, 1), 2, np.uint8)
    padded, box = pad([one, two])
    assert padded.shape == (2, 2, 4, 5)
    assert box is not None
    assert box.tolist() == [[3, 5], [4, 1]]
    assert (padded[0, :, :3, :5] == 1).all()
    assert (padded[1, :, :4, :1] == 2).all()
    assert padded.sum() == one.sum() + two.sum()
    padded, box = pad([one, one])
    assert padded.shape == (2, 2, 3, 5)
    assert box is None


def test_what_stands_in_for_an_image_is_only_made_up_where_it_is_needed(noise_images: Callable) -> None:
    fetch = Fetch(noise_images(4), 8, 8, tries=10**15)  # of so many images that a hundredth may be bad
    assert list(itertools.islice(fetch._candidates([3, 1], 0), 3)) == [3, 0, 1]
    assert fetch[0, [3, 1]].rows == [3, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_readers_end_with_the_process_that_they_read_for(noise_images: Callable) -> None:
    """More batches are waiting than a pipe holds: who writes them would not notice that nobody reads."""
    images = noise_images(400)
    images.pixels = np.zeros((400, 3, 64, 64), np.uint8)
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        batches = iter(ImageLoader(images, 64, batch_size=16, shuffle=True, workers=2))
        next(batches)
        time.sleep(0.5)
        os.write(theirs, " ".join(str(each.pid) for each in multiprocessing.active_children()).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    readers = list(map(int, os.read(ours, 100).split()))
    os.waitpid(child, 0)
    assert len(readers) == 2
    assert ended(readers, 20)


@pytest.mark.parametrize("side", [2, 3])
def test_images_of_several_depths_make_one_batch(side: int) -> None:
    """As queries do, which are named one by one."""
    pixels, box = pad([np.full((1, 2, 2), 10, np.uint8), np.full((1, side, 2), 2571, np.uint16)])
    assert pixels.dtype == np.uint16
    assert pixels[:, 0, 0, 0].tolist() == [2570, 2571]
    assert (box is None) == (side == 2)
