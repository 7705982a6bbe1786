import pytest
import torch
import torchvision.transforms.v2.functional as F
from kornia.enhance import adjust_hue

from ssl_toolkit.augment import channels as ops

COUNT, SIDE = 9, 16
FACTORS = torch.linspace(0.2, 1.8, COUNT).view(-1, 1, 1)
TURNS = torch.linspace(-0.5, 0.5, COUNT).view(-1, 1, 1)
ZERO = torch.zeros(COUNT, 1, 1)


def a_batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    image[:, :, 0, :4] = torch.tensor([0, 255, 128, 7])[:, None].view(1, 1, 4)  # greys: no hue, no chroma
    image[:, :, 1, :3] = torch.eye(3, dtype=torch.uint8)[None] * 255  # the pure colours
    image[:, :, 2, :3] = 255 - torch.eye(3, dtype=torch.uint8)[None] * 255
    return image


def planes(image):
    return (image.float() / 255).transpose(0, 1).contiguous()


def run(name, x, apart=False):
    """One operation on planes (C, n, h, w), given together or as a tuple; images (n, C, h, w)."""
    given = tuple(plane.clone() for plane in x) if apart else x.clone()
    if name == "brightness":
        ops.blend_(given, FACTORS, ZERO)
    elif name == "contrast":
        ops.contrast_(given, FACTORS)
    elif name == "saturation":
        ops.blend_(given, FACTORS, 1 - FACTORS)
    else:
        ops.turn_hue_(given, TURNS)
    return torch.stack(tuple(given)).transpose(0, 1)


@pytest.mark.parametrize(("name", "integer_error"), [("brightness", 1), ("contrast", 2), ("saturation", 2), ("hue", 1)])
def test_equals_torchvision(name, integer_error):
    image = a_batch()
    ours = run(name, planes(image))
    amounts = (TURNS if name == "hue" else FACTORS).flatten().tolist()
    adjust = getattr(F, f"adjust_{name}")
    floats = torch.stack([adjust(one.float() / 255, amount) for one, amount in zip(image, amounts, strict=True)])
    assert torch.allclose(ours, floats, atol=2e-5)
    # On integers torchvision cuts off fractions, of the grey as well as of the result.
    whole = torch.stack([adjust(one, amount) for one, amount in zip(image, amounts, strict=True)])
    assert (ours - whole.float() / 255).abs().max() <= (integer_error + 0.01) / 255


def test_hue_equals_kornia():
    image = a_batch().float() / 255
    theirs = adjust_hue(image, TURNS.flatten() * 2 * torch.pi)
    assert torch.allclose(run("hue", planes(a_batch())), theirs, atol=1e-4)


def test_hue_known_values():
    x = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 0.5]]], [[[0.0, 0.5]]]])  # red, and a dark cyan
    ops.turn_hue_(x, torch.full((1, 1, 1), 1 / 3))
    assert torch.allclose(x[:, 0, 0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)  # green
    assert torch.allclose(x[:, 0, 0, 1], torch.tensor([0.5, 0.0, 0.5]), atol=1e-6)  # magenta


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_planes_apart_are_the_same(name):
    x = planes(a_batch())
    assert torch.allclose(run(name, x, apart=True), run(name, x), atol=1e-6)


def test_greyscale_equals_torchvision():
    image = a_batch()
    x = planes(image)
    ops.blend_(x, ZERO, ZERO + 1)
    assert torch.allclose(x.transpose(0, 1), F.rgb_to_grayscale(image.float() / 255, 3), atol=1e-5)


def test_a_neutral_blend_changes_nothing():
    x = planes(a_batch())
    before = x.clone()
    ops.blend_(x, ZERO + 1, ZERO)
    ops.contrast_(x, ZERO + 1)
    assert torch.equal(x, before)


def test_other_channel_counts_use_the_mean_of_all():
    x = torch.rand(5, 2, 2, 4)
    expected = (0.5 * x + 0.5 * x.mean(dim=(0, 2, 3), keepdim=True)).clamp(0, 1)
    ops.contrast_(x, torch.full((2, 1, 1), 0.5))
    assert torch.allclose(x, expected, atol=1e-6)
    factors = torch.tensor([0.5, 3.0]).view(2, 1, 1)
    ops.scale_(x, factors)
    assert torch.allclose(x, (expected * factors).clamp(0, 1), atol=1e-6)


def test_mixed_channels():
    x = planes(a_batch())
    matrix, offset = torch.rand(COUNT, 3, 3), torch.rand(COUNT, 3)
    expected = (torch.einsum("nij,jnhw->inhw", matrix, x) + offset.t()[:, :, None, None]).clamp(0, 1)
    ops.mix_channels_(x, matrix, offset)
    assert torch.allclose(x, expected, atol=1e-5)


def test_hue_matrix_keeps_greys_and_turns_back():
    matrix = ops.hue_matrix(torch.tensor([0.0, 0.2, -0.2, 0.5]))
    assert torch.allclose(matrix[0], torch.eye(3), atol=1e-6)
    assert torch.allclose(matrix @ torch.ones(3), torch.ones(4, 3), atol=1e-6)
    assert torch.allclose(matrix[1] @ matrix[2], torch.eye(3), atol=1e-6)


def turned(x, turns):
    x = x.clone()
    ops.turn_hue_(x, turns.view(-1, 1, 1))
    return x


def test_hue_matrix_is_exact_at_thirds():
    x = planes(a_batch())
    third = torch.full((COUNT,), 1 / 3)
    linear = torch.einsum("nij,jnhw->inhw", ops.hue_matrix(third), x)
    assert torch.allclose(linear, turned(x, third), atol=1e-5)


def test_hue_matrix_is_nearer_to_hsv_than_yiq():
    x = planes(a_batch())
    turns = torch.full((COUNT,), 0.1)
    exact = turned(x, turns)
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    angle = torch.tensor(0.2 * torch.pi)
    turn = torch.tensor([[1, 0, 0], [0, angle.cos(), angle.sin()], [0, -angle.sin(), angle.cos()]])
    yiq = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    ours, theirs = (
        (torch.einsum("ij,jnhw->inhw", matrix, x) - exact).abs().mean()
        for matrix in (ops.hue_matrix(turns[:1])[0], yiq)
    )
    assert ours < 0.8 * theirs
