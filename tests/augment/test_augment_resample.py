import pytest
import torch
import torchvision.transforms.v2.functional as F
from torchvision.transforms import InterpolationMode

from ssl_toolkit.augment.resample import DENSE_SIDE, Boxes, axis_matrix, resample, taps


def a_batch(height, width, count=5, channels=3):
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def some_boxes(height, width):
    top, left = torch.tensor([0.0, 3, 1, 0, 5]), torch.tensor([0.0, 2, 0, 4, 1])
    tall = torch.tensor([height, height - 3, 7, 9, height - 6]).float()
    wide = torch.tensor([width, width - 2, 11, width - 4, 6]).float()
    flip = torch.tensor([False, True, False, True, True])
    return Boxes(torch.stack([top, left]), torch.stack([tall, wide]), flip)


def rectangle(boxes, row):
    """Top, left, height, width of one of the boxes."""
    return (*boxes.start[:, row].int().tolist(), *boxes.length[:, row].int().tolist())


def by_torchvision(image, boxes, size, mode):
    views = []
    for row, one in enumerate(image):
        view = F.resized_crop(one, *rectangle(boxes, row), list(size), InterpolationMode(mode), antialias=True)
        views.append(F.horizontal_flip(view) if boxes.flip[row] else view)
    stacked = torch.stack(views)
    return stacked.float() / 255 if stacked.dtype == torch.uint8 else stacked


SIZES = [((32, 32), (32, 32)), ((40, 48), (24, 20)), ((64, 80), (32, 32)), ((70, 60), (96, 90)), ((20, 48), (40, 30))]


@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_bilinear_equals_torchvision(size_in, size_out):
    image, boxes = a_batch(*size_in), some_boxes(*size_in)
    floats = image.float() / 255
    assert torch.allclose(
        resample(floats, boxes, size_out, "bilinear").transpose(0, 1),
        by_torchvision(floats, boxes, size_out, "bilinear"),
        atol=1e-5,
    )
    # torchvision rounds integers twice on the way
    difference = resample(image, boxes, size_out, "bilinear").transpose(0, 1) - by_torchvision(
        image, boxes, size_out, "bilinear"
    )
    assert difference.abs().max() <= 1.01 / 255


@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_bicubic_equals_torchvision(size_in, size_out):
    image, boxes = a_batch(*size_in), some_boxes(*size_in)
    floats = image.float() / 255
    assert torch.allclose(
        resample(floats, boxes, size_out, "bicubic").transpose(0, 1),
        by_torchvision(floats, boxes, size_out, "bicubic").clamp(0, 1),
        atol=1e-5,
    )
    difference = resample(image, boxes, size_out, "bicubic").transpose(0, 1) - by_torchvision(
        image, boxes, size_out, "bicubic"
    )
    assert difference.abs().max() <= 1.3 / 255  # on white noise: two roundings, weights beyond [0, 1]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_large_uint8_images_equal_torchvision_to_the_bit(mode):
    image, boxes = a_batch(64, 80), some_boxes(64, 80)
    assert max(image.shape) > DENSE_SIDE
    ours = (resample(image, boxes, (32, 32), mode).transpose(0, 1) * 255).round()
    assert torch.equal(ours, (by_torchvision(image, boxes, (32, 32), mode) * 255).round())


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_every_way_to_the_pixels_agrees(monkeypatch, mode, size_in, size_out):
    image, boxes = a_batch(*size_in).float() / 255, some_boxes(*size_in)
    ways = []
    for side, everywhere in ((0, False), (1000, False), (0, True)):  # one by one, dense, gathered
        monkeypatch.setattr("ssl_toolkit.augment.resample.DENSE_SIDE", side)
        monkeypatch.setattr("ssl_toolkit.augment.resample.whole", lambda x, on=everywhere: on)
        ways.append(resample(image, boxes, size_out, mode).clone())
    assert torch.allclose(ways[0], ways[1], atol=1e-5)
    assert torch.allclose(ways[0], ways[2], atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_taps_are_the_rows_of_the_matrix(mode):
    boxes, size_in, size = some_boxes(20, 24), (20, 24), (7, 9)
    pixels, weights = taps(boxes, size_in, size, mode)
    assert pixels.shape == (2, 5, 9, {"bilinear": 6, "bicubic": 12}[mode])  # twice the reach of a kernel 20 / 7 wide
    for axis, flip in enumerate((None, boxes.flip)):
        matrix = torch.zeros(5, 9, size_in[axis]).scatter_add_(2, pixels[axis], weights[axis])[:, : size[axis]]
        its = axis_matrix(boxes.start[axis], boxes.length[axis], flip, size_in[axis], size[axis], mode)
        assert torch.allclose(matrix, its, atol=1e-6)


@pytest.mark.parametrize("side", [32, DENSE_SIDE + 16])
def test_sources_pick_the_images(side):
    image, boxes = a_batch(side, side), some_boxes(side, side)
    sources = torch.tensor([4, 0, 3])
    picked = resample(image, boxes.pick(sources), (16, 16), "bilinear", sources).clone()
    assert torch.equal(picked, resample(image, boxes, (16, 16), "bilinear")[:, sources])


@pytest.mark.parametrize("side", [32, DENSE_SIDE + 16])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_no_pixel_outside_the_box_is_read(side, mode):
    boxes = some_boxes(side, side)
    image = torch.full((5, 1, side, side), 0.25)
    inside = torch.zeros_like(image, dtype=torch.bool)
    for row in range(5):
        top, left, height, width = rectangle(boxes, row)
        inside[row, :, top : top + height, left : left + width] = True
    poisoned = torch.where(inside, image, torch.tensor(1.0))
    output = resample(poisoned, boxes, (20, 20), mode)
    assert torch.allclose(output, torch.full_like(output, 0.25), atol=1e-5)


def test_nearest_equals_torchvision():
    image, boxes = a_batch(40, 48), some_boxes(40, 48)
    ours = resample(image, boxes, (24, 20), "nearest").transpose(0, 1)
    theirs = by_torchvision(image, boxes, (24, 20), "nearest-exact")
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_axis_matrix_known_values():
    one = torch.tensor([1.0])
    # Two pixels become one: their mean, and a quarter of each neighbour's share would lie outside the box.
    halved = axis_matrix(one, torch.tensor([2.0]), None, 4, 1)
    assert torch.allclose(halved, torch.tensor([[[0, 0.5, 0.5, 0]]]))
    # One pixel longer: half-pixel centres.
    doubled = axis_matrix(torch.tensor([0.0]), torch.tensor([2.0]), None, 2, 4)
    assert torch.allclose(doubled[0], torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]))
    flipped = axis_matrix(torch.tensor([0.0]), torch.tensor([2.0]), torch.tensor([True]), 2, 4)
    assert torch.allclose(flipped[0], doubled[0].flip(0))
    assert torch.allclose(axis_matrix(one, 2 * one, None, 4, 3, "bicubic").sum(-1), torch.ones(1, 3))
