"""Linear SVM: scikit-learn's LinearSVC on standardised features, and a choice that sees the training set alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.scores.linear_probe import fit_softmax, linear_probe
from ssl_toolkit.eval.scores.metrics import calibration_error
from ssl_toolkit.eval.scores.svm import fit_svm, svm


def blobs(count: int, seed: int = 0, width: int = 10, classes: int = 5) -> Features:
    generator = np.random.default_rng(seed)
    label = generator.integers(0, classes, count)
    centre = np.random.default_rng(99).standard_normal((classes, width))
    x = (centre[label] + 1.5 * generator.standard_normal((count, width))) * np.logspace(-2, 2, width) + 5
    return Features(x.astype(np.float32), label, np.arange(count))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("l2", [1.0, 1e-3])
def test_the_same_answers_as_scikit_learn(classes: int, l2: float) -> None:
    train, test = blobs(600, classes=classes), blobs(1000, seed=1, classes=classes)
    ours = fit_svm(train, l2)
    scaler = StandardScaler().fit(train.x.astype(np.float64))
    theirs = LinearSVC(C=1 / (l2 * 600), dual=False, tol=1e-8).fit(scaler.transform(train.x), train.label)
    weight = ours.weight.numpy()[:, 1:] if classes == 2 else ours.weight.numpy()
    np.testing.assert_allclose(weight.T, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
    answer = ours.classes[ours.logits(test.x).argmax(axis=1)]
    assert (answer == theirs.predict(scaler.transform(test.x))).mean() >= 0.998
    assert (ours.ranks(test) < 1).mean() > 1.5 / classes


def test_a_known_value_by_hand() -> None:
    # -1 and 1, a class each: the mean of (1 - w)^2 + l2 w^2 / 2 is least at w = 2 / (2 + l2), the bias 0.
    found = fit_svm(Features(np.array([[-1.0], [1.0]], np.float32), np.array([3, 7]), np.arange(2)), l2=2.0)
    np.testing.assert_allclose(found.weight.numpy(), [[-0.5, 0.5]], atol=1e-3)
    np.testing.assert_allclose(found.bias.numpy(), [0, 0], atol=1e-3)
    assert found.classes.tolist() == [3, 7]


def test_the_penalty_is_chosen_on_the_training_set() -> None:
    train, test = blobs(300), blobs(300, seed=1)
    shuffled = Features(test.x, np.random.default_rng(0).permutation(test.label), test.index)
    one, other = svm(train, test), svm(train, shuffled)
    assert (one["l2"], one["path"]) == (other["l2"], other["path"])
    assert one["top1"] > other["top1"] + 0.2
    assert one["top1"] == (fit_svm(train, one["l2"]).ranks(test) < 1).mean()
    assert one["C"] == pytest.approx(1 / (one["l2"] * 300))
    assert set(one) >= {"top5", "interval", "per_class", "confusion"}


def test_one_class_is_refused() -> None:
    lone = Features(np.ones((4, 2), np.float32), np.full(4, 3), np.arange(4))
    with pytest.raises(UsageError, match="all training images are of class 3"):
        svm(lone, lone)


def test_only_what_gives_probabilities_is_calibrated() -> None:
    train, test = blobs(200), blobs(100, seed=1)
    assert "ece" not in svm(train, test, (1e-2,))
    found = linear_probe(train, test, (1e-2,))
    p = torch.from_numpy(fit_softmax(train, 1e-2).logits(test.x)).softmax(dim=1).numpy()
    assert found["ece"] == pytest.approx(calibration_error(p, test.label), abs=1e-6)
