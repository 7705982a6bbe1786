import numpy as np
import pytest
import torch

from ssl_toolkit.eval.health.collapse import alignment, effective_rank, embedding_std, uniformity


def gaussian(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)


def test_rank_of_orthogonal_features_is_their_dimension() -> None:
    orthogonal = np.linalg.qr(gaussian(40, 8))[0]
    for features in (np.eye(8), 3 * np.eye(8), np.tile(np.eye(8), (5, 1)), orthogonal):
        assert effective_rank(features.astype(np.float32)) == pytest.approx(8, rel=1e-5)


def test_rank_of_multiples_of_one_vector_is_one() -> None:
    assert effective_rank(np.outer(gaussian(50, 1), gaussian(1, 8))) == pytest.approx(1, abs=1e-5)
    assert effective_rank(np.full((50, 8), 0.3, np.float32)) == pytest.approx(1, abs=1e-5)


def test_rank_is_the_exponential_of_the_entropy_of_the_singular_values() -> None:
    features = np.diag([3.0, 1.0, 0.0]).astype(np.float32)
    assert effective_rank(features) == pytest.approx(4 / 3**0.75)  # entropy of (3/4, 1/4): log 4 - 3/4 log 3


def test_rank_of_nothing_is_zero() -> None:
    assert effective_rank(np.zeros((5, 3), np.float32)) == 0


def test_std_of_one_direction_is_zero() -> None:
    lengths = np.linspace(0.5, 2, 50, dtype=np.float32)[:, None]
    assert embedding_std(lengths * gaussian(1, 8)) == pytest.approx(0, abs=1e-6)
    assert embedding_std(np.full((50, 8), 0.3, np.float32)) == pytest.approx(0, abs=1e-6)


def test_std_of_uniform_directions_is_one() -> None:
    assert embedding_std(gaussian(20_000, 16)) == pytest.approx(1, abs=5e-3)


def test_std_of_the_axes() -> None:
    # Each coordinate is 1 in one row of D: mean 1/D, variance 1/D - 1/D^2.
    lengths = np.arange(1, 9, dtype=np.float32)[:, None]
    assert embedding_std(lengths * np.eye(8, dtype=np.float32)) == pytest.approx((1 - 1 / 8) ** 0.5)


def test_alignment_and_uniformity_are_those_of_the_paper() -> None:
    one, other = gaussian(40, 6), gaussian(40, 6) + 2
    x, y = (torch.nn.functional.normalize(torch.from_numpy(each).double(), dim=1) for each in (one, other))
    # The authors' own lines (appendix A).
    assert alignment(one, 5 * other) == pytest.approx((x - y).norm(dim=1).pow(2).mean().item(), rel=1e-6)
    expected = torch.pdist(x, p=2).pow(2).mul(-2).exp().mean().log().item()
    assert uniformity(3 * one) == pytest.approx(expected, rel=1e-6)


def test_what_collapsed_is_aligned_and_not_uniform() -> None:
    flat = np.full((30, 4), 0.5, np.float32)
    assert alignment(flat, flat) == 0
    assert uniformity(flat) == pytest.approx(0, abs=1e-6)
    assert uniformity(gaussian(30, 4).astype(np.float32)) < -1
