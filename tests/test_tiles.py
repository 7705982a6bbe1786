import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.tiles import cut_tiles, encode_apart, standardized, tile_and_gap


def where(size: int, count: int = 1) -> Tensor:
    """Images whose two channels are each pixel's row and column."""
    axis = torch.arange(size, dtype=torch.float32)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(count, -1, -1, -1)


def test_tiles_are_whole_pieces_of_their_cells_row_by_row() -> None:
    tiles = cut_tiles(where(31, 5), grid=3, tile=6, gap=2)  # (5, 9, 2, 6, 6)
    top_left = tiles[..., 0, 0]
    assert torch.equal(tiles, top_left[..., None, None] + where(6))
    cell = torch.tensor([[i // 3, i % 3] for i in range(9)]) * 10
    assert ((top_left - cell >= 0) & (top_left - cell <= 10 - 6 - 2)).all()


def test_tiles_are_shifted_by_themselves_over_all_the_room_and_never_touch() -> None:
    torch.manual_seed(0)
    top_left = cut_tiles(where(30, 2000), grid=3, tile=6, gap=2)[..., 0, 0]  # (N, 9, 2)
    shift = top_left % 10
    assert shift.flatten(0, 1).unique(dim=0).shape == (9, 2)  # 0, 1, 2 along both axes
    assert np.abs(np.corrcoef(shift.flatten(1).T.numpy()) - np.eye(18)).max() < 0.1
    rows, columns = top_left.view(-1, 3, 3, 2).unbind(-1)
    for distance in (rows.diff(dim=1), columns.diff(dim=2)):
        assert (distance - 6).min() == 2  # the gap that was asked for, and no less


def test_sizes_of_the_papers() -> None:
    assert tile_and_gap(225, 3, 64 / 75, 1 / 75) == (64, 1)
    assert tile_and_gap(3 * 144, 3, 2 / 3, 34 / 144) == (96, 34)


@pytest.mark.parametrize("side", [27, 32, 48, 64, 96, 128, 224])
def test_tiles_of_every_usual_size_fit_and_leave_a_gap(side: int) -> None:
    for shares in ((64 / 75, 1 / 75), (2 / 3, 34 / 144)):
        tile, gap = tile_and_gap(side, 3, *shares)
        assert tile >= 8
        assert gap >= 1
        assert cut_tiles(torch.rand(2, 3, side, side), 3, tile, gap).shape == (2, 9, 3, tile, tile)
        assert (side // 3 - tile - gap > 0) == (side >= 30)  # room for a shift


def test_views_too_small_for_the_grid_are_refused() -> None:
    with pytest.raises(UsageError, match=r"views of 24 px are too small for a grid of 3x3 .*--views.size 27"):
        tile_and_gap(24, 3, 64 / 75, 1 / 75)
    with pytest.raises(UsageError, match=r"tiles of 9 px with a gap of 2 px do not fit a grid of 3x3 in 30x30"):
        cut_tiles(torch.rand(1, 3, 30, 30), 3, 9, 2)


def test_standardized_tiles_share_no_statistics() -> None:
    tiles = torch.rand(4, 9, 3, 8, 8) * (0.2 + torch.rand(4, 9, 3, 1, 1)) + torch.rand(4, 9, 3, 1, 1)
    found = standardized(tiles)
    torch.testing.assert_close(found.mean(dim=(-2, -1)), torch.zeros(4, 9, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(dim=(-2, -1), correction=0), torch.ones(4, 9, 3), atol=1e-4, rtol=0)
    brighter = tiles.clone()
    brighter[:, 0] = 0.5 * brighter[:, 0] + 0.2
    torch.testing.assert_close(standardized(brighter), found, atol=1e-4, rtol=0)
    assert torch.equal(standardized(torch.full((1, 1, 3, 8, 8), 0.3)).round(decimals=4), torch.zeros(1, 1, 3, 8, 8))


def test_no_batch_norm_hears_of_two_tiles_of_an_image(small_encoder: Encoder) -> None:
    tiles = torch.rand(6, 9, 3, 8, 8)
    other = tiles.clone()
    other[:, 4] = torch.rand(6, 3, 8, 8)
    before, after = (encode_apart(small_encoder.train(), each) for each in (tiles, other))
    same = (before == after).all(dim=2).all(dim=0)
    assert same.tolist() == [place != 4 for place in range(9)]


def test_tiles_too_small_for_the_network_are_refused() -> None:
    encoder = Encoder(EncoderConfig("test_convnext", image_size=64, load_size=64))
    with pytest.raises(UsageError, match=r"test_convnext cannot encode patches of 8x8 px .*--views.size.*--encoder"):
        encode_apart(encoder, torch.rand(2, 9, 3, 8, 8))
