"""Linear classifiers: standardisation, logits and accuracies with known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.scores import linear_classifier as module
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier, moments
from ssl_toolkit.eval.scores.linear_probe import fit_softmax


def test_standardisation_known_values() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((40000, 3)).astype(np.float32) * [2, 1e-6, 1] + [1000, 0, 0]
    x[:, 2] = 0.1  # constant
    mean, std = moments(torch.from_numpy(x.astype(np.float32)))
    x = x.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), x.mean(axis=0), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(std.numpy()[:2], x.std(axis=0)[:2], rtol=1e-6)
    assert std[2] == 1


@pytest.mark.parametrize("block", [1 << 22, 4])
def test_logits_ranks_and_accuracies_by_hand(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    weight = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    classes = np.array([5, 6, 9])
    found = LinearClassifier(
        weight, torch.tensor([0.0, 0.5, 0.0]), torch.tensor([1.0, 0]), torch.tensor([2.0, 1]), classes
    )
    x = np.array([[5, 0], [1, 1], [-3, 1], [1, 0]], np.float32)
    assert found.logits(x).tolist() == [[2, 0.5, -2], [0, 2.5, 0], [-2, 2.5, 2], [0, 0.5, 0]]
    test = Features(x, np.array([5, 6, 9, 9]), np.arange(4))
    assert found.ranks(test).tolist() == [0, 0, 1, 2]
    accuracies = found.accuracies(test)
    assert (accuracies["top1"], accuracies["per_class"]) == (0.5, pytest.approx(2 / 3))
    assert accuracies["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 2, 0]]
    assert x[0].tolist() == [5, 0]


def test_a_layer_gives_the_same_logits_and_the_lowest_to_classes_that_are_unknown() -> None:
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(60, 5)) * [1, 10, 0.1, 3, 0] + [0, 5, 1, -2, 7]).astype(np.float32)
    found = fit_softmax(Features(x, np.array([0, 1, 3])[np.arange(60) % 3], np.arange(60)), 0.1)
    with torch.no_grad():
        logits = found.layer(5)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits[:, [0, 1, 3]], found.logits(x), atol=1e-4)
    np.testing.assert_allclose(logits[:, [2, 4]], float(logits[0, 2]))
