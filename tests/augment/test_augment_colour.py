import itertools
import logging

import pytest
import torch
import torchvision.transforms.v2.functional as F
from kornia import augmentation as K
from torchvision.transforms import v2

from ssl_toolkit.augment import ColourJitter, colour
from ssl_toolkit.errors import UsageError
from tests.conftest import ks_distance

DRAWS = 20_000
NAMES = ("brightness", "contrast", "saturation", "hue")
PLAIN = {"p": 1.0, "grey_p": 0.0}


def images(count=12, side=16):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def by_torchvision(image, params):
    """Each image through torchvision's functions, in its own order."""
    output = []
    for row, one in enumerate(image):
        if params["batch_prob"][row] > 0.5:
            for number in params["order"][row].tolist():
                amount = float(params[f"{NAMES[number]}_factor"][row])
                one = getattr(F, f"adjust_{NAMES[number]}")(one, amount)
        output.append(F.rgb_to_grayscale(one, 3) if params["grey"][row] > 0.5 else one)
    return torch.stack(output)


@pytest.mark.parametrize("strength", [(0.8, 0.8, 0.8, 0.2), (0.4, 0.0, 0.4, 0.5), (0.5, 0.5, 0.5, 0.0), (0, 0, 0, 0.3)])
@pytest.mark.parametrize("side", [16, 400])  # many images a piece, and one
def test_random_order_equals_torchvision(strength, side):
    torch.manual_seed(0)
    jitter = ColourJitter(strength, p=0.8, grey_p=0.3)
    image = images(40 if side == 16 else 4, side)
    output = jitter(image)
    expected = by_torchvision(image.float() / 255, jitter._params)
    # Rounding in the hue's denominator is amplified where the chroma is small.
    assert (output - expected).abs().max() <= 1 / 255
    assert (output - expected).abs().mean() < 1e-5


def test_fixed_order():
    jitter = ColourJitter(order=(2, 0, 3, 1), **PLAIN)
    output = jitter(images())
    assert jitter._params["order"].unique(dim=0).tolist() == [[2, 0, 3, 1]]
    assert (output - by_torchvision(images().float() / 255, jitter._params)).abs().max() <= 1 / 255


def test_orders_differ_within_a_batch_and_are_uniform():
    order = ColourJitter().forward_parameters((DRAWS, 3, 8, 8))["order"]
    kinds, counts = order.unique(dim=0, return_counts=True)
    assert len(kinds) == 24
    assert (counts / DRAWS * 24 - 1).abs().max() < 0.15


def test_equals_kornias_color_jitter():
    order = (1, 3, 0, 2)
    ours = ColourJitter((0.6, 0.6, 0.6, 0.2), order=order, **PLAIN)
    image = images().float() / 255
    output = ours(image)
    theirs = K.ColorJitter(0.6, 0.6, 0.6, 0.2, p=1.0)
    params = {**ours._params, "order": torch.tensor(order)}
    assert (theirs(image, params=params) - output).abs().max() <= 1 / 255


def test_greyscale_equals_kornia():
    image = images().float() / 255
    ours = ColourJitter((0, 0, 0, 0), grey_p=1.0)(image)
    assert torch.allclose(ours, K.RandomGrayscale(p=1.0)(image), atol=1 / 255)


def test_grey_first_is_another_order():
    torch.manual_seed(0)
    jitter = ColourJitter((0, 0, 0, 0.4), p=1.0, grey_p=1.0, grey_first=True)
    expected = F.rgb_to_grayscale(images().float() / 255, 3)
    assert torch.allclose(jitter(images()), expected, atol=1e-5)  # a grey pixel has no hue to turn


@pytest.mark.parametrize("strength", [(0.8, 0.8, 0.8, 0.2), (0.2, 0.1, 0.3, 0.05)])
def test_factors_are_distributed_as_torchvisions(strength):
    torch.manual_seed(0)
    params = ColourJitter(strength).forward_parameters((DRAWS, 3, 8, 8))
    theirs = v2.ColorJitter(*strength)
    drawn = [theirs.make_params([]) for _ in range(DRAWS)]
    for name in NAMES:
        expected = torch.tensor([draw[f"{name}_factor"] for draw in drawn])
        ours = params[f"{name}_factor"]
        assert ks_distance(ours, expected) < 0.02  # 5 % of such pairs of draws are further apart than 0.0136
        assert ours.min() == pytest.approx(expected.min().item(), abs=1e-3)
        assert ours.max() == pytest.approx(expected.max().item(), abs=1e-3)


def test_probabilities():
    torch.manual_seed(0)
    params = ColourJitter(p=0.8, grey_p=0.2).forward_parameters((DRAWS, 3, 8, 8))
    gate, grey = params["batch_prob"], params["grey"]
    assert abs(gate.mean() - 0.8) < 0.01
    assert abs(grey.mean() - 0.2) < 0.01
    assert abs((gate * grey).mean() - 0.16) < 0.01  # drawn apart


def test_what_is_not_drawn_is_not_touched():
    jitter = ColourJitter(p=0.5, grey_p=0.0)
    output = jitter(images())
    same = (output == images().float() * (1 / 255)).flatten(1).all(1)
    assert same.tolist() == (jitter._params["batch_prob"] < 0.5).tolist()


