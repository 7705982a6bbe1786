import numpy as np
import pytest

from ssl_toolkit.data.reading import center_crop, pad


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


@pytest.mark.parametrize("side", [2, 3])
def test_images_of_several_depths_make_one_batch(side: int) -> None:
    """As queries do, which are named one by one."""
    pixels, box = pad([np.full((1, 2, 2), 10, np.uint8), np.full((1, side, 2), 2571, np.uint16)])
    assert pixels.dtype == np.uint16
    assert pixels[:, 0, 0, 0].tolist() == [2570, 2571]
    assert (box is None) == (side == 2)
