"""Losses of hidden patches and terms of spread: known values, the papers' equations in NumPy, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_toolkit.contrastive import token_losses

DIRECTIONS = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(9)), dim=0)
COUNT = torch.tensor([1, 3, 3, 3, 2, 2])  # hidden patches of each one's image, of which there are four


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def masked_patches_numpy(student: np.ndarray, target: np.ndarray) -> float:
    """``ibot_patch_loss.py`` of DINOv2, ``forward_masked``, and lightly's ``IBOTPatchLoss``, patch by patch."""
    each = [-(softmax(t) * np.log(softmax(s / 0.1))).sum() for s, t in zip(student, target, strict=True)]
    return float(sum(loss / count for loss, count in zip(each, COUNT.tolist(), strict=True)) / 4)


def koleo_numpy(x: np.ndarray) -> float:
    """``koleo_loss.py``, and lightly's ``KoLeoLoss``: distances to all others, one by one."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = [min(np.linalg.norm(a - b + 1e-8) for j, b in enumerate(x) if j != i) for i, a in enumerate(x)]
    return -float(np.mean(np.log(np.array(nearest) + 1e-8)))


def sigreg_numpy(x: np.ndarray) -> float:
    """Algorithm 1 of the paper, with all of its knots and complex numbers."""
    t = np.linspace(-5, 5, 17)
    gaussian = np.exp(-0.5 * t**2)
    ecf = np.exp(1j * (x @ DIRECTIONS.double().numpy())[..., None] * t).mean(0)
    error = np.abs(ecf - gaussian) ** 2 * gaussian
    return float(np.mean(np.trapezoid(error, t, axis=1) * len(x)))


def to_centre_numpy(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    views = np.stack([a, b, c])
    return float(((views - views[:2].mean(0)) ** 2).mean())


def msn_numpy(a: np.ndarray, b: np.ndarray, target: np.ndarray, balance: bool) -> float:
    """``losses.py`` of the authors and lightly's ``MSNLoss``: sharpen, Sinkhorn, cross-entropy, mean entropy."""
    probabilities = softmax(np.concatenate([a, b]) / 0.1)
    sharp = softmax(target / 0.1) ** (1 / 0.25)
    sharp /= sharp.sum(1, keepdims=True)
    if balance:
        q = sharp.T / sharp.sum()
        for _ in range(3):
            q /= q.sum(1, keepdims=True) * len(q)
            q /= q.sum(0, keepdims=True) * q.shape[1]
        sharp = (q * q.shape[1]).T
    agreement = -(np.concatenate([sharp, sharp]) * np.log(probabilities)).sum(1).mean()
    mean = probabilities.mean(0)
    return float(agreement + (mean * np.log(mean)).sum() + math.log(len(mean)))


CASES: dict[str, tuple[int, Callable[..., Tensor], Callable[..., float]]] = {
    "masked_patches": (
        2,
        lambda s, t: token_losses.masked_patches(s, t.softmax(1), COUNT, 4),
        masked_patches_numpy,
    ),
    "koleo": (1, token_losses.koleo, koleo_numpy),
    "sigreg": (1, lambda z: token_losses.sigreg(z, DIRECTIONS.to(z.dtype)), sigreg_numpy),
    "to_centre": (3, lambda *z: token_losses.to_centre(torch.stack(z), 2), to_centre_numpy),
    "msn": (3, lambda a, b, t: token_losses.msn([a, b], t), lambda *x: msn_numpy(*x, balance=True)),
    "msn, unbalanced": (
        3,
        lambda a, b, t: token_losses.msn([a, b], t, balance=False),
        lambda *x: msn_numpy(*x, balance=False),
    ),
    "regression": (2, token_losses.regression, lambda x, y: float(((x - y) ** 2).sum(1).mean() / math.sqrt(4))),
    "smooth regression": (
        2,
        lambda x, y: token_losses.regression(x, y, smooth=True),
        lambda x, y: float(np.where(abs(x - y) < 1, (x - y) ** 2 / 2, abs(x - y) - 0.5).mean()),
    ),
}
every_case = pytest.mark.parametrize("name", CASES)
STOPPED = {"masked_patches": 1, "msn": 2, "msn, unbalanced": 2, "regression": 1, "smooth regression": 1}


