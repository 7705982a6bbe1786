"""Attentive probe: one learned query looks at an encoder's tokens, and a linear layer at what it saw.

With one query, the keys of a head need no matrix: ``q . (W_k x)`` is ``(W_k' q) . x``, one learned vector a head. And
values can wait until the tokens are averaged. So a probe costs two products with the tokens, not two a token and
feature, and heads of several learning rates are trained on the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, check_labelled, stratified_split
from ssl_toolkit.eval.scores.linear_classifier import judged
from ssl_toolkit.randomness import numpy_generator
from ssl_toolkit.schedules import cosine

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates tried by default, for AdamW."""

HEADS, EPOCHS, STEPS, BATCH = 8, 10, 1000, 256  # epochs, or more until there were as many steps
_DECAY = 0.05
_BLOCK = 1024  # images at once where nothing is learnt


class AttentiveProbe(nn.Module):
    """Cross-attention of one query to tokens, then a linear layer.

    Args:
        width: D, features of a token.
        classes: K.
        heads: Heads of the attention; each reads all features and gives D / heads, rounded up.

    Source: Bardes et al. 2024 (V-JEPA), section 4.2 and appendix D, without the block's MLP; El-Nouby et al. 2024
        (AIM), whose attentive probe is this. The matrix behind the heads is one with the linear layer's.
    """

    def __init__(self, width: int, classes: int, heads: int = HEADS) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(heads, width))
        self.value = nn.Parameter(torch.randn(heads, width, -(-width // heads)) / width**0.5)
        self.linear = nn.Linear(self.value.shape[0] * self.value.shape[2], classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def attention(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, D) to what each head pays to each of them: (N, heads, T), summing to 1 over T."""
        return (tokens @ self.query.T).softmax(dim=1).transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Standardised tokens (N, T, D) to logits (N, K)."""
        seen = self.attention(tokens) @ tokens  # (N, heads, D)
        values = torch.einsum("nhd,hde->nhe", seen, self.value)
        logits: Tensor = self.linear(values.flatten(1))
        return logits


def attentive(
    train: Features,
    test: Features,
    width: int,
    learning_rates: Sequence[float] = LEARNING_RATES,
    *,
    epochs: int = EPOCHS,
    least_steps: int = STEPS,
    held_out: float = 0.2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Accuracy of the best attentive probe on frozen tokens.

    A probe a learning rate is trained on a stratified part of the training set; the one that does best on the rest, of
    equals the slowest, is trained again on all of it and scored on the test set, which is read this once.

    Args:
        train: Labelled tokens, one behind the other in a row: (N, T D).
        test: Labelled tokens, (M, T D), of classes that `train` knows.
        width: D.
        learning_rates: Of AdamW, each above 0; they fall along half a cosine.
        epochs: Passes over the images.
        least_steps: Least number of steps of 256 images.
        held_out: Share of each class to choose on, in (0, 1).
        seed: Of the split, of the first weights and of the order of the images.
        device: Where to compute. Batches are read from where `train` is.

    Returns:
        What `accuracies` says of the test set, such as `top1` in [0, 1]; `ece`; the `lr` that was chosen and the number
        of `tokens`.

    Raises:
        UsageError: A label is missing, a class is in `test` only, no class has two images, or a number is out of range.
    """
    check_labelled(train, test)
    rates = sorted(learning_rates)
    if not rates or not rates[0] > 0 or epochs < 1:
        raise UsageError(f"learning rates must be above 0 and epochs at least 1, got {rates} and {epochs}")
    problem = _Problem(train, width, epochs, least_steps, seed, torch.device(device))
    chosen = rates[0]
    if len(rates) > 1:
        fit, choose = stratified_split(train.label, held_out, seed)
        target = problem.target[choose]
        probes = problem.train(fit, rates)
        right = [(problem.logits(each, train, choose).argmax(axis=1) == target).mean() for each in probes]
        chosen = rates[int(np.argmax(right))]
    (probe,) = problem.train(np.arange(len(train)), [chosen])
    logits = problem.logits(probe, test, np.arange(len(test)))
    found = judged(logits, np.searchsorted(problem.classes, test.label))
    return {**found, "lr": chosen, "tokens": train.x.shape[1] // width}


class _Problem:
    """Tokens to learn from, standardised feature by feature over all images and positions."""

    def __init__(
        self, features: Features, width: int, epochs: int, least_steps: int, seed: int, device: torch.device
    ) -> None:
        self.features, self.width, self.epochs, self.least_steps = features, width, epochs, least_steps
        self.seed, self.device = seed, device
        self.classes, self.target = np.unique(features.label, return_inverse=True)
        total = square = torch.zeros(width, dtype=torch.float64)
        for start in range(0, len(features), _BLOCK):
            x = torch.from_numpy(np.array(features.x[start : start + _BLOCK])).double().view(-1, width)
            total, square = total + x.sum(dim=0), square + x.square().sum(dim=0)
        count = features.x.size / width
        mean = total / count
        std = (square / count - mean.square()).clamp(min=0).sqrt()
        self.mean = mean.float().to(device)
        self.std = std.masked_fill(std <= 1e-4 * mean.abs(), 1).float().to(device)  # what is left is rounding

    def tokens(self, features: Features, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """Standardised tokens (n, T, D) of some images."""
        x = torch.from_numpy(features.x[rows]).to(self.device)
        return (x.view(len(rows), -1, self.width) - self.mean) / self.std

    def train(self, rows: np.ndarray[Any, np.dtype[np.int64]], rates: Sequence[float]) -> list[AttentiveProbe]:
        """A probe a learning rate, each as if it were trained alone: from the same weights on the same batches."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            first = AttentiveProbe(self.width, len(self.classes))
        probes = [AttentiveProbe(self.width, len(self.classes)) for _ in rates]
        for probe in probes:
            probe.load_state_dict(first.state_dict())
            probe.to(self.device)
        groups = [{"params": list(each.parameters()), "lr": lr} for each, lr in zip(probes, rates, strict=True)]
        optimizer = torch.optim.AdamW(groups, weight_decay=_DECAY)
        batch = min(BATCH, len(rows))
        epoch_steps = len(rows) // batch
        steps = max(self.epochs * epoch_steps, self.least_steps)
        for step in range(steps):
            epoch, position = divmod(step, epoch_steps)
            if not position:
                order = rows[numpy_generator(self.seed, "order", epoch).permutation(len(rows))]
            chosen = np.sort(order[position * batch : (position + 1) * batch])  # in the file's order
            x, target = self.tokens(self.features, chosen), torch.from_numpy(self.target[chosen]).to(self.device)
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * cosine(1.0, 0.0, step / steps)
            optimizer.zero_grad()
            torch.autograd.backward([F.cross_entropy(probe(x), target) for probe in probes])
            optimizer.step()
        return probes

    @torch.no_grad()
    def logits(
        self, probe: AttentiveProbe, features: Features, rows: np.ndarray[Any, np.dtype[np.int64]]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Logits (n, K) of some images."""
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        return np.concatenate([probe(self.tokens(features, block)).cpu().numpy() for block in blocks])
