from collections.abc import Callable

import pytest
import torch

from ssl_toolkit.pretext.masks import block_mask, centre_mask, free_form_mask

Mask = Callable[[torch.Tensor], torch.Tensor]
BOUNDS = [(centre_mask, 0.25, 0.25), (block_mask, 1 / 64, 0.25), (free_form_mask, 0.2, 0.3)]


@pytest.mark.parametrize(("mask", "least", "most"), BOUNDS)
@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (64, 48), (224, 224)])
def test_share_of_the_hole_is_within_its_bounds(mask: Mask, least: float, most: float, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    hole = mask(torch.empty(200, 3, *shape))
    assert hole.shape == (200, 1, *shape)
    assert hole.dtype == torch.bool
    share = hole.flatten(1).float().mean(dim=1)
    assert share.min() >= least - 1 / (shape[0] * shape[1])
    assert share.max() <= most


def test_the_centre_is_the_central_square() -> None:
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(centre_mask(torch.empty(2, 1, 8, 8)), expected.expand(2, 1, 8, 8))


@pytest.mark.parametrize("mask", [block_mask, free_form_mask])
def test_every_image_has_a_hole_of_its_own_from_the_seed(mask: Mask) -> None:
    image = torch.empty(20, 3, 32, 32)
    torch.manual_seed(0)
    first = mask(image)
    other = mask(image)
    torch.manual_seed(0)
    assert torch.equal(mask(image), first)
    assert len(torch.cat([first, other]).flatten(1).unique(dim=0)) == 40


@pytest.mark.parametrize("mask", [block_mask, free_form_mask])
def test_holes_may_lie_anywhere(mask: Mask) -> None:
    torch.manual_seed(0)
    hidden = mask(torch.empty(2000, 1, 32, 32)).float().mean(dim=(0, 1))  # how often each pixel is
    assert hidden.min() > 0
    torch.testing.assert_close(hidden, hidden.flip(0), atol=0.07, rtol=0.0)
    torch.testing.assert_close(hidden, hidden.flip(1), atol=0.07, rtol=0.0)


def test_blocks_are_one_to_five() -> None:
    """A hole that is its own bounding box is of one block; it has a fifth of all, and some by overlap."""
    torch.manual_seed(0)
    hole = block_mask(torch.empty(2000, 1, 64, 64))[:, 0]
    down, across = hole.any(dim=2).sum(dim=1), hole.any(dim=1).sum(dim=1)
    single = hole.sum(dim=(1, 2)) == down * across
    assert single.float().mean().item() == pytest.approx(0.2, abs=0.03)
    side = down[single].float() / 64
    assert side.min() >= 0.32
    assert side.max() <= 0.5


def test_free_forms_are_blobs_and_no_dust() -> None:
    """Most pixels of a hole have their neighbours in it: of pixels drawn one by one, a quarter have."""
    torch.manual_seed(0)
    hole = free_form_mask(torch.empty(100, 1, 64, 64))
    together = (hole[..., 1:] & hole[..., :-1]).sum() / hole[..., :-1].sum()
    assert together > 0.85
