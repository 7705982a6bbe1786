import torch

from ssl_toolkit.contrastive.queue import Queue


def numbered(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 2)


def test_starts_with_random_unit_vectors() -> None:
    queue = Queue(50, 3)
    torch.testing.assert_close(queue.vectors.norm(dim=1), torch.ones(50))
    assert len(queue.vectors.unique(dim=0)) == 50
    assert queue.position == 0


def test_newest_take_the_place_of_the_oldest_round_and_round() -> None:
    queue = Queue(5, 2)
    queue.enqueue(numbered(1, 2, 3))
    assert queue.vectors[:3, 0].tolist() == [1, 2, 3]
    assert queue.position == 3
    queue.enqueue(numbered(4, 5, 6))
    assert queue.vectors[:, 1].tolist() == [6, 2, 3, 4, 5]
    assert queue.position == 1
    queue.enqueue(numbered(7, 8, 9, 10))
    assert queue.vectors[:, 0].tolist() == [6, 7, 8, 9, 10]
    assert queue.position == 0


def test_of_a_batch_larger_than_the_queue_the_last_stay_and_the_oldest_goes_first() -> None:
    queue = Queue(3, 2)
    queue.enqueue(numbered(1))
    queue.enqueue(numbered(2, 3, 4, 5, 6))
    assert sorted(queue.vectors[:, 0].tolist()) == [4, 5, 6]
    queue.enqueue(numbered(7))
    assert sorted(queue.vectors[:, 0].tolist()) == [5, 6, 7]


def test_goes_on_from_its_state() -> None:
    queue, restored = Queue(5, 2), Queue(5, 2)
    queue.enqueue(numbered(1, 2, 3))
    restored.load_state_dict(queue.state_dict())
    for each in (queue, restored):
        each.enqueue(numbered(4, 5, 6))
    assert torch.equal(restored.vectors, queue.vectors)


def test_nothing_of_it_is_trained_and_no_graph_is_kept() -> None:
    queue = Queue(3, 2)
    queue.enqueue(torch.ones(2, 2, requires_grad=True) * 2)
    assert not list(queue.parameters())
    assert not queue.vectors.requires_grad


def test_half_precision_is_kept_in_float32() -> None:
    queue = Queue(3, 2)
    queue.enqueue(numbered(1, 2).bfloat16())
    assert queue.vectors.dtype == torch.float32
    assert queue.vectors[:2, 0].tolist() == [1, 2]
