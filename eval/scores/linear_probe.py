"""Linear probe: softmax regression on frozen, standardised features, its regularisation chosen on the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_toolkit.eval.features.extraction import Features, check_labelled
from ssl_toolkit.eval.scores.linear_classifier import BLOCK, LinearClassifier, copied, moments, standardised
from ssl_toolkit.eval.scores.penalty import STRENGTHS, choose_strength

_WIDEST_BASIS = 4096  # features: beyond, the eigenvectors cost more than they save


def linear_probe(
    train: Features,
    test: Features,
    strengths: Sequence[float] = STRENGTHS,
    *,
    held_out: float = 0.2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Accuracy of the best softmax regression on frozen features.

    Strengths are tried from strong to weak, each starting where the last one ended, on a stratified part of the
    training set, and scored on the rest of it. The path ends when three in a row do not better the best. The best, of
    equals the strongest, is then fitted on the whole training set and scored on the test set, which is read this once.

    Args:
        train: Labelled features, (N, D).
        test: Labelled features, (M, D), of classes that `train` knows.
        strengths: Of the penalty in `fit_softmax`, each above 0. With one there is nothing to choose.
        held_out: Share of each class to choose on, in (0, 1).
        seed: Of the split.
        device: Where to compute. Holds one standardised copy of the training features.

    Returns:
        What `accuracies` says of the test set, such as `top1` in [0, 1]; `l2`, the strength that was chosen; and
        `path`, a row for each strength tried with its `l2` and its `top1` on the held-out part, empty where there was
        nothing to choose.
        `fit_softmax(train, l2)` gives the same regression again.

    Raises:
        UsageError: A label is missing, a class is in `test` only, no class has two images, or a strength is not
            above 0.

    Examples:
        >>> label = np.arange(2).repeat(4)
        >>> x = np.eye(2, dtype=np.float32)[label]
        >>> train, test = Features(x, label, np.arange(8)), Features(x[::4], label[::4], np.arange(2))
        >>> found = linear_probe(train, test, strengths=(1.0, 0.1))
        >>> found["top1"], [row["l2"] for row in found["path"]]
        (1.0, [1.0, 0.1])
    """
    check_labelled(train, test)
    l2, path = choose_strength(train, strengths, lambda fit: SoftmaxPath(fit, device), held_out, seed)
    return {**fit_softmax(train, l2, device=device).accuracies(test), "l2": l2, "path": path}


def fit_softmax(train: Features, l2: float, *, device: str | torch.device = "cpu") -> LinearClassifier:
    """Minimise mean cross-entropy (nats) + l2 / 2 * sum of squared weights, on standardised features.

    The bias is free. scikit-learn's ``LogisticRegression(C=1 / (l2 * N))`` has the same minimum.

    Args:
        train: Labelled features, (N, D).
        l2: Strength of the penalty, above 0.
        device: Where to compute.

    Examples:
        >>> label = np.arange(2).repeat(4)
        >>> x = np.eye(2, dtype=np.float32)[label]
        >>> train = Features(x, label, np.arange(8))
        >>> fit_softmax(train, l2=0.1).logits(x[:2]).argmax(axis=1)
        array([0, 0])
    """
    problem = _Problem(train, device)
    return problem.model(*problem.solve(l2, *problem.zero(), tolerance=1e-5))


class SoftmaxPath:
    """Solutions for one strength after the other, each from where the last one ended, to the precision of a choice."""

    def __init__(self, train: Features, device: str | torch.device = "cpu") -> None:
        self.problem = _Problem(train, device)
        self.last = self.problem.zero()

    def __call__(self, l2: float) -> LinearClassifier:
        """The solution for one strength."""
        self.last = self.problem.solve(l2, *self.last, tolerance=2e-4)
        return self.problem.model(*self.last)


