import torch
from torch import Tensor

from ssl_toolkit.contrastive.passes import by_size


def crop(size: int, value: float) -> Tensor:
    return torch.arange(3.0).view(3, 1, 1, 1) * 10 + torch.full((3, 1, size, size), value)


def mean_of(seen: list[tuple[int, ...]], views: Tensor) -> Tensor:
    seen.append(tuple(views.shape))
    return views.flatten(1).mean(1, keepdim=True)


def test_one_answer_a_view_in_their_order() -> None:
    views = [crop(8, 1), crop(8, 2), crop(4, 3), crop(4, 4), crop(4, 5)]
    encoded = by_size(lambda x: mean_of([], x), views)
    assert [each[:, 0].tolist() for each in encoded] == [[v, 10 + v, 20 + v] for v in (1, 2, 3, 4, 5)]


def test_neighbours_of_equal_size_go_together() -> None:
    seen: list[tuple[int, ...]] = []
    by_size(lambda x: mean_of(seen, x), [crop(8, 1), crop(8, 2), crop(4, 3), crop(4, 4), crop(4, 5)])
    assert seen == [(6, 1, 8, 8), (9, 1, 4, 4)]


def test_sizes_that_alternate_keep_their_order() -> None:
    encoded = by_size(lambda x: mean_of([], x), [crop(8, 1), crop(4, 2), crop(8, 3)])
    assert [each[0].item() for each in encoded] == [1, 2, 3]


def test_views_that_are_not_square() -> None:
    seen: list[tuple[int, ...]] = []
    by_size(lambda x: mean_of(seen, x), [torch.rand(2, 1, 4, 8), torch.rand(2, 1, 8, 4)])
    assert seen == [(2, 1, 4, 8), (2, 1, 8, 4)]
