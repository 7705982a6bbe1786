import math

import numpy as np
import pytest
import torch

from ssl_toolkit.contrastive import losses


def nt_xent_numpy(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
    """Equation 1 of the paper, term by term."""
    z = np.concatenate([z1, z2])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    n = len(z1)
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = [math.exp(z[i] @ z[j] / temperature) for j in range(2 * n) if j != i]
        total -= math.log(math.exp(z[i] @ z[partner] / temperature) / sum(others))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_orthogonal_pairs(temperature: float) -> None:
    n = 5
    z = torch.eye(n, 8, dtype=torch.float64)
    expected = math.log(math.exp(1 / temperature) + 2 * n - 2) - 1 / temperature
    assert losses.nt_xent(z, 3 * z, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_nt_xent_identical_vectors_are_told_apart_by_chance() -> None:
    z = torch.ones(6, 4, dtype=torch.float64)
    assert losses.nt_xent(z, z, 0.2).item() == pytest.approx(math.log(11), abs=1e-12)


def test_nt_xent_matches_the_papers_equation() -> None:
    z1, z2 = np.random.default_rng(0).normal(size=(2, 7, 5))
    loss = losses.nt_xent(torch.from_numpy(z1), torch.from_numpy(z2), 0.3)
    assert loss.item() == pytest.approx(nt_xent_numpy(z1, z2, 0.3), abs=1e-10)


def test_nt_xent_gradcheck() -> None:
    z1, z2 = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = (z1.requires_grad_(), z2.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: losses.nt_xent(a, b, 0.5), inputs)


def test_nt_xent_invariances() -> None:
    z1, z2 = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = losses.nt_xent(z1, z2, 0.2)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert losses.nt_xent(z1[order], z2[order], 0.2).item() == pytest.approx(loss.item(), abs=1e-12)
    assert losses.nt_xent(z2, z1, 0.2).item() == pytest.approx(loss.item(), abs=1e-12)
    assert losses.nt_xent(7 * z1, 0.1 * z2, 0.2).item() == pytest.approx(loss.item(), abs=1e-9)
    assert losses.nt_xent(z1, z2[order], 0.2).item() != pytest.approx(loss.item(), abs=1e-3)


def test_nt_xent_is_computed_in_float32_under_autocast() -> None:
    z1, z2 = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = losses.nt_xent(z1, z2, 0.05)
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(losses.nt_xent(z1, z2, 0.05).item(), abs=1e-6)
    assert losses.nt_xent(z1.bfloat16(), z2.bfloat16(), 0.05).dtype == torch.float32