class _Problem:
    """Softmax regression on one training set, to be solved for any strength of the penalty.

    On correlated features L-BFGS takes hundreds of steps when the penalty is weak. In the basis of the covariance's
    eigenvectors, with each direction scaled by 1 / sqrt(eigenvalue / 2 + l2), the Hessian is at most the identity
    (Böhning 1992, Multinomial logistic regression algorithm), and some dozens do. The basis changes the way to the
    minimum, not the minimum, so an estimate from a part of the rows serves.

    Weights of the minimum are sums of rows. Where these are fewer than the features (few labels, raw pixels), it is
    sought among such sums alone: the rows' coordinates in an orthonormal basis of what they span stand for the
    features, with which neither the logits nor the penalty change.
    """

    def __init__(self, train: Features, device: str | torch.device) -> None:
        self.classes, label = np.unique(train.label, return_inverse=True)
        self.label = torch.from_numpy(label.astype(np.int64)).to(device)
        x = copied(train.x, device)
        self.mean, self.std = moments(x)
        self.x = standardised(x, self.mean, self.std)
        self.span: Tensor | None = None  # (D, N) float64
        if len(x) < min(x.shape[1], _WIDEST_BASIS):
            self.span, triangle = torch.linalg.qr(self.x.T.double())
            self.x = triangle.T.float().contiguous()
        self.eigenvalue, self.basis = _eigen(self.x)

    def zero(self) -> tuple[Tensor, Tensor]:
        """A weight (D, K), or (N, K) in what the rows span, and a bias (K,) to start from."""
        weight = torch.zeros(self.x.shape[1], len(self.classes), dtype=torch.float64, device=self.x.device)
        return weight, weight.new_zeros(len(self.classes))

    def model(self, weight: Tensor, bias: Tensor) -> LinearClassifier:
        """The regression with the given weight and bias, as `solve` gives them."""
        weight = weight if self.span is None else self.span @ weight
        return LinearClassifier(weight, bias, self.mean, self.std, self.classes)

    def solve(self, l2: float, weight: Tensor, bias: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """The minimum for one strength, from a given start, to a largest gradient entry of `tolerance`."""
        scale = (self.eigenvalue / 2 + l2).rsqrt()[:, None]  # (D, 1)
        bias_scale = 2**0.5  # the constant feature is standardised to 1: eigenvalue 1, no penalty
        start = torch.cat([self._turn(weight, inverse=True) / scale, bias[None] / bias_scale])
        u = torch.nn.Parameter(start)  # (D + 1, K): weight and bias as L-BFGS sees them

        def unscaled() -> tuple[Tensor, Tensor]:
            return self._turn(u.data[:-1] * scale), u.data[-1] * bias_scale

        def closure() -> float:
            value, slope, bias_slope = self._objective(l2, *unscaled())
            u.grad = torch.cat([self._turn(slope, inverse=True) * scale, bias_slope[None] * bias_scale])
            return value

        options: dict[str, Any] = {"max_iter": 500, "tolerance_grad": tolerance, "tolerance_change": 0}
        lbfgs: torch.optim.Optimizer = torch.optim.LBFGS([u], line_search_fn="strong_wolfe", **options)
        lbfgs.step(closure)
        return unscaled()

    def _turn(self, weight: Tensor, inverse: bool = False) -> Tensor:
        """Weights (D, K) from the eigenvectors' basis to the features', or back."""
        if self.basis is None:
            return weight
        return (self.basis.T if inverse else self.basis) @ weight

    def _objective(self, l2: float, weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        """Value, gradient of the weight (D, K) and of the bias (K,).

        The two products with the features run in float32; the rest in float64, since L-BFGS compares values that
        differ by less than float32 can tell.
        """
        half = weight.float()
        value, slope, bias_slope = bias.new_zeros(()), torch.zeros_like(weight), torch.zeros_like(bias)
        step = max(BLOCK // len(bias), 1)
        for start in range(0, len(self.x), step):
            x, label = self.x[start : start + step], self.label[start : start + step, None]
            log_p = ((x @ half).double() + bias).log_softmax(dim=1)  # (n, K)
            value -= log_p.gather(1, label).sum()
            residual = log_p.exp_().scatter_add_(1, label, -torch.ones_like(label, dtype=torch.float64))
            slope += x.T @ residual.float()
            bias_slope += residual.sum(dim=0)
        n = len(self.x)
        return float(value / n + l2 / 2 * weight.square().sum()), slope / n + l2 * weight, bias_slope / n


def _eigen(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues (D,) and eigenvectors (D, D) of the covariance of standardised x, both float64.

    Too many features have no basis, and their variances, 1, for eigenvalues.
    """
    n, d = x.shape
    if d > _WIDEST_BASIS:
        return torch.ones(d, dtype=torch.float64, device=x.device), None
    x = x[:: max(n // (4 * d), 1)]  # a stride and not the first rows, which may all be of one class
    value, vector = torch.linalg.eigh(x.T @ x / len(x))
    return value.double().clamp(min=0), vector.double()
