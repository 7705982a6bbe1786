"""Linear classifiers on frozen, standardised features: what every probe fits, each in its own way."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.scores.metrics import accuracies, calibration_error, rank_of

BLOCK = 1 << 22
"""Numbers at once, rows x classes or rows x features: bounds copies to 32 MB."""


@dataclasses.dataclass(frozen=True, eq=False)
class LinearClassifier:
    """A fitted linear classifier, standardisation included.

    Attributes:
        weight: (D, K), of standardised features.
        bias: (K,).
        mean: (D,) float32, of the features that it was fitted on.
        std: (D,) float32, likewise; 1 where a feature is constant.
        classes: (K,) int64: label of each column.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    classes: NDArray[np.int64]

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (N, D) to logits (N, K)."""
        weight, bias = self.weight.float(), self.bias.float()
        out = np.empty((len(x), len(bias)), dtype=np.float32)
        step = max(BLOCK // x.shape[1], 1)
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            block = standardised(copied(x[rows], weight.device), self.mean, self.std)
            out[rows] = (block @ weight + bias).cpu().numpy()
        return out

    def layer(self, classes: int) -> nn.Linear:
        """The same as a layer on features as they are.

        Args:
            classes: Outputs, of labels 0 to `classes` - 1; one that the classifier does not know gets its lowest bias.
        """
        weight = (self.weight / self.std[:, None]).T.float().cpu()  # (K, D)
        bias = self.bias.float().cpu() - weight @ self.mean.cpu()
        layer = nn.Linear(len(self.mean), classes)
        with torch.no_grad():
            layer.weight.zero_()[self.classes] = weight
            layer.bias.fill_(float(bias.min()))[self.classes] = bias
        return layer

    def ranks(self, features: Features) -> NDArray[np.int64]:
        """How many classes are put before the true one, (N,)."""
        return rank_of(self.logits(features.x), np.searchsorted(self.classes, features.label))

    def accuracies(self, test: Features, calibrated: bool = True) -> dict[str, Any]:
        """What `metrics.accuracies` says of the answers to a test set of known classes.

        Args:
            test: Labelled features.
            calibrated: Whether logits stand for probabilities; then with `ece`, see `calibration_error`.
        """
        return judged(self.logits(test.x), np.searchsorted(self.classes, test.label), calibrated)


def judged(logits: NDArray[np.float32], target: NDArray[np.int64], calibrated: bool = True) -> dict[str, Any]:
    """What is said of logits (N, K), true classes (N,) being known; see `LinearClassifier.accuracies`."""
    found = accuracies(rank_of(logits, target), logits.argmax(1), target, logits.shape[1])
    return found | ({"ece": calibration_error(softmax(logits, axis=1), target)} if calibrated else {})


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, (D,) float32, summed in float64; 1 where a feature is constant."""
    blocks = torch.split(x, max(BLOCK // x.shape[1], 1))
    mean = torch.stack([block.double().sum(dim=0) for block in blocks]).sum(dim=0) / len(x)
    square = torch.stack([(block - mean).square().sum(dim=0) for block in blocks]).sum(dim=0) / len(x)
    std = square.sqrt()
    constant = std <= 1e-6 * mean.abs()  # what is left are rounding errors, not to be blown up to 1
    return mean.float(), std.masked_fill(constant, 1).float()


def standardised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`x` itself, changed in place."""
    return x.sub_(mean).div_(std)


def copied(x: NDArray[np.float32], device: str | torch.device) -> Tensor:
    """A float32 copy: what the caller has, a memory-mapped file perhaps, stays as it is."""
    return torch.tensor(x, dtype=torch.float32, device=device)
