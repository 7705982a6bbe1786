"""Masks: so many patches as asked for, in the form that the papers say, each image's by itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssl_toolkit.masking import (
    block_masking,
    inverse_block_masking,
    multiblock_masking,
    random_masking,
    square_masking,
    visible_count,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("length", "ratio", "count"),
    [(196, 0.75, 49), (64, 0.75, 16), (10, 0.9, 1), (7, 0.6, 3), (4, 0.99, 1), (4, 0.01, 3)],
)
def test_the_share_that_is_asked_for_is_hidden_never_all_and_never_none(length: int, ratio: float, count: int) -> None:
    assert visible_count(length, ratio) == count
    visible, hidden = random_masking(3, length, ratio)
    assert visible.shape == (3, count)
    assert (~hidden).sum(dim=1).tolist() == [count] * 3
    assert not hidden.gather(1, visible).any()
    assert (visible.diff(dim=1) > 0).all()


def test_each_image_is_masked_by_itself_and_every_patch_as_often() -> None:
    visible, hidden = random_masking(2000, 16, 0.75)
    assert len(visible.unique(dim=0)) > 1000  # of 1,820 choices
    assert (hidden.float().mean(dim=0) - 0.75).abs().max() < 0.04  # four standard deviations
    torch.manual_seed(0)
    assert torch.equal(random_masking(2000, 16, 0.75)[0], visible)


def test_squares_are_whole_and_those_at_the_edge_cut_off() -> None:
    hidden = square_masking(500, (6, 5), 0.5, 2).view(500, 6, 5)
    whole = torch.nn.functional.pad(hidden, (0, 1)).view(500, 3, 2, 3, 2)
    inside = whole[:, :, :, :2].permute(0, 1, 3, 2, 4).flatten(3)
    assert ((inside.sum(3) == 0) | (inside.sum(3) == 4)).all()
    squares = whole[:, :, 0, :, 0].flatten(1)
    assert squares.sum(1).eq(9 - visible_count(9, 0.5)).all()
    assert (squares.float().mean(0) - 5 / 9).abs().max() < 0.09


def is_rectangle(patches: Tensor) -> bool:
    """Whether the true patches (rows, columns) are a filled rectangle."""
    down, across = patches.any(1).nonzero(), patches.any(0).nonzero()
    box = patches[down.min() : down.max() + 1, across.min() : across.max() + 1]
    return bool(box.all())


def test_blocks_hide_the_share_of_each_image_and_none_of_some() -> None:
    share = torch.tensor([0.0, 0.1, 0.3, 0.5, 1.0])
    assert block_masking(share, (14, 14)).sum(1).tolist() == [0, 20, 59, 98, 196]
    assert block_masking(torch.full((100,), 0.5), (2, 3)).sum(1).tolist() == [3] * 100


def test_blocks_are_compact_where_random_patches_are_not() -> None:
    def neighbours(hidden: Tensor) -> float:
        """Share of the hidden patches whose neighbour to the right is hidden too."""
        cells = hidden.view(-1, 14, 14)
        return float((cells[:, :, 1:] & cells[:, :, :-1]).sum() / cells[:, :, :-1].sum())

    blocks = block_masking(torch.full((400,), 0.3), (14, 14))
    assert neighbours(blocks) > 0.75
    assert neighbours(random_masking(400, 196, 0.3)[1]) == pytest.approx(0.3, abs=0.03)
    assert (blocks.float().mean(0).view(14, 14)[4:10, 4:10] > 0.2).all()
    assert len(blocks.unique(dim=0)) > 390


def test_few_patches_are_mostly_one_rectangle() -> None:
    """About 0.3 to 3.3 times as high as wide; one that has three patches after rounding is followed by another."""
    hidden = block_masking(torch.full((300,), 4 / 196), (14, 14)).view(-1, 14, 14)
    assert (hidden.flatten(1).sum(1) == 4).all()
    assert sum(is_rectangle(each) for each in hidden) > 130  # of random ones, hardly any
    heights = hidden.any(2).sum(1)
    assert heights.min() == 1
    assert heights.max() == 4


@pytest.mark.parametrize(("grid", "ratio"), [((14, 14), 0.8), ((8, 8), 0.8), ((2, 2), 0.8), ((4, 6), 0.5)])
def test_the_visible_squares_are_as_many_patches_in_each_image(grid: tuple[int, int], ratio: float) -> None:
    visible, hidden = inverse_block_masking(50, grid, ratio, 3)
    assert visible.shape == (50, visible_count(math.prod(grid), ratio))
    assert torch.equal(hidden.sum(1), torch.full((50,), math.prod(grid) - visible.shape[1]))
    assert not hidden.gather(1, visible).any()


def test_what_is_visible_is_in_squares() -> None:
    hidden = inverse_block_masking(200, (14, 14), 1 - 9 / 196, 3)[1].view(-1, 14, 14)
    for each in ~hidden:
        assert is_rectangle(each)
        assert each.any(0).sum() == 3


def test_blocks_to_predict_are_rectangles_of_one_size_within_what_is_asked_for() -> None:
    sizes = set()
    for _ in range(40):
        _, blocks = multiblock_masking(6, (14, 14), 4)
        assert blocks.shape[:2] == (6, 4)
        for places in blocks.flatten(0, 1):
            marked = torch.zeros(196, dtype=torch.bool)
            marked[places] = True
            assert is_rectangle(marked.view(14, 14))
        row, column = blocks[0, 0] // 14, blocks[0, 0] % 14
        sizes.add((int(row.max() - row.min() + 1), int(column.max() - column.min() + 1)))
        assert 0.13 < blocks.shape[2] / 196 < 0.23  # whole rows and columns
    assert len(sizes) > 4
    assert {height > width for height, width in sizes} == {True, False}


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (4, 4), (3, 5), (2, 2)])
def test_the_context_has_nothing_of_what_is_predicted(grid: tuple[int, int]) -> None:
    length = math.prod(grid)
    for _ in range(60):
        context, blocks = multiblock_masking(16, grid, 4)
        assert context.shape[1] >= max(1, length // 20)
        assert (context.diff(dim=1) > 0).all()
        assert not (context[:, :, None] == blocks.flatten(1)[:, None]).any()


def test_context_is_taken_from_everywhere() -> None:
    seen = torch.zeros(196)
    for _ in range(60):
        context, _ = multiblock_masking(32, (14, 14), 4)
        seen += torch.bincount(context.flatten(), minlength=196)
    rows = seen.view(14, 14).sum(1)
    assert rows[1:7].sum() == pytest.approx(rows[7:13].sum().item(), rel=0.1)


def test_images_that_have_hardly_any_context_have_one_block_to_predict() -> None:
    """Blocks of a fifth, sixteen times: no patch would be left."""
    context, blocks = multiblock_masking(8, (8, 8), 16, target_scale=(0.3, 0.3), target_ratio=(1.0, 1.0))
    alone = [len(each.unique()) == blocks.shape[2] for each in blocks]
    assert any(alone)
    assert context.shape[1] >= 3