def test_linear_mode_is_exact_but_for_hue_and_clamps():
    image = (images() // 4 + 96).float() / 255  # far from the clamps
    torch.manual_seed(1)
    linear = ColourJitter((0.2, 0.2, 0.2, 0.0), p=0.8, hue="linear")
    output = linear(image)
    assert torch.allclose(output, by_torchvision(image, linear._params), atol=1e-5)


def test_linear_hue_is_near_the_exact_one():
    torch.manual_seed(0)
    exact = ColourJitter(**PLAIN)
    # Colours as pale as a photograph's: the linear turn is exact for greys and worst for pure colours.
    image = 0.2 * torch.rand(60, 3, 16, 16) + 0.6 * torch.rand(60, 1, 16, 16)
    output = exact(image)
    linear = ColourJitter(hue="linear", **PLAIN)(image, params=exact._params)
    assert 1e-4 < (linear - output).abs().mean() < 0.02


def test_normalisation_comes_last():
    torch.manual_seed(0)
    plain = ColourJitter()(images())
    torch.manual_seed(0)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    output = ColourJitter(mean=mean, std=std)(images())
    assert torch.allclose(output, F.normalize(plain, list(mean), list(std)), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("hue", ["exact", "linear"])
def test_other_channel_counts_get_brightness_and_contrast_and_one_message(channels, hue, caplog):
    colour.say_rgb_only.cache_clear()
    image = torch.rand(6, channels, 8, 8)
    jitter = ColourJitter(p=1.0, grey_p=1.0, hue=hue)
    with caplog.at_level(logging.WARNING, "ssl_toolkit"):
        output = jitter(image)
        jitter(image)
    assert [record.getMessage() for record in caplog.records] == [
        f"images of {channels} channels: saturation, hue and greyscale need RGB and are left out; "
        "brightness and contrast stay"
    ]
    params = jitter._params
    expected = []
    for row in range(6):
        one = image[row]
        for number in params["order"][row].tolist():
            factor = params[f"{NAMES[number]}_factor"][row]
            if number == 0:
                one = (one * factor).clamp(0, 1)
            elif number == 1:
                one = (factor * one + (1 - factor) * one.mean()).clamp(0, 1)
        expected.append(one)
    assert torch.allclose(jitter(image, params=params), torch.stack(expected), atol=1e-5)
    assert output.shape == image.shape


@pytest.mark.parametrize("hue", ["exact", "linear"])
def test_every_image_through_every_stage_is_the_same(monkeypatch, hue):
    """As on an accelerator, where nothing asks which images a stage changes."""
    jitter = ColourJitter(p=0.8, grey_p=0.3, hue=hue)
    image = images(80).float() / 255
    ours = jitter(image)
    monkeypatch.setattr("ssl_toolkit.augment.engine.whole", lambda x: True)
    assert torch.allclose(jitter(image, params=jitter._params), ours, atol=1e-5)


def test_each_order_is_a_part_of_the_row_of_stages():
    """All 24 orders, with factors that tell them apart."""
    order = torch.tensor(list(itertools.permutations(range(4))))
    jitter = ColourJitter(**PLAIN)
    params = jitter.forward_parameters((24, 3, 16, 16))
    params["order"] = order
    image = images(1).expand(24, -1, -1, -1).float() / 255
    output = jitter(image, params=params)
    assert (output - by_torchvision(image, params)).abs().max() <= 1 / 255
    assert len(output.unique(dim=0)) > 20


def test_orders_are_drawn_by_sorting():
    uniforms = torch.full((9, 2), 0.5)
    uniforms[4:8] = torch.tensor([[0.1, 0.5], [0.9, 0.5], [0.4, 0.2], [0.3, 0.5]])
    order = colour.ColourDraws((0.4, 0.4, 0.4, 0.1), 0.2, "random").from_uniforms(uniforms, (2, 3, 8, 8))["order"]
    assert order.tolist() == [[0, 3, 2, 1], [2, 0, 1, 3]]  # of equal ones the first comes first


def test_stages_of_an_order():
    assert colour.stages_of((0, 1, 2, 3)) == [0, 3, 1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert colour.stages_of((3, 1, 2, 0)) == [3, 3, 3, 3, 3, 3, 3, 3, 1, 2, 0]
    assert colour.stages_of((2, 3, 0, 1)) == [3, 3, 3, 2, 3, 3, 0, 3, 1, 3, 3]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"strength": (0.1, 0.1, 0.1, 0.6)}, "hue at most 0.5"),
        ({"strength": (-0.1, 0.1, 0.1, 0.1)}, "at least 0"),
        ({"order": (0, 1, 2, 2)}, "each of 0, 1, 2, 3 once"),
        ({"hue": "hsv"}, "'exact' or 'linear'"),
        ({"mean": (0.5, 0.5, 0.5)}, "both mean and std"),
    ],
)
def test_bad_arguments_are_named(bad, words):
    with pytest.raises(UsageError, match=words):
        ColourJitter(**bad)
