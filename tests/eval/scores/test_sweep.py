"""Sweep: a head in the batch is the head that SGD trains alone, and the best is chosen on the training set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, stratified_split
from ssl_toolkit.eval.scores.linear_probe import fit_softmax
from ssl_toolkit.eval.scores.sweep import LEARNING_RATES, WEIGHT_DECAYS, sweep, train_heads
from ssl_toolkit.randomness import numpy_generator

PAIRS = [(0.01, 0.0), (1.0, 0.01), (0.1, 0.1)]


def make(x: NDArray[np.floating], label: NDArray[np.int64]) -> Features:
    return Features(np.asarray(x, np.float32), np.asarray(label, np.int64), np.arange(len(label)))


def blobs(count: int, seed: int = 0, width: int = 12, classes: int = 5, spread: float = 1.5) -> Features:
    """Classes that overlap, on shifted and unequally scaled features."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, classes, count)
    centre = np.random.default_rng(99).standard_normal((classes, width))
    x = centre[label] + spread * generator.standard_normal((count, width))
    return make(x * np.logspace(-2, 2, width) + 5, label)


def test_a_head_in_the_batch_is_the_head_alone() -> None:
    train = blobs(300)
    together = train_heads(train, PAIRS, batch_size=64, least_steps=100)
    for number, pair in enumerate(PAIRS):
        alone = train_heads(train, [pair], batch_size=64, least_steps=100)[0]
        torch.testing.assert_close(together[number].weight, alone.weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together[number].bias, alone.bias, rtol=1e-4, atol=1e-6)
    assert (together.weight[..., 0] - together.weight[..., 1]).abs().max() > 0.1


@pytest.mark.parametrize(("lr", "decay"), PAIRS)
def test_a_head_is_what_pytorchs_sgd_trains(lr: float, decay: float) -> None:
    train, batch, epochs = blobs(150), 64, 9  # an epoch is two batches, 22 images are left out of it
    ours = train_heads(train, [(lr, decay)], batch_size=batch, epochs=epochs, least_steps=1, seed=3)[0]
    x = torch.from_numpy((train.x - train.x.mean(axis=0)) / train.x.std(axis=0))
    head = torch.nn.Linear(12, 5)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    groups = [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias]}]
    sgd = torch.optim.SGD(groups, lr * batch / 256, momentum=0.9)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 2 * epochs)
    for epoch in range(epochs):
        order = numpy_generator(3, "order", epoch).permutation(150)
        for rows in (order[:64], order[64:128]):
            sgd.zero_grad()
            F.cross_entropy(head(x[rows]), torch.from_numpy(train.label[rows])).backward()
            sgd.step()
            course.step()
    torch.testing.assert_close(ours.weight.T, head.weight.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.bias, head.bias.detach(), rtol=1e-3, atol=1e-5)


def test_weight_decay_leads_to_the_minimum_of_the_penalised_regression() -> None:
    train = blobs(256)
    best = fit_softmax(train, 0.05)
    found = train_heads(train, [(1.0, 0.05)], batch_size=256, least_steps=600)[0]
    np.testing.assert_allclose(found.weight.numpy(), best.weight.numpy(), atol=1e-3)
    np.testing.assert_allclose(found.bias.numpy(), (best.bias - best.bias.mean()).numpy(), atol=1e-3)


def test_accuracy_of_each_head_is_that_of_its_classifier() -> None:
    train, test = blobs(300), blobs(200, seed=1)
    heads = train_heads(train, PAIRS, least_steps=20)
    shares = heads.top1(test)
    assert shares.tolist() == [(heads[number].ranks(test) < 1).mean() for number in range(3)]
    assert shares.min() > 0.4


def test_a_head_that_diverged_has_no_accuracy_and_does_not_touch_the_others() -> None:
    train = blobs(300)
    heads = train_heads(train, [(1e38, 1.0), (0.1, 0.0)], least_steps=50)
    assert not heads.weight[..., 0].isfinite().all()
    shares = heads.top1(train)
    assert shares[0] == 0
    assert shares[1] == train_heads(train, [(0.1, 0.0)], least_steps=50).top1(train)[0] > 0.5
    found = sweep({"x": train}, {"x": train}, [0.1, 1e38], [1.0], least_steps=50)
    assert found["chosen"]["lr"] == 0.1


def test_the_best_of_all_inputs_is_chosen_on_the_part_that_was_held_out() -> None:
    train, test = blobs(200), blobs(150, seed=1)
    noise = [
        make(np.random.default_rng(len(part)).standard_normal((len(part), 7)), part.label) for part in (train, test)
    ]
    found = sweep(
        {"noise": noise[0], "good": train}, {"noise": noise[1], "good": test}, [0.01, 1.0], [0.0, 0.1], least_steps=100
    )
    assert found["chosen"]["input"] == "good"
    assert (found["heads"], [row["input"] for row in found["inputs"]]) == (8, ["noise", "good"])
    fit, held = (train.select(rows) for rows in stratified_split(train.label, 0.2, seed=0))
    shares = train_heads(fit, [(0.01, 0.0), (0.01, 0.1), (1.0, 0.0), (1.0, 0.1)], least_steps=100).top1(held)
    row = found["inputs"][1]
    assert row["top1"] == shares.max()
    assert shares[[0.01, 1.0].index(row["lr"]) * 2 + [0.0, 0.1].index(row["weight_decay"])] == shares.max()
    chosen = (found["chosen"]["lr"], found["chosen"]["weight_decay"])
    assert found["top1"] == train_heads(train, [chosen], least_steps=100).top1(test)[0]
    assert set(found) >= {"top5", "interval", "per_class", "confusion"}


def test_the_choice_never_sees_the_test_set() -> None:
    train, test = blobs(120), blobs(150, seed=1)
    shuffled = make(test.x, np.random.default_rng(0).permutation(test.label))
    one, other = (
        sweep({"x": train}, {"x": part}, [0.01, 1.0], [0.0, 0.1], least_steps=100) for part in (test, shuffled)
    )
    assert (one["chosen"], one["inputs"]) == (other["chosen"], other["inputs"])
    assert one["top1"] > other["top1"] + 0.2


def test_forty_heads_an_input() -> None:
    assert len(LEARNING_RATES) * len(WEIGHT_DECAYS) == 40


def test_labels_need_not_be_consecutive_and_arguments_stay_as_they_were() -> None:
    train = blobs(120)
    before = train.x.copy()
    train.x.flags.writeable = False  # as a memory-mapped file is
    renamed = make(train.x, train.label * 1000 + 5)
    one, other = (train_heads(part, PAIRS, least_steps=10) for part in (train, renamed))
    assert torch.equal(one.weight, other.weight)
    np.testing.assert_array_equal(other.classes, np.arange(5) * 1000 + 5)
    np.testing.assert_array_equal(train.x, before)


def test_wrong_arguments_name_what_they_got() -> None:
    train = {"x": blobs(60)}
    for rates, decays, words in (
        ([], [0.0], "learning rates must be above 0"),
        ([0.1, 0.0], [0.0], r"learning rates must be above 0, got \[0.1, 0.0\]"),
        ([0.1], [-1.0], r"weight decays must be at least 0, got \[-1.0\]"),
    ):
        with pytest.raises(UsageError, match=words):
            sweep(train, train, rates, decays)
    with pytest.raises(UsageError, match="60 of 60 images of the test set have no label"):
        sweep(train, {"x": make(train["x"].x, np.full(60, -1))})
