"""The attentive probe: what it computes, what it can find that a mean cannot, and that nothing is read too early."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.scores.attentive import AttentiveProbe, attentive

FAST = {"least_steps": 120, "epochs": 1, "learning_rates": (0.01,)}


def features(x: NDArray[np.float32], label: NDArray[np.int64]) -> Features:
    return Features(x.reshape(len(x), -1).astype(np.float32), label, np.arange(len(x)))


def marked(count: int, tokens: int = 6, width: int = 8) -> Features:
    """One token of each image bears a mark, and beside it the class's sign; in all others the sign is noise."""
    rng = np.random.default_rng(count)
    label = rng.integers(0, 2, count)
    x = 0.1 * rng.standard_normal((count, tokens, width))
    x[:, :, 1] = 3 * rng.choice([-1, 1], (count, tokens))
    place = rng.integers(0, tokens, count)
    x[np.arange(count), place, 0] = 4
    x[np.arange(count), place, 1] = 3 * (2 * label - 1)
    return features(x, label)


def test_it_is_cross_attention_of_one_query() -> None:
    torch.manual_seed(0)
    width, heads, tokens = 8, 2, torch.randn(3, 5, 8, dtype=torch.float64)
    probe = AttentiveProbe(width, 4, heads).double()
    torch.nn.init.normal_(probe.linear.weight)
    # torch's own multi-head attention of a query q with the keys' matrix W: q . W x = (W' q) . x.
    attention = torch.nn.MultiheadAttention(width, heads, bias=False, batch_first=True).double()
    q, depth = torch.randn(heads, width // heads, dtype=torch.float64), width // heads
    w_k = attention.in_proj_weight[width : 2 * width].view(heads, depth, width)
    with torch.no_grad():
        attention.in_proj_weight[:width] = torch.eye(width)
        attention.in_proj_weight[2 * width :] = probe.value.transpose(1, 2).reshape(width, width)
        attention.out_proj.weight.copy_(torch.eye(width))
        probe.query.copy_(torch.einsum("he,hed->hd", q, w_k) / depth**0.5)
    expected, weight = attention(q.view(1, 1, width).expand(3, -1, -1), tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(probe.attention(tokens), weight[:, :, 0])
    torch.testing.assert_close(probe(tokens), probe.linear(expected[:, 0]))
    assert torch.autograd.gradcheck(probe, (tokens.requires_grad_(),))


def test_it_finds_the_token_that_counts_and_the_mean_does_not() -> None:
    train, test = marked(1200), marked(300)
    found = attentive(train, test, 8, **FAST)
    assert found["top1"] > 0.95
    assert found["tokens"] == 6
    assert 0 <= found["ece"] < 0.2
    mean = [features(each.x.reshape(-1, 6, 8).mean(axis=1), each.label) for each in (train, test)]
    assert attentive(*mean, 8, **FAST)["top1"] < 0.85


def test_learning_rates_are_chosen_on_the_training_set_and_runs_repeat() -> None:
    train, test = marked(600), marked(200)
    rates = {"learning_rates": (1e-7, 0.01), "least_steps": 40, "epochs": 1}
    found = attentive(train, test, 8, **rates)
    assert found["lr"] == 0.01
    assert found == attentive(train, test, 8, **rates)
    assert found["top1"] == attentive(train, test, 8, **{**rates, "learning_rates": (0.01,)})["top1"]  # as if alone
    flipped = features(test.x, 1 - test.label)
    assert attentive(train, flipped, 8, **rates)["lr"] == 0.01
    assert attentive(train, flipped, 8, **rates)["top1"] == pytest.approx(1 - found["top1"])


def test_the_scale_of_the_tokens_does_not_matter() -> None:
    train, test = marked(400), marked(100)
    found = attentive(train, test, 8, **FAST)
    moved = [features(0.001 * each.x + 5, each.label) for each in (train, test)]
    assert attentive(*moved, 8, **FAST)["top1"] == pytest.approx(found["top1"], abs=0.02)
    constant = [features(np.concatenate([each.x.reshape(-1, 6, 8), np.full((len(each), 6, 1), 0.3)], 2), each.label)
                for each in (train, test)]  # fmt: skip
    assert attentive(*constant, 9, **FAST)["top1"] > 0.9


def test_numbers_out_of_range() -> None:
    with pytest.raises(UsageError, match="learning rates must be above 0"):
        attentive(marked(20), marked(10), 8, (0.0,))
