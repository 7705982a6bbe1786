import pytest
import torch
import torchvision.transforms.v2.functional as F
from kornia.enhance import adjust_hue

from ssl_toolkit.augment import channels as ops

COUNT, SIDE = 9, 16
FACTORS = torch.linspace(0.2, 1.8, COUNT)[:, None]
TURNS = torch.linspace(-0.5, 0.5, COUNT)[:, None]


def a_batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    image[:, :, 0, :4] = torch.tensor([0, 255, 128, 7])[:, None].view(1, 1, 4)  # greys: no hue, no chroma
    image[:, :, 1, :3] = torch.eye(3, dtype=torch.uint8)[None] * 255  # the pure colours
    image[:, :, 2, :3] = 255 - torch.eye(3, dtype=torch.uint8)[None] * 255
    return image


def planes(image):
    return (image.float() / 255).transpose(0, 1).contiguous().flatten(2)


def images(x):
    return x.view(3, COUNT, SIDE, SIDE).transpose(0, 1)


def scratch():
    return torch.empty(ops.SCRATCH_PLANES, COUNT, SIDE * SIDE)


def run(name, x):
    if name == "brightness":
        ops.brightness_(x, FACTORS)
    elif name == "contrast":
        ops.contrast_(x, FACTORS)
    elif name == "saturation":
        ops.saturation_(x, FACTORS, scratch())
    else:
        ops.turn_hue_(x, TURNS, scratch())
    return images(x)


@pytest.mark.parametrize(("name", "integer_error"), [("brightness", 1), ("contrast", 2), ("saturation", 2), ("hue", 1)])
def test_equals_torchvision(name, integer_error):
    image = a_batch()
    ours = run(name, planes(image))
    amounts = (TURNS if name == "hue" else FACTORS)[:, 0].tolist()
    adjust = getattr(F, f"adjust_{name}")
    floats = torch.stack([adjust(one.float() / 255, amount) for one, amount in zip(image, amounts, strict=True)])
    assert torch.allclose(ours, floats, atol=2e-5)
    # On integers torchvision cuts off fractions, of the grey as well as of the result.
    whole = torch.stack([adjust(one, amount) for one, amount in zip(image, amounts, strict=True)])
    assert (ours - whole.float() / 255).abs().max() <= (integer_error + 0.01) / 255


def test_hue_equals_kornia():
    image = a_batch().float() / 255
    theirs = adjust_hue(image, TURNS[:, 0] * 2 * torch.pi)
    assert torch.allclose(run("hue", planes(a_batch())), theirs, atol=1e-4)


def test_hue_known_values():
    x = torch.tensor([[[1.0, 0.0]], [[0.0, 0.5]], [[0.0, 0.5]]])  # red, and a dark cyan
    ops.turn_hue_(x, torch.tensor([[1 / 3]]), torch.empty(5, 1, 2))
    assert torch.allclose(x[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)  # green
    assert torch.allclose(x[:, 0, 1], torch.tensor([0.5, 0.0, 0.5]), atol=1e-6)  # magenta


def test_the_expression_for_the_compiler_is_the_same():
    x = planes(a_batch())
    assert torch.allclose(images(ops.turn_hue(x, TURNS)), run("hue", x.clone()), atol=1e-5)


def test_greyscale_equals_torchvision():
    image = a_batch()
    x = planes(image)
    ops.greyscale_(x, scratch())
    expected = F.rgb_to_grayscale(image.float() / 255, 3)
    assert torch.allclose(images(x), expected, atol=1e-5)


def test_blend_is_each_images_own_operation():
    image = a_batch()
    kind = torch.arange(COUNT) % 3
    rest = 1 - FACTORS
    zero = torch.zeros_like(rest)
    mixed = planes(image)
    ops.blend_(
        mixed,
        FACTORS,
        torch.where(kind[:, None] == 1, rest, zero),
        torch.where(kind[:, None] == 2, rest, zero),
        scratch(),
    )
    alone = torch.stack([run(name, planes(image)) for name in ("brightness", "contrast", "saturation")])
    assert torch.allclose(images(mixed), alone[kind, torch.arange(COUNT)], atol=1e-5)


def test_contrast_of_other_channel_counts_uses_the_mean_of_all():
    x = torch.rand(5, 2, 8)
    expected = (0.5 * x + 0.5 * x.mean(dim=(0, 2), keepdim=True)).clamp(0, 1)
    alone, blended = x.clone(), x.clone()
    ops.contrast_(alone, torch.full((2, 1), 0.5))
    half = torch.full((2, 1), 0.5)
    ops.blend_(blended, half, half, torch.zeros(2, 1), torch.empty(5, 2, 8))
    assert torch.allclose(alone, expected, atol=1e-6)
    assert torch.allclose(blended, expected, atol=1e-6)


def test_hue_matrix_keeps_greys_and_turns_back():
    matrix = ops.hue_matrix(torch.tensor([0.0, 0.2, -0.2, 0.5]))
    assert torch.allclose(matrix[0], torch.eye(3), atol=1e-6)
    assert torch.allclose(matrix @ torch.ones(3), torch.ones(4, 3), atol=1e-6)
    assert torch.allclose(matrix[1] @ matrix[2], torch.eye(3), atol=1e-6)


def test_hue_matrix_is_exact_at_thirds():
    x = planes(a_batch())
    third = torch.full((COUNT, 1), 1 / 3)
    expected = ops.turn_hue(x, third)
    linear = torch.einsum("nij,jnp->inp", ops.hue_matrix(third[:, 0]), x)
    assert torch.allclose(linear, expected, atol=1e-5)


def test_hue_matrix_is_nearer_to_hsv_than_yiq():
    x = planes(a_batch())
    turns = torch.full((COUNT, 1), 0.1)
    exact = ops.turn_hue(x, turns)
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    angle = torch.tensor(0.2 * torch.pi)
    turn = torch.tensor([[1, 0, 0], [0, angle.cos(), angle.sin()], [0, -angle.sin(), angle.cos()]])
    yiq = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    ours, theirs = (
        (torch.einsum("ij,jnp->inp", matrix, x) - exact).abs().mean()
        for matrix in (ops.hue_matrix(turns[:1, 0])[0], yiq)
    )
    assert ours < 0.8 * theirs
