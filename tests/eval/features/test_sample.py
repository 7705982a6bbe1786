"""Images drawn for pictures: the same each time, one a class, as the encoder is shown them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.eval.features.sample import Sample, one_a_class, shuffled


def test_sample_is_drawn_at_random_and_the_same_each_time(small_encoder: Encoder, noise_images: Any) -> None:
    images = noise_images(20, broken=(3,))
    sample = Sample.take(small_encoder, images, 20)
    assert len(sample.features) == 19
    drawn = [int(sample.pictures(16)[row][0, 0, 0]) for row in range(19)]  # an image's first pixel is its number
    assert sorted(drawn) == [number for number in range(20) if number != 3]
    assert drawn != sorted(drawn)
    assert drawn == [number for number in shuffled(images) if number != 3]
    assert [int(label) for label in sample.labels] == [number % 4 for number in drawn]
    assert shuffled(images, 1).tolist() != shuffled(images).tolist()


def test_views_are_what_was_encoded(small_encoder: Encoder, noise_images: Any) -> None:
    sample = Sample.take(small_encoder, noise_images(9, broken=(0,)), 9)
    view = sample.views(small_encoder, [6, 2])
    assert view.shape == (2, 3, 16, 16)
    with torch.no_grad():
        features = small_encoder.eval()(view).numpy()
    np.testing.assert_allclose(features, sample.features.x[[6, 2]], rtol=1e-4, atol=1e-5)


def test_queries_areone_a_class_in_the_order_drawn() -> None:
    assert one_a_class(["b", "b", "a", None, "b", "a"], 5) == [0, 2, 3, 1, 5]
    assert one_a_class([None, None, None], 2) == [0, 1]
