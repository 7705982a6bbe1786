"""Measures without labels, each beside an independent way to get it and a case whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssl_toolkit.augment import simclr_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.eval.health.collapse import effective_rank
from ssl_toolkit.eval.health.quality import (
    MEASURED,
    QUALITIES,
    alpha_req,
    features_of_views,
    lidar,
    nesum,
    quality,
    spectrum,
    two_nn,
)

RNG = np.random.default_rng(0)
MIXED = (RNG.standard_normal((200, 12)) @ RNG.standard_normal((12, 12)) + 3).astype(np.float32)


def test_the_spectrum_is_that_of_the_covariance() -> None:
    expected = np.sort(np.linalg.eigvalsh(np.cov(MIXED.T, bias=True)))[::-1]
    np.testing.assert_allclose(spectrum(MIXED), expected, rtol=1e-5)
    few = MIXED[:5]  # fewer images than features
    np.testing.assert_allclose(spectrum(few)[:4], np.linalg.eigvalsh(np.cov(few.T, bias=True))[::-1][:4], rtol=1e-5)


def test_nesum_is_the_trace_over_the_largest_eigenvalue() -> None:
    covariance = np.cov(MIXED.T, bias=True)
    assert nesum(MIXED) == pytest.approx(np.trace(covariance) / np.linalg.norm(covariance, 2), rel=1e-5)
    axes = np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32)
    assert nesum(axes) == pytest.approx(8)
    assert nesum(np.ones((9, 3), np.float32)) == 0


def powers(alpha: float, d: int = 64) -> NDArray[np.float32]:
    """Features whose covariance has the eigenvalues i^-alpha, exactly."""
    scale = np.arange(1, d + 1) ** (-alpha / 2)
    return np.concatenate([np.diag(scale), -np.diag(scale)]).astype(np.float32)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.7])
def test_alpha_is_that_of_the_power_law(alpha: float) -> None:
    assert alpha_req(powers(alpha) @ np.linalg.qr(RNG.standard_normal((64, 64)))[0].astype(np.float32)) == (
        pytest.approx(alpha, rel=1e-3)
    )


def test_alpha_is_fitted_through_the_tail_alone() -> None:
    bent = powers(1.0)
    bent[:, :2] *= 50
    assert alpha_req(bent) == pytest.approx(1.0, rel=1e-3)
    assert alpha_req(bent, tail=(1, 100)) > 1.5
    eigenvalue = np.linalg.eigvalsh(np.cov(MIXED.T))[::-1][2:]
    x, y = np.log(np.arange(3, 13)), np.log(eigenvalue)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert alpha_req(MIXED) == pytest.approx(-slope, rel=1e-4)
    assert np.isnan(alpha_req(np.ones((9, 3), np.float32)))


def naive_two_nn(x: NDArray[np.float32], kept: float = 0.9) -> float:
    ratios = []
    for i in range(len(x)):
        away = sorted(float(np.linalg.norm(x[i].astype(float) - x[j])) for j in range(len(x)) if j != i)
        ratios.append(away[1] / away[0])
    ratios.sort()
    n = len(ratios)
    points = [(np.log(m), -np.log(1 - i / n)) for i, m in enumerate(ratios)][: int(kept * n)]
    return sum(a * b for a, b in points) / sum(a * a for a, _ in points)


def test_two_nn_finds_the_dimension_of_what_is_embedded() -> None:
    assert two_nn(MIXED) == pytest.approx(naive_two_nn(MIXED), rel=1e-4)
    flat = RNG.random((2000, 2)) @ RNG.standard_normal((2, 20))
    assert two_nn(flat.astype(np.float32)) == pytest.approx(2, abs=0.25)
    five = RNG.random((2000, 5)) @ RNG.standard_normal((5, 20))
    assert two_nn(five.astype(np.float32)) == pytest.approx(5, abs=0.6)


def test_copies_say_nothing_of_the_dimension() -> None:
    assert two_nn(np.concatenate([MIXED, MIXED[:50]])) == pytest.approx(two_nn(MIXED), rel=1e-6)
    assert np.isnan(two_nn(np.ones((9, 3), np.float32)))


def naive_lidar(x: NDArray[np.float64], delta: float = 1e-4, epsilon: float = 1e-7) -> float:
    n, v, d = x.shape
    mu = x.reshape(-1, d).mean(0)
    between, within = np.zeros((d, d)), np.zeros((d, d))
    for image in x:
        centre = image.mean(0)
        between += np.outer(centre - mu, centre - mu) / n
        for view in image:
            within += np.outer(view - centre, view - centre) / (n * v)
    within += delta * np.eye(d)
    # Of Sigma_w^-1 Sigma_b, whose eigenvalues are those of the symmetric product; scipy-free.
    eigenvalues = np.abs(np.linalg.eigvals(np.linalg.solve(within, between)).real)
    p = eigenvalues / eigenvalues.sum() + epsilon
    return float(np.exp(-(p * np.log(p)).sum()))


def test_lidar_is_the_rank_between_images_in_units_of_that_within() -> None:
    views = RNG.standard_normal((60, 1, 8)) * np.arange(1, 9) + RNG.standard_normal((60, 5, 8))
    # Half of the between-class covariance is of the means of views, whose scale does not matter.
    assert lidar(views.astype(np.float32)) == pytest.approx(naive_lidar(views), rel=1e-4)
    few = views[:6]  # images than features
    assert lidar(few.astype(np.float32)) == pytest.approx(naive_lidar(few), rel=1e-4)


def test_lidar_does_not_count_what_views_differ_in() -> None:
    image = np.zeros((400, 1, 6))
    image[..., :2] = RNG.standard_normal((400, 1, 2))
    views = image + np.array([0.05, 0.05, 3, 3, 3, 3]) * RNG.standard_normal((400, 10, 6))
    found = lidar(views.astype(np.float32))
    assert found == pytest.approx(2, abs=0.1)
    assert effective_rank(views.reshape(-1, 6).astype(np.float32)) > 4


def test_features_of_views_are_those_of_each_image_and_repeat() -> None:
    image = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 16, 16).contiguous() * 40
    batches = [Batch(part, torch.zeros(3).long(), torch.arange(3)) for part in image.split(3)]
    plain = {"jitter_p": 0.0, "grey_p": 0.0, "blur_p": 0.0}
    found = features_of_views(lambda x: x.mean(dim=(2, 3)), batches, simclr_views(8, count=4, **plain))
    assert found.shape == (6, 4, 3)
    np.testing.assert_allclose(found, np.broadcast_to(np.arange(6)[:, None, None] * 40 / 255, found.shape), atol=1e-6)

    def corner(x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 0, 0]

    noise = [Batch(torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8), torch.zeros(3).long(), torch.arange(3))]
    once, again = (features_of_views(corner, noise, simclr_views(8, count=4)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert (once[:, 0] != once[:, 1]).any()


def test_quality_looks_at_a_part_from_all_over_and_leaves_out_what_is_not_finite() -> None:
    found = quality(MIXED)
    assert found == {
        "rankme": effective_rank(MIXED), "alpha_req": alpha_req(MIXED), "nesum": nesum(MIXED), "two_nn": two_nn(MIXED)
    }  # fmt: skip
    assert set(found) | {"lidar"} == set(QUALITIES)
    assert set(quality(np.ones((9, 3), np.float32))) == {"rankme", "nesum"}
    many = np.zeros((3 * MEASURED, 2), np.float32)
    many[MEASURED:, 0], many[2 * MEASURED :, 1] = 1, 1
    assert quality(many)["nesum"] == pytest.approx(nesum(many), rel=1e-2)
    assert QUALITIES["alpha_req"].rank(1.1) > QUALITIES["alpha_req"].rank(0.8)
