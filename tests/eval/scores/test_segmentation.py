"""Dense probes: metrics beside independent ones, and answers that are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import jaccard_score

from ssl_toolkit.data.masks import VOID, MaskedSet
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.scores.segmentation import (
    Dense,
    clusters,
    dense_features,
    depth_errors,
    estimate_depth,
    overlap,
    ridge,
    segment,
)

RNG = np.random.default_rng(0)


def test_overlap_is_scikit_learns_over_all_pixels() -> None:
    truth, answer = RNG.integers(-1, 3, (5, 8, 8)), RNG.integers(0, 3, (5, 8, 8))
    known = truth != VOID
    found = overlap(answer, truth, 4)
    expected = jaccard_score(truth[known], answer[known], average=None)
    assert found["iou"][:3] == pytest.approx(expected.tolist())
    assert found["iou"][3] is None
    assert found["miou"] == pytest.approx(expected.mean())
    assert found["pixel_accuracy"] == pytest.approx((truth == answer)[known].mean())


def test_a_class_that_is_only_answered_counts() -> None:
    assert overlap(np.array([0, 1]), np.array([0, 0]), 2) == {"miou": 0.25, "pixel_accuracy": 0.5, "iou": [0.5, 0.0]}


def test_depth_errors_by_hand() -> None:
    truth, answer = np.array([1.0, 2.0, 0.0, 4.0], np.float32), np.array([1.2, 2.6, 9.0, 4.0], np.float32)
    found = depth_errors(answer, truth)
    assert found["rmse"] == pytest.approx(((0.2**2 + 0.6**2) / 3) ** 0.5, rel=1e-5)
    assert found["delta1"] == pytest.approx(2 / 3)
    assert depth_errors(np.array([0.0], np.float32), np.array([1.0], np.float32))["delta1"] == 0


def test_ridge_is_scikit_learns_on_standardised_features() -> None:
    x = (RNG.standard_normal((200, 5)) * [1, 10, 0.1, 3, 0] + 7).astype(np.float32)
    y = (x @ RNG.standard_normal(5) + RNG.standard_normal(200)).astype(np.float32)
    weight, bias = ridge(x, y, 0.1)
    std = np.where(np.arange(5) == 4, 1, x.std(axis=0, dtype=np.float64))
    z = (x - x.mean(axis=0, dtype=np.float64)) / std
    expected = Ridge(alpha=0.1 * len(x)).fit(z, y).predict(z)
    np.testing.assert_allclose(x @ weight + bias, expected, atol=1e-3)


def blocks(count: int, seed: int) -> Dense:
    """Images of 4 x 4 places of 8 px; the features tell the class of each, and noise; a place in ten is void."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 3, (count, 4, 4))
    x = np.eye(3, 6)[place] + 0.2 * rng.standard_normal((count, 4, 4, 6))
    values = np.where(rng.random(place.shape) < 0.1, VOID, place).repeat(8, axis=1).repeat(8, axis=2)
    return Dense(x.astype(np.float32), values)


def test_places_that_tell_their_class_are_segmented() -> None:
    train, test = blocks(30, 0), blocks(10, 1)
    found = segment(train, test)
    assert found["pixel_accuracy"] > 0.85  # the borders between blocks are enlarged
    assert found["miou"] > 0.75
    centres = found["answer"][:, 4::8, 4::8]
    truth = test.values[:, 4::8, 4::8]
    assert (centres == truth)[truth != VOID].mean() > 0.99
    noise = Dense(np.random.default_rng(5).standard_normal(train.x.shape).astype(np.float32), train.values)
    assert segment(noise, test)["miou"] < 0.4
    assert found["answer"].shape == test.values.shape


def test_the_test_set_chooses_nothing() -> None:
    train, test = blocks(12, 0), blocks(6, 1)
    worse = Dense(test.x, np.roll(test.values, 1, axis=0))
    assert segment(train, test)["l2"] == segment(train, worse)["l2"]
    np.testing.assert_array_equal(segment(train, test)["answer"], segment(train, worse)["answer"])
    with pytest.raises(UsageError, match="one class only"):
        segment(Dense(train.x, np.zeros_like(train.values)), test)
    with pytest.raises(UsageError, match="nothing is known"):
        segment(Dense(train.x, np.full_like(train.values, VOID)), test)


def test_depth_that_features_tell_is_found_and_unknown_depth_is_left_out() -> None:
    def part(count: int, seed: int) -> Dense:
        rng = np.random.default_rng(seed)
        depth = rng.uniform(1, 5, (count, 4, 4)).astype(np.float32)
        x = np.stack([depth, 0.3 * rng.standard_normal(depth.shape)], axis=3).astype(np.float32)
        values = depth.repeat(6, axis=1).repeat(6, axis=2)
        values[rng.random(values.shape) < 0.2] = 0
        return Dense(x, values)

    train, test = part(20, 0), part(8, 1)
    found = estimate_depth(train, test, strengths=(1e-6,))
    centre = np.s_[:, 3::6, 3::6]
    known = test.values[centre] > 0
    assert np.abs(found["answer"][centre] - test.values[centre])[known].max() < 1.0  # enlarged: a half px aside
    assert found["rmse"] < 0.8
    assert found["answer"].min() >= 1


def test_clusters_are_the_parts_that_differ() -> None:
    data = blocks(6, 3)
    place = np.argmax(data.x[..., :3], axis=3)
    found = clusters(data.x, 3, 32)[:, 4::8, 4::8]
    named = {part: np.bincount(place[found == part], minlength=3).argmax() for part in range(3)}
    assert sorted(named.values()) == [0, 1, 2]
    assert (np.vectorize(named.get)(found) == place).mean() > 0.95


def test_features_of_places_lie_where_the_pixels_are(small_encoder: Encoder) -> None:
    def read(index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        image = np.zeros((3, side, side), np.uint8)
        image[:, : side // 2] = 255 * (index + 1) // 3
        return image, np.full((side, side), index)

    found = dense_features(small_encoder, MaskedSet("x", 3, read), 32, at_once=2)
    assert found.x.shape == (3, 4, 4, small_encoder.feature_dim)
    assert found.values[:, 0, 0].tolist() == [0, 1, 2]
    away = np.abs(found.x - found.x[..., :1, :]).max(axis=(0, 3))  # along a row nothing changes but at the edges
    assert away[:, 1:3].max() < np.abs(found.x[:, 0] - found.x[:, 3]).max()
