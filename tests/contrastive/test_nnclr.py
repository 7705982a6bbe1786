from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.contrastive.nnclr import NNCLR, nearest
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


def make(encoder: Encoder, **options: Any) -> NNCLR:
    torch.manual_seed(0)
    options = {"hidden_dim": 16, "projection_dim": 4, "queue_size": 9, **options}
    method = NNCLR(encoder, NNCLR.default_views(16), **options)
    for module in method.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of these images, lest all look alike
        method.predictor(method.projector(method.encoder(torch.cat(pair()))))
    return method.eval()


def pair(count: int = 5) -> list[Tensor]:
    return list(torch.rand(2, count, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


def step(method: NNCLR, views: list[Tensor]) -> Tensor:
    n = len(views[0])
    return method.step(views, Batch(views[0], torch.zeros(n), torch.arange(n)))["loss"]


def by_hand(method: NNCLR, views: list[Tensor]) -> Tensor:
    """Algorithm 1 of the paper, without its update of the queue."""
    z = [method.projector(method.encoder(view)) for view in views]
    p = [F.normalize(method.predictor(each), dim=1) for each in z]
    terms = []
    for one, other in ((0, 1), (1, 0)):
        cosine = F.normalize(z[one], dim=1) @ method.queue.vectors.T
        neighbour = torch.stack([method.queue.vectors[row] for row in cosine.argmax(1).tolist()])
        logits = neighbour @ p[other].T / method.temperature
        terms.append(F.cross_entropy(logits, torch.arange(len(logits))))
    return sum(terms, torch.zeros(())) / 2


def test_nearest_rows_by_cosine_whatever_the_length() -> None:
    support = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]), dim=1).requires_grad_()
    z = torch.tensor([[5.0, 4.0], [0.1, -0.001], [-9.0, 3.0]], requires_grad=True)
    found = nearest(z, support)
    assert torch.equal(found, support[[1, 0, 2]])
    assert not found.requires_grad


def test_near_neighbours_are_told_apart_under_autocast() -> None:
    angles = torch.tensor([0.03, 0.02, 0.01, 0.04])
    support = torch.stack([angles.cos(), angles.sin()], dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(torch.tensor([[7.0, 0.0]]), support), support[2:3])


def test_step_is_the_papers_loss_with_the_neighbours_of_the_queue_before_it(small_encoder: Encoder) -> None:
    method = make(small_encoder, temperature=0.3)
    expected = by_hand(method, pair()).item()
    assert step(method, pair()).item() == pytest.approx(expected, abs=1e-5)
    # Had the images been queued first, each would have been its own neighbour: another loss.
    assert abs(by_hand(method, pair()).item() - expected) > 0.1


def test_no_gradient_passes_through_the_neighbour(small_encoder: Encoder) -> None:
    method = make(small_encoder)
    weights = [method.projector[0].weight, method.predictor[0].weight]
    expected, found = (torch.autograd.grad(of(method, pair()), weights) for of in (by_hand, step))
    for ours, constant_neighbour in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, constant_neighbour, atol=1e-6, rtol=1e-3)


def test_the_queue_takes_the_first_views_unit_embeddings(small_encoder: Encoder) -> None:
    method, views = make(small_encoder), pair()
    before = method.queue.vectors.clone()
    step(method, views)
    with torch.no_grad():
        z1 = F.normalize(method.projector(method.encoder(views[0])), dim=1)
    torch.testing.assert_close(method.queue.vectors[:5], z1)
    assert torch.equal(method.queue.vectors[5:], before[5:])
    torch.testing.assert_close(nearest(z1, method.queue.vectors), z1)  # in the next epoch an image may meet itself


def test_the_queue_is_saved(small_encoder: Encoder) -> None:
    method, other = make(small_encoder), make(small_encoder)
    step(method, pair())
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(other.queue.vectors, method.queue.vectors)
    assert other.queue.position == method.queue.position == 5


def test_the_heads_are_the_papers(small_encoder: Encoder) -> None:
    method, hidden = make(small_encoder), [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(layer) for layer in method.projector] == [*hidden, *hidden, nn.Linear, nn.BatchNorm1d]
    assert [type(layer) for layer in method.predictor] == [*hidden, nn.Linear]


@pytest.mark.parametrize("name", ["temperature", "queue_size"])
def test_options_that_are_not_above_zero_are_refused(small_encoder: Encoder, name: str) -> None:
    with pytest.raises(UsageError, match=rf"--method.{name.replace('_', '-')} is 0: it must be above 0"):
        make(small_encoder, **{name: 0})
