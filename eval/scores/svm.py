"""Linear SVM: one class against the rest on frozen, standardised features, its penalty chosen on the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, check_labelled
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier, copied, moments, standardised
from ssl_toolkit.eval.scores.penalty import STRENGTHS, choose_strength


def svm(
    train: Features,
    test: Features,
    strengths: Sequence[float] = STRENGTHS[::2],
    *,
    held_out: float = 0.2,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy of the best linear SVM on frozen features.

    The penalty is chosen as for `linear_probe`, the test set is read once. A class's score is its distance to its
    hyperplane, which is not calibrated between classes: top-5 means less than top-1.

    Args:
        train: Labelled features, (N, D).
        test: Labelled features, (M, D), of classes that `train` knows.
        strengths: Of the penalty in `fit_svm`, each above 0. With one there is nothing to choose.
        held_out: Share of each class to choose on, in (0, 1).
        seed: Of the split.

    Returns:
        What `accuracies` says of the test set; `l2`, the strength that was chosen, and the `C` that scikit-learn calls
        it; and `path`, see `choose_strength`.

    Raises:
        UsageError: A label is missing, a class is in `test` only, there is one class, no class has two images, or a
            strength is not above 0.

    Source: the protocol of Goyal et al. 2019, Scaling and Benchmarking Self-Supervised Visual Representation Learning,
        section 5.1, on standardised features.

    Examples:
        >>> label = np.arange(2).repeat(4)
        >>> x = np.eye(2, dtype=np.float32)[label]
        >>> train, test = Features(x, label, np.arange(8)), Features(x[::4], label[::4], np.arange(2))
        >>> svm(train, test, strengths=(0.1,))["top1"]
        1.0
    """
    check_labelled(train, test)
    l2, path = choose_strength(train, strengths, lambda fit: lambda l2: fit_svm(fit, l2), held_out, seed)
    return {**fit_svm(train, l2).accuracies(test, calibrated=False), "l2": l2, "C": 1 / (l2 * len(train)), "path": path}


def fit_svm(train: Features, l2: float) -> LinearClassifier:
    """Minimise mean squared hinge loss + l2 / 2 * sum of squared weights and biases, class by class against the rest.

    This is scikit-learn's ``LinearSVC(C=1 / (l2 * N))`` (LIBLINEAR), in whose penalty the bias is. It copies the
    features in float64.

    Args:
        train: Labelled features, (N, D).
        l2: Strength of the penalty, above 0.

    Raises:
        UsageError: There is one class only.
    """
    from sklearn.svm import LinearSVC  # takes a second to import

    classes = np.unique(train.label)
    if len(classes) < 2:
        raise UsageError(f"an SVM tells classes apart, and all training images are of class {classes[0]}")
    x = copied(train.x, "cpu")
    mean, std = moments(x)
    # The primal problem: a trust-region Newton method without a random order.
    model = LinearSVC(C=1 / (l2 * len(train)), dual=False, tol=1e-4, max_iter=10_000)
    model.fit(standardised(x, mean, std).numpy(), train.label)
    weight, bias = model.coef_, model.intercept_
    if len(classes) == 2:  # one hyperplane, seen from both sides
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return LinearClassifier(torch.from_numpy(weight.T.copy()), torch.from_numpy(bias), mean, std, classes)