def drawn(count: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return list(torch.randn(count, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype))


@every_case
def test_papers_equation(name: str) -> None:
    count, loss, expected = CASES[name]
    inputs = drawn(count)
    assert loss(*inputs).item() == pytest.approx(expected(*(x.numpy() for x in inputs)), rel=1e-7)


@every_case
def test_gradcheck(name: str) -> None:
    count, loss, _ = CASES[name]
    inputs = [x.requires_grad_(n != STOPPED.get(name)) for n, x in enumerate(drawn(count))]
    assert torch.autograd.gradcheck(loss, inputs)


@every_case
def test_half_precision_is_computed_in_float32(name: str) -> None:
    count, loss, _ = CASES[name]
    inputs = drawn(count, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*inputs)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(*(x.double() for x in inputs)).item(), rel=2e-3)


@pytest.mark.parametrize("name", STOPPED)
def test_no_gradient_reaches_the_target(name: str) -> None:
    count, loss, _ = CASES[name]
    inputs = [x.requires_grad_() for x in drawn(count)]
    loss(*inputs).backward()
    assert [n for n, x in enumerate(inputs) if x.grad is None or not x.grad.any()] == [STOPPED[name]]


def test_an_images_patches_share_its_weight() -> None:
    """Of two images, one with a single hidden patch and one with three, each counts for a half."""
    student, target = drawn(2)[0][:4], torch.eye(4, dtype=torch.float64)
    each = -(student / 0.1).log_softmax(1).diagonal()
    count = torch.tensor([1, 3, 3, 3])
    expected = (each[0] + each[1:].mean()) / 2
    assert token_losses.masked_patches(student, target, count, 2).item() == pytest.approx(expected.item())
    none = token_losses.masked_patches(student[:0], target[:0], count[:0], 2)
    assert none.item() == 0


def test_spread_out_features_cost_less_than_crowded_ones_whatever_their_length() -> None:
    even = torch.eye(6, dtype=torch.float64)
    assert token_losses.koleo(3 * even).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-6)
    assert token_losses.koleo(even + 1).item() > token_losses.koleo(even).item() + 0.3
    same = token_losses.koleo(torch.ones(3, 4, requires_grad=True))
    assert same.isfinite()
    assert same.item() > 10


def test_koleo_never_takes_an_image_for_its_own_neighbour() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # the other one is as far as can be
    assert token_losses.koleo(x).item() == pytest.approx(-math.log(2), abs=1e-6)


def test_gaussian_embeddings_cost_least() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    directions = DIRECTIONS.double()

    def of(z: Tensor) -> float:
        return token_losses.sigreg(z, directions).item() / len(z)

    assert of(normal) < 1e-3
    for worse in (2 * normal, 0.5 * normal, normal + 1, normal.sign(), normal[:, :1].expand(-1, 4)):
        assert of(worse) > 20 * of(normal)
    collapsed = 4 * (math.sqrt(2 * math.pi) - 2 * math.sqrt(math.pi) + math.sqrt(2 * math.pi / 3))
    assert token_losses.sigreg(torch.zeros(4, 4), DIRECTIONS).item() == pytest.approx(collapsed, rel=1e-4)


def test_one_prototype_for_all_costs_what_the_mean_entropy_is_short_of() -> None:
    scores = torch.zeros(5, 4)
    scores[:, 0] = 10.0
    one = token_losses.msn([scores], scores, balance=False).item()
    assert one == pytest.approx(math.log(4), abs=1e-3)
    assert token_losses.msn([scores], scores, balance=False, regularization=0.0).item() == pytest.approx(0, abs=1e-3)
    apart = 10 * torch.eye(4)
    assert token_losses.msn([apart], apart).item() == pytest.approx(0, abs=1e-3)


def test_sharpening_is_a_temperature() -> None:
    target = drawn(1)[0]
    sharp = (target / 0.1).softmax(1) ** 4
    torch.testing.assert_close(sharp / sharp.sum(1, keepdim=True), (target / 0.025).softmax(1))


@pytest.mark.parametrize("value", [0.0, 1e3])
@every_case
def test_extreme_inputs_give_finite_losses_and_gradients(name: str, value: float) -> None:
    count, loss, _ = CASES[name]
    inputs = [torch.full((6, 4), value, requires_grad=True) for _ in range(count)]
    found = loss(*inputs)
    found.backward()
    assert found.isfinite()
    assert all(x.grad is None or x.grad.isfinite().all() for x in inputs)
