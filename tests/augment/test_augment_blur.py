import pytest
import torch
import torchvision.transforms.v2.functional as F
from kornia import augmentation as K
from torchvision.transforms import v2

from ssl_toolkit.augment import GaussianBlur
from ssl_toolkit.augment.blur import blur_bands_, blur_dense_, blur_matrix, blur_taps_
from ssl_toolkit.errors import UsageError


def images(height, width, count=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


# Small images (tap by tap), large ones (in bands), sides that no band divides.
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 24), (96, 96), (130, 71), (150, 150), (40, 200)])
@pytest.mark.parametrize("p", [1.0, 0.4])
def test_equals_torchvision(height, width, p):
    torch.manual_seed(2)
    blur = GaussianBlur((0.1, 2.0), p=p)
    image = images(height, width)
    output = blur(image)
    kernel = 2 * blur.radius(height, width) + 1
    for row in range(4):
        floats = image[row].float() / 255
        if blur._params["batch_prob"][row] < 0.5:
            assert torch.allclose(output[row], floats, atol=1e-6)
            continue
        sigma = float(blur._params["sigma"][row])
        assert torch.allclose(output[row], F.gaussian_blur(floats, [kernel, kernel], [sigma, sigma]), atol=1e-4)
        whole = F.gaussian_blur(image[row], [kernel, kernel], [sigma, sigma]).float() / 255
        assert (output[row] - whole).abs().max() <= 0.51 / 255 + 1e-4


def test_equals_kornia():
    blur = GaussianBlur((0.5, 2.0), p=1.0, kernel=9)
    image = images(32, 32).float() / 255
    output = blur(image)
    theirs = K.RandomGaussianBlur((9, 9), (0.5, 2.0), p=1.0, separable=True)
    assert torch.allclose(theirs(image, params=blur._params), output, atol=1e-4)


def test_sigma_is_distributed_as_torchvisions():
    torch.manual_seed(0)
    ours = GaussianBlur((0.1, 2.0)).forward_parameters((20_000, 3, 8, 8))["sigma"].sort().values
    transform = v2.GaussianBlur(9, (0.1, 2.0))
    theirs = torch.tensor([transform.make_params([])["sigma"][0] for _ in range(20_000)]).sort().values
    assert (ours - theirs).abs().max() < 0.05
    gate = GaussianBlur(p=0.3).forward_parameters((20_000, 3, 8, 8))["batch_prob"]
    assert abs(gate.mean() - 0.3) < 0.01


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_a_kernel_longer_than_the_image_is_cut(side):
    output = GaussianBlur((1.0, 1.0), p=1.0, kernel=31)(torch.full((2, 3, side, side), 0.5))
    assert torch.allclose(output, torch.tensor(0.5), atol=1e-6)


def test_the_kernel_follows_the_size():
    blur = GaussianBlur()
    assert [2 * blur.radius(side, side) + 1 for side in (8, 32, 96, 224)] == [3, 3, 9, 23]


def test_known_values():
    weight = torch.exp(torch.tensor(-0.5))
    near, middle = weight / (1 + 2 * weight), 1 / (1 + 2 * weight)
    line = torch.eye(3).view(1, 3, 1, 3).expand(1, 3, 3, 3).clone()  # three images, each one bright column
    blur_taps_(line, torch.ones(3), 1)
    expected = torch.tensor([[middle, near, 0], [2 * near, middle, 2 * near], [0, near, middle]])
    assert torch.allclose(line[0, :, 0], expected)


def test_matrix_known_values():
    weight = torch.exp(torch.tensor(-0.5))
    near, middle = weight / (1 + 2 * weight), 1 / (1 + 2 * weight)
    expected = torch.tensor([[middle, 2 * near, 0], [near, middle, near], [0, 2 * near, middle]])
    assert torch.allclose(blur_matrix(torch.ones(1), 1, 3)[0], expected)
    assert torch.equal(blur_matrix(torch.zeros(1), 3, 8)[0], torch.eye(8))
    assert torch.allclose(blur_matrix(torch.full((1,), 5.0), 7, 8).sum(-1), torch.ones(1, 8))


@pytest.mark.parametrize(("blur", "error"), [(blur_taps_, 1e-5), (blur_dense_, 1e-3)])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 24), (40, 70)])
def test_every_way_blurs_alike(blur, error, height, width):
    planes = torch.rand(3, 2, height, width)
    expected = torch.stack([F.gaussian_blur(planes[:, 0], [7, 7], [1.5, 1.5]), planes[:, 1]], dim=1)
    blur(planes, torch.tensor([1.5, 0.0]), 3)
    assert torch.allclose(planes, expected, atol=error)


def test_on_an_accelerator_what_is_not_drawn_stays_to_the_bit(monkeypatch):
    for name in ("blur", "engine"):
        monkeypatch.setattr(f"ssl_toolkit.augment.{name}.whole", lambda x: True)
    image = torch.rand(8, 3, 150, 150)
    blur = GaussianBlur(p=0.5)
    output = blur(image)
    assert (output == image).flatten(1).all(1).tolist() == (blur._params["batch_prob"] < 0.5).tolist()


def test_bands_blur_channels_that_do_not_lie_together():
    planes = torch.rand(3, 2, 40, 50)
    expected = F.gaussian_blur(planes[:, 1], [9, 9], [1.5, 1.5])
    untouched = planes[:, 0].clone()
    blur_bands_(planes[:, 1], 1.5, 4)
    assert torch.allclose(planes[:, 1], expected, atol=1e-5)
    assert torch.equal(planes[:, 0], untouched)


@pytest.mark.parametrize("bad", [{"sigma": (0.0, 1.0)}, {"sigma": (2.0, 1.0)}, {"kernel": 4}, {"kernel": 0}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        GaussianBlur(**bad)
