"""Linear probe: the minimum that scikit-learn finds, and a choice of penalty that sees the training set alone."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, stratified_split
from ssl_toolkit.eval.scores.linear_probe import fit_softmax, linear_probe
from ssl_toolkit.eval.scores.penalty import STRENGTHS

module = importlib.import_module("ssl_toolkit.eval.scores.linear_probe")  # the package has its function


def make(x: NDArray[np.floating], label: NDArray[np.int64]) -> Features:
    return Features(np.asarray(x, np.float32), np.asarray(label, np.int64), np.arange(len(label)))


def blobs(count: int, seed: int = 0, width: int = 20, classes: int = 7, spread: float = 2.0) -> Features:
    """Classes that overlap, with strongly correlated, shifted and unequally scaled features, sorted by class."""
    generator, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    centre, mix = fixed.standard_normal((classes, width)), fixed.standard_normal((width, width)) / width**0.5
    label = np.sort(generator.integers(0, classes, count))
    x = (centre[label] + spread * generator.standard_normal((count, width))) @ mix
    return make(x * np.logspace(-2, 2, width) + 5, label)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_same_minimum_as_scikit_learn(classes: int, l2: float) -> None:
    train, test = blobs(2000, seed=1, classes=classes), blobs(4000, seed=2, classes=classes)
    ours = fit_softmax(train, l2)
    scaler = StandardScaler().fit(train.x.astype(np.float64))

    def standard(part: Features) -> NDArray[np.float64]:
        return scaler.transform(part.x.astype(np.float64))  # which keeps float32 as float32

    # With two classes scikit-learn fits one column w: the softmax has +-w/2, half the penalty.
    c = 1 / (l2 * len(train)) * (2 if classes == 2 else 1)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(standard(train), train.label)
    weight, bias = ours.weight.numpy(), ours.bias.numpy()
    if classes == 2:
        weight, bias = weight[:, 1:] - weight[:, :1], bias[1:] - bias[:1]
    else:
        bias = bias - bias.mean()
    np.testing.assert_allclose(weight.T, theirs.coef_, atol=1e-3 * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(bias, theirs.intercept_ - (theirs.intercept_.mean() if classes > 2 else 0), atol=2e-3)
    accuracy = float((ours.ranks(test) < 1).mean())
    assert abs(accuracy - theirs.score(standard(test), test.label)) <= 0.002
    assert accuracy > 1.5 / classes


@pytest.mark.parametrize("l2", [0.1, 1e-3])
def test_on_real_images_as_good_as_scikit_learn_at_equal_regularisation(l2: float) -> None:
    digits = load_digits()  # scans of handwriting, pixels for features, some of them constant
    order = np.random.default_rng(0).permutation(len(digits.target))
    train, test = (make(digits.data[rows], digits.target[rows]) for rows in (order[:1200], order[1200:]))
    scaler = StandardScaler().fit(train.x)
    theirs = LogisticRegression(C=1 / (l2 * 1200), tol=1e-8, max_iter=5000)
    theirs.fit(scaler.transform(train.x), train.label)
    accuracy = linear_probe(train, test, [l2])["top1"]
    assert abs(accuracy - theirs.score(scaler.transform(test.x), test.label)) <= 0.002
    assert accuracy > 0.9


@pytest.mark.parametrize(("count", "width", "l2"), [(500, 20, 1e-3), (40, 300, 1e-2)])
def test_the_gradient_of_what_the_docstring_says_is_zero(count: int, width: int, l2: float) -> None:
    train = blobs(count, width=width)
    found = fit_softmax(train, l2)
    x = torch.from_numpy(train.x).double()
    x = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    weight, bias = found.weight.requires_grad_(), found.bias.requires_grad_()
    entropy = torch.nn.functional.cross_entropy(x @ weight + bias, torch.from_numpy(train.label))
    for slope in torch.autograd.grad(entropy + l2 / 2 * weight.square().sum(), (weight, bias)):
        assert slope.abs().max() < 1e-4
    for slope in torch.autograd.grad(2 * entropy.detach() + 2 * l2 * weight.square().sum(), (weight,)):
        assert slope.abs().max() > 1e-3  # the bound can tell a wrong penalty


def test_a_known_value_by_hand() -> None:
    # One feature, -1 and 1, a class each: minimise log(1 + e^-2w) + l2 w^2 over +-w; its slope is zero where
    # l2 w = 1 / (1 + e^2w), so w = .5 for l2 = 2 / (1 + e).
    train = make(np.array([[-1.0], [1.0]]), np.array([0, 1]))
    found = fit_softmax(train, 2 / (1 + np.e))
    np.testing.assert_allclose(found.weight.numpy(), [[-0.5, 0.5]], atol=1e-4)
    np.testing.assert_allclose(found.bias.numpy(), [0, 0], atol=1e-4)
    np.testing.assert_allclose(found.logits(np.array([[3.0]], np.float32)), [[-1.5, 1.5]], atol=1e-3)


def test_top1_top5_and_the_chosen_strength() -> None:
    train, test = blobs(1500, seed=1), blobs(1500, seed=2)
    found = linear_probe(train, test)
    rank = fit_softmax(train, found["l2"]).ranks(test)
    assert found["top1"] == (rank < 1).mean()
    assert found["top5"] == (rank < 5).mean()
    assert 0.5 < found["top1"] < found["top5"] < 1
    tried = [row["l2"] for row in found["path"]]
    assert tried == list(STRENGTHS[: len(tried)])  # from strong to weak
    best = max(row["top1"] for row in found["path"])
    assert found["l2"] == next(row["l2"] for row in found["path"] if row["top1"] == best)


def test_every_strength_is_scored_on_the_part_that_was_held_out() -> None:
    train = blobs(600)
    fit, held = (train.select(rows) for rows in stratified_split(train.label, 0.25, seed=4))
    found = linear_probe(train, train, (0.1, 10.0, 1.0), held_out=0.25, seed=4)
    assert [row["l2"] for row in found["path"]] == [10, 1, 0.1]
    for row in found["path"]:
        # One image of 150 may tip over: the path stops earlier on its way to the minimum.
        assert row["top1"] == pytest.approx((fit_softmax(fit, row["l2"]).ranks(held) < 1).mean(), abs=1.01 / 150)


def test_the_choice_never_sees_the_test_set() -> None:
    train, test = blobs(400, seed=1), blobs(400, seed=2)
    shuffled = make(test.x[::-1] * 3, np.random.default_rng(0).permutation(test.label))
    one, other = linear_probe(train, test), linear_probe(train, shuffled)
    assert (one["l2"], one["path"]) == (other["l2"], other["path"])
    assert one["top1"] > other["top1"] + 0.3


def test_the_choice_is_never_scored_on_what_was_fitted() -> None:
    train = make(np.random.default_rng(0).standard_normal((300, 400)), np.arange(300) % 2)  # nothing to learn
    found = linear_probe(train, train)
    assert found["top1"] > 0.95  # more features than images: the training set is learnt by heart
    assert all(row["top1"] < 0.7 for row in found["path"])


def test_statistics_come_from_the_part_that_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = module.moments

    def spy(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(x.numpy().copy())
        return real(x)

    monkeypatch.setattr(module, "moments", spy)
    train = blobs(200, seed=1)
    linear_probe(train, blobs(100, seed=2))
    fit, _ = stratified_split(train.label, 0.2, seed=0)
    assert len(seen) == 2
    np.testing.assert_array_equal(seen[0], train.x[fit])
    np.testing.assert_array_equal(seen[1], train.x)


def test_shift_scale_and_constant_features_change_nothing() -> None:
    train, test = blobs(800, seed=1), blobs(800, seed=2)

    def changed(part: Features) -> Features:
        constant = np.full((len(part), 1), 0.1)
        noise = 1000 + 1e-5 * part.x[:, :1]  # below what float32 holds beside 1000
        return make(np.concatenate([part.x * 100 - 7, constant, noise], axis=1), part.label)

    plain, other = fit_softmax(train, 1e-3), fit_softmax(changed(train), 1e-3)
    np.testing.assert_allclose(other.logits(changed(test).x), plain.logits(test.x), atol=0.01)


def test_the_path_ends_when_it_only_gets_worse() -> None:
    train = blobs(60, width=200, spread=4)
    found = linear_probe(train, train)
    best = [row["l2"] for row in found["path"]].index(found["l2"])
    assert len(found["path"]) == best + 4 < len(STRENGTHS)


def test_of_equal_scores_the_strongest_penalty_wins() -> None:
    far_apart = blobs(200, spread=0.01)
    found = linear_probe(far_apart, far_apart, (1e-3, 1e-1, 1e-2))
    assert [row["top1"] for row in found["path"]] == [1, 1, 1]
    assert found["l2"] == 0.1


def test_one_strength_needs_no_choice() -> None:
    one_each = make(np.eye(4), np.arange(4))
    found = linear_probe(one_each, one_each, [0.1])
    assert (found["top1"], found["top5"], found["l2"], found["path"]) == (1, 1, 0.1, [])
    with pytest.raises(UsageError, match="no class has two"):
        linear_probe(one_each, one_each)


def test_labels_need_not_be_consecutive() -> None:
    train, test = blobs(300, seed=1), blobs(300, seed=2)
    renamed = [make(part.x, part.label * 1000 + 5) for part in (train, test)]
    assert linear_probe(*renamed) == linear_probe(train, test)
    np.testing.assert_array_equal(fit_softmax(renamed[0], 1).classes, np.arange(7) * 1000 + 5)


@pytest.mark.parametrize(("name", "value"), [("BLOCK", 700), ("_WIDEST_BASIS", 4)])
def test_pieces_and_the_basis_do_not_move_the_minimum(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    train = blobs(500)
    plain = fit_softmax(train, 1e-3)
    monkeypatch.setattr(module, name, value)
    other = fit_softmax(train, 1e-3)
    np.testing.assert_allclose(other.weight.numpy(), plain.weight.numpy(), atol=2e-3)
    np.testing.assert_allclose(other.logits(train.x), plain.logits(train.x), atol=2e-2)


def test_the_basis_saves_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    train = blobs(2000, width=60, spread=8)
    steps = []
    real = module._Problem._objective

    def spy(*args: object) -> object:
        steps[-1] += 1
        return real(*args)

    monkeypatch.setattr(module._Problem, "_objective", spy)
    for widest in (4096, 4):
        monkeypatch.setattr(module, "_WIDEST_BASIS", widest)
        steps.append(0)
        fit_softmax(train, 1e-4)
    assert 5 < steps[0] < 0.25 * steps[1]  # 20 and 185


def test_few_rows_of_wide_features_cost_a_matrix_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    train, sides = blobs(40, width=300), []
    real = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sides.append(len(matrix)) or real(matrix))
    few = fit_softmax(train, 1e-2)
    monkeypatch.setattr(module, "_WIDEST_BASIS", 4)  # neither the rows' span nor a basis
    whole = fit_softmax(train, 1e-2)
    assert sides == [40]
    np.testing.assert_allclose(few.weight.numpy(), whole.weight.numpy(), atol=2e-3)


def test_arguments_stay_as_they_were() -> None:
    train, test = blobs(200, seed=1), blobs(100, seed=2)
    before = train.x.copy(), test.x.copy()
    for part in (train, test):
        part.x.flags.writeable = False  # as a memory-mapped file is
    linear_probe(train, test)
    np.testing.assert_array_equal(train.x, before[0])
    np.testing.assert_array_equal(test.x, before[1])


def test_wrong_arguments_name_what_they_got() -> None:
    train = blobs(50)
    for wrong in ((), (0.0,), (1.0, -1.0), (float("nan"),)):
        with pytest.raises(UsageError, match="strengths of the penalty must be above 0"):
            linear_probe(train, train, wrong)
    with pytest.raises(UsageError, match="50 of 50 images of the test set have no label"):
        linear_probe(train, make(train.x, np.full(50, -1)))
    with pytest.raises(UsageError, match="in the test set but not in the training set: labels 8"):
        linear_probe(train, make(train.x[:1], np.array([8])))
