import itertools
import math

import numpy as np
import pytest
import torch

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.pretext.jigsaw import Jigsaw, permutation_set, reorder


def distances(orders: np.ndarray) -> np.ndarray:
    rows, columns = np.triu_indices(len(orders), 1)
    return (orders[rows] != orders[columns]).sum(axis=1)


@pytest.mark.parametrize(("tiles", "count"), [(4, 24), (9, 24), (9, 100)])
def test_permutations_are_different_orders_of_all_tiles(tiles: int, count: int) -> None:
    orders = permutation_set(tiles, count)
    assert orders.shape == (count, tiles)
    assert (np.sort(orders, axis=1) == np.arange(tiles)).all()
    assert len(np.unique(orders, axis=0)) == count


def test_permutations_are_as_far_apart_as_can_be() -> None:
    assert distances(permutation_set(9, 9)).min() == 9  # a Latin square: no two agree anywhere
    random = np.stack([np.random.default_rng(seed).permutation(9) for seed in range(100)])
    assert distances(permutation_set(9, 100)).min() == 6 > distances(random).min() + 2


def test_each_permutation_is_the_farthest_from_those_before_it() -> None:
    """Against the definition, slowly."""
    everyone = list(itertools.permutations(range(4)))
    chosen = [everyone[0]]
    for _ in range(11):
        far = [[sum(a != b for a, b in zip(one, other, strict=True)) for other in chosen] for one in everyone]
        best = max(range(24), key=lambda i: (min(far[i]), sum(far[i]), -i))
        chosen.append(everyone[best])
    assert permutation_set(4, 12).tolist() == [list(order) for order in chosen]


def test_permutations_are_the_same_in_every_run_and_in_the_checkpoint(small_encoder: Encoder) -> None:
    first = permutation_set(9, 24)
    permutation_set.cache_clear()
    np.random.seed(1)
    assert np.array_equal(first, permutation_set(9, 24))
    stored = Jigsaw(small_encoder, Jigsaw.default_views(32), permutations=24).state_dict()["permutation"]
    assert torch.equal(stored, torch.from_numpy(first.copy()))


def test_tiles_come_in_the_order_that_is_named() -> None:
    torch.manual_seed(0)
    permutations = torch.from_numpy(permutation_set(9, 24).copy())
    tiles = torch.arange(9).view(1, 9, 1, 1, 1) + 10 * torch.arange(300).view(300, 1, 1, 1, 1)
    moved, which = reorder(tiles, permutations)
    assert torch.equal(moved[:, :, 0, 0, 0] % 10, permutations[which])
    assert torch.equal(moved[:, :, 0, 0, 0] // 10, torch.arange(300)[:, None].expand(-1, 9))
    assert len(which.unique()) == 24


def test_the_network_sees_tiles_of_mean_zero_and_deviation_one(small_encoder: Encoder) -> None:
    method = Jigsaw(small_encoder, Jigsaw.default_views(32), permutations=10)
    seen: list[torch.Tensor] = []
    method.encoder.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    method.step([torch.rand(6, 3, 32, 32) * 0.2 + 0.6], None)  # type: ignore[arg-type]
    assert [tile.shape for tile in seen] == [(6, 3, 8, 8)] * 9
    for tile in seen:
        assert tile.mean(dim=(2, 3)).abs().max() < 1e-4
        assert (tile.std(dim=(2, 3), correction=0) - 1).abs().max() < 1e-3


def test_first_loss_is_that_of_chance(small_encoder: Encoder) -> None:
    torch.manual_seed(0)
    method = Jigsaw(small_encoder, Jigsaw.default_views(32), permutations=50)
    loss = method.step([torch.rand(64, 3, 32, 32)], None)["loss"]  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(math.log(50), abs=0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"permutations": 1}, r"--method.permutations is 1: with a grid of 3 it is from 2 to 2000"),
        ({"permutations": 25, "grid": 2}, r"--method.permutations is 25: with a grid of 2 it is from 2 to 24"),
        ({"grid": 4}, r"--method.grid is 4: it must be 2 or 3"),
    ],
)
def test_what_cannot_be_is_refused(small_encoder: Encoder, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Jigsaw(small_encoder, Jigsaw.default_views(32), **options)
