import pytest
import torch

from ssl_toolkit.augment import CutMix, Mixup
from ssl_toolkit.errors import UsageError


def a_batch():
    return torch.rand(8, 3, 12, 16), torch.arange(8) % 4


def test_mixup_mixes_images_and_labels_with_one_share():
    torch.manual_seed(0)
    image, label = a_batch()
    mix = Mixup(4, 1.0)
    torch.manual_seed(5)
    keep, partner = mix.draw(8)
    torch.manual_seed(5)
    mixed, target = mix(image, label)
    hot = torch.eye(4)[label]
    assert torch.allclose(mixed, keep * image + (1 - keep) * image[partner], atol=1e-6)
    assert torch.allclose(target, keep * hot + (1 - keep) * hot[partner], atol=1e-6)
    assert torch.allclose(target.sum(1), torch.ones(8))


def test_mixup_share_is_beta_distributed():
    torch.manual_seed(0)
    shares = torch.stack([Mixup(2, 0.2).draw(1)[0] for _ in range(4000)])
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * (2 * 0.2 + 1))) < 0.01


def test_cutmix_labels_count_pixels():
    torch.manual_seed(1)
    cut = CutMix(8, 1.0)
    image = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 12, 16) / 8
    kept = []
    for _ in range(20):
        mixed, target = cut(image, torch.arange(8))
        for row in range(8):
            shares = torch.stack([(mixed[row, 0] * 8 == number).float().mean() for number in range(8)])
            assert torch.allclose(shares, target[row], atol=1e-5)
        kept.append(float(target.max()))
    assert min(kept) < 0.9


def test_uint8_becomes_float_and_probabilities_pass():
    image = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    soft = torch.full((4, 5), 0.2)
    for mix in (Mixup(5, 0.8), CutMix(5, 1.0)):
        mixed, target = mix(image, soft)
        assert mixed.dtype == torch.float32
        assert mixed.max() <= 1
        assert torch.allclose(target, soft)


def test_the_batch_given_stays_as_it_was():
    image, label = a_batch()
    before = image.clone()
    Mixup(4, 1.0)(image, label)
    CutMix(4, 1.0)(image, label)
    assert torch.equal(image, before)


def test_bad_arguments_are_named():
    with pytest.raises(UsageError, match="alpha above 0"):
        Mixup(4, 0.0)
