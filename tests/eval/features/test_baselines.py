"""Baselines: pixels by hand, and an encoder that has forgotten everything but its architecture."""

from __future__ import annotations

import pytest
import torch

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.baselines import pixels, random_weights


def test_small_images_are_their_own_features() -> None:
    image = torch.rand(5, 3, 32, 20)
    assert torch.equal(pixels()(image), image.reshape(5, 3 * 32 * 20))
    assert torch.equal(pixels(size=8)(image[..., :8, :3]), image[..., :8, :3].reshape(5, 72))  # never enlarged


def test_large_images_are_averaged_over_areas() -> None:
    image = torch.rand(2, 3, 64, 96)
    means = image.view(2, 3, 32, 2, 32, 3).mean(dim=(3, 5))
    torch.testing.assert_close(pixels()(image), means.flatten(1))


def test_each_side_is_brought_down_for_itself() -> None:
    image = torch.tensor([[0.0, 1.0, 0.5, 0.1], [0.2, 0.8, 0.3, 0.3]]).view(1, 1, 2, 4)
    torch.testing.assert_close(pixels(size=2)(image), torch.tensor([[0.5, 0.3, 0.5, 0.3]]))


def test_no_pixel_is_left_out_where_sizes_do_not_divide() -> None:
    # A checkerboard averages to grey; picking pixels would keep its black and white.
    board = (torch.arange(45)[:, None] + torch.arange(45)) % 2
    found = pixels()(board.float().view(1, 1, 45, 45))
    assert found.shape == (1, 1024)
    assert (found - 0.5).abs().max() < 0.2


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="size must be at least 1 pixel, got 0"):
        pixels(0)


def test_random_weights_depend_on_the_seed_and_on_nothing_learnt(small_encoder: Encoder) -> None:
    image = torch.rand(4, 3, 16, 16)
    before = small_encoder.eval()(image).detach()
    with torch.no_grad():
        for weight in small_encoder.parameters():
            weight.add_(1)
    one, again, other = (random_weights(small_encoder, seed)(image) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, before)
    assert one.shape == before.shape
    assert not random_weights(small_encoder, 1).training
