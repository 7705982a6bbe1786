import pytest
import torch
import torchvision.transforms.v2.functional as F
from kornia import augmentation as K

from ssl_toolkit.augment import Solarize
from ssl_toolkit.errors import UsageError

ALL_VALUES = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)


def test_equals_torchvision_for_every_byte():
    output = Solarize(0.5, p=1.0)(ALL_VALUES)
    assert torch.allclose(output, F.solarize(ALL_VALUES, 128).float() / 255, atol=1e-6)
    assert torch.allclose(output, F.solarize(ALL_VALUES.float() / 255, 0.5), atol=1e-6)


def test_the_threshold_itself_is_inverted():
    image = torch.tensor([0.0, 0.24, 0.25, 0.26]).view(1, 1, 2, 2)
    output = Solarize(0.25, p=1.0)(image)
    assert torch.allclose(output, F.solarize(image, 0.25))
    assert output[0, 0, 1, 0] == 0.75


def test_equals_kornia_with_a_range_of_no_width():
    image = ALL_VALUES.float() / 255
    theirs = K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=1.0)
    assert torch.allclose(Solarize(0.5, p=1.0)(image), theirs(image), atol=1e-5)


def test_the_threshold_is_fixed():
    outputs = torch.stack([Solarize(0.3, p=1.0)(ALL_VALUES) for _ in range(5)])
    assert torch.equal(outputs, outputs[:1].expand_as(outputs))


def test_only_what_is_drawn_changes():
    torch.manual_seed(0)
    solarize = Solarize(p=0.3)
    image = ALL_VALUES[:1].expand(40, 3, 16, 16)
    changed = (solarize(image) - image.float() / 255).abs().flatten(1).amax(1) > 0.1
    assert changed.tolist() == (solarize._params["batch_prob"] > 0.5).tolist()
    assert 2 < changed.sum() < 25


def test_a_threshold_in_bytes_is_refused():
    with pytest.raises(UsageError, match=r"128 of 255 is 0\.5"):
        Solarize(128)
