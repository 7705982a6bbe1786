"""Sweep: many linear heads, of many learning rates, weight decays and inputs, trained at once.

All heads that read one input see the same batches, so their logits are one matrix product and their gradients
another: (B, D) with (D, classes x heads). Momentum, weight decay and the step itself are three passes over the weights.
Heads are the last dimension: a softmax over ten classes that lie beside each other takes ten times as long.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, check_labelled, stratified_split
from ssl_toolkit.eval.scores.linear_classifier import BLOCK, LinearClassifier, copied, moments, standardised
from ssl_toolkit.randomness import numpy_generator
from ssl_toolkit.schedules import cosine

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
"""Learning rates tried by default, for a batch of 256."""

WEIGHT_DECAYS = (0.0, 1e-4, 1e-3, 1e-2)
"""Weight decays tried by default, each with every learning rate."""

EPOCHS = 10
STEPS = 2500  # at least, however small the training set
BATCH = 256
_MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class Heads:
    """Linear classifiers that read the same features.

    Attributes:
        weight: (D, K, H) float32, of standardised features.
        bias: (K, H) float32.
        mean: (D,) float32, of the features that they were trained on.
        std: (D,) float32, likewise.
        classes: (K,) int64: label of each column.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    classes: NDArray[np.int64]

    def __getitem__(self, head: int) -> LinearClassifier:
        return LinearClassifier(self.weight[..., head], self.bias[:, head], self.mean, self.std, self.classes)

    def top1(self, features: Features) -> NDArray[np.float64]:
        """Accuracy of each head, (H,), in [0, 1]; 0 for one whose training diverged."""
        right = torch.zeros(self.bias.shape[1], dtype=torch.int64, device=self.weight.device)
        target = torch.from_numpy(np.searchsorted(self.classes, features.label)).to(self.weight.device)
        step = max(BLOCK // max(self.weight.shape[0], self.bias.numel()), 1)
        for start in range(0, len(features), step):
            rows = slice(start, start + step)
            x = standardised(copied(features.x[rows], self.weight.device), self.mean, self.std)
            answer = _logits(x, self.weight, self.bias).argmax(dim=1)  # (n, H), of equals the lower class
            right += (answer == target[rows, None]).sum(dim=0)
        finite = self.weight.isfinite().all(dim=0).all(dim=0) & self.bias.isfinite().all(dim=0)
        share: NDArray[np.float64] = (right * finite).cpu().numpy() / len(features)
        return share


def sweep(
    train: Mapping[str, Features],
    test: Mapping[str, Features],
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    *,
    epochs: int = EPOCHS,
    least_steps: int = STEPS,
    held_out: float = 0.2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Accuracy of the best of many linear heads on frozen features of several depths.

    Every learning rate is tried with every weight decay on every input, on a stratified part of the training set, and
    scored on the rest of it. The best head, the first of equals, is then trained on the whole training set and scored
    on the test set, of which nothing but this head's input is read, this once. (DINOv2 chooses on the set that it
    reports.)

    Args:
        train: Labelled features by name of the input, (N, D) each, of the same images.
        test: Those inputs of the test set, (M, D) each, of classes that `train` knows.
        learning_rates: For a batch of 256, each above 0.
        weight_decays: Each at least 0.
        epochs: See `train_heads`.
        least_steps: Likewise.
        held_out: Share of each class to choose on, in (0, 1).
        seed: Of the split and of the order of the images.
        device: Where to compute. Holds one standardised copy of an input's training features.

    Returns:
        What `accuracies` says of the test set, such as `top1` in [0, 1]; `chosen`, with the `input`, `lr` and
        `weight_decay`; and `inputs`, a row for each with its best `lr`, `weight_decay` and their `top1` on the
        held-out part; how many `heads` were tried.

    Raises:
        UsageError: A label is missing, a class is in `test` only, no class has two images, or a number is out of range.

    Source: Oquab et al. 2024, DINOv2, section 7.1 and the authors' ``linear.py``: SGD with momentum 0.9 and a cosine to
        zero, the class tokens of the last one or four blocks with and without the mean patch.
    """
    for name in train:
        check_labelled(train[name], test[name])
    if not train or not learning_rates or not min(learning_rates) > 0:
        raise UsageError(f"learning rates must be above 0, got {list(learning_rates)}")
    if not weight_decays or not min(weight_decays) >= 0:
        raise UsageError(f"weight decays must be at least 0, got {list(weight_decays)}")
    pairs = list(itertools.product(learning_rates, weight_decays))
    options: dict[str, Any] = {"epochs": epochs, "least_steps": least_steps, "seed": seed, "device": device}
    rows: list[dict[str, Any]] = []
    for name, features in train.items():
        fit, chosen_on = (features.select(part) for part in stratified_split(features.label, held_out, seed))
        top1 = train_heads(fit, pairs, **options).top1(chosen_on)
        best = int(top1.argmax())  # the first of equals
        rows.append({"input": name, "lr": pairs[best][0], "weight_decay": pairs[best][1], "top1": float(top1[best])})
    chosen = max(rows, key=lambda row: row["top1"])  # likewise
    head = train_heads(train[chosen["input"]], [(chosen["lr"], chosen["weight_decay"])], **options)[0]
    return {
        **head.accuracies(test[chosen["input"]]),
        "chosen": {key: chosen[key] for key in ("input", "lr", "weight_decay")},
        "inputs": rows,
        "heads": len(rows) * len(pairs),
    }


def train_heads(
    train: Features,
    pairs: Sequence[tuple[float, float]],
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    least_steps: int = STEPS,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Heads:
    """Train one softmax head a pair of learning rate and weight decay, all on the same batches, by SGD.

    Each head ends as if it were trained alone: momentum 0.9, weight decay in the gradient (of weights, not of biases),
    the learning rate scaled by batch / 256 and taken to zero along half a cosine, weights that start at zero. Features
    are standardised, as a batch norm without scale before the head would do it (He et al. 2022, MAE, appendix A.1), so
    that the same learning rates serve every encoder.

    Args:
        train: Labelled features, (N, D).
        pairs: Learning rate, for a batch of 256, and weight decay of each head, H of them.
        epochs: Passes over the images, at least 1; more if they have fewer than `least_steps` batches.
        batch_size: Images a step; all of them if there are fewer. What is left of an epoch is left out.
        least_steps: Least number of steps.
        seed: With the epoch, decides the order of the images.
        device: Where to compute.

    Returns:
        The heads, in the order of `pairs`.
    """
    classes, label = np.unique(train.label, return_inverse=True)
    x = copied(train.x, "cpu")  # for float64, which some devices lack
    mean, std = moments(x)
    x, mean, std = standardised(x, mean, std).to(device), mean.to(device), std.to(device)
    y = torch.from_numpy(label.astype(np.int64)).to(device)
    batch = min(batch_size, len(x))
    epoch_steps = len(x) // batch
    steps = max(epochs * epoch_steps, least_steps)

    count, width = len(pairs), len(classes)
    lr, decay = (torch.tensor(column, device=device).repeat(width) for column in zip(*pairs, strict=True))  # (KH,)
    lr = lr * (batch / 256)
    weight, bias = x.new_zeros(x.shape[1], width, count), x.new_zeros(width, count)
    speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    flat, bias_flat, speed_flat = weight.flatten(1), bias.flatten(), speed.flatten(1)  # views
    truth = x.new_full((), -1).expand(batch, 1, count)
    for step in range(steps):
        epoch, position = divmod(step, epoch_steps)
        if not position:
            order = torch.from_numpy(numpy_generator(seed, "order", epoch).permutation(len(x))).to(device)
        rows = order[position * batch : (position + 1) * batch]
        x_now, y_now = x.index_select(0, rows), y[rows].view(-1, 1, 1).expand(-1, 1, count)
        residual = _logits(x_now, weight, bias).softmax(dim=1).scatter_add_(1, y_now, truth)  # (B, K, H)
        slope = residual.flatten(1)
        speed_flat.addmm_(x_now.T, slope, beta=_MOMENTUM, alpha=1 / batch).addcmul_(flat, decay)
        bias_speed.mul_(_MOMENTUM).add_(residual.mean(dim=0))
        now = lr * -cosine(1.0, 0.0, step / steps)
        flat.addcmul_(speed_flat, now)
        bias_flat.addcmul_(bias_speed.flatten(), now)
    return Heads(weight, bias, mean, std, classes)


def _logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Features (n, D), weights (D, K, H) and biases (K, H) to logits (n, K, H), as one product."""
    return torch.addmm(bias.flatten(), x, weight.flatten(1)).view(-1, *bias.shape)
