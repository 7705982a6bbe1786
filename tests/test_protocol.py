from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.protocol import match_labels, score


def test_scores_every_encoder_by_every_protocol(noise_images: Callable) -> None:
    images = noise_images(40)
    images.pixels[:, 1] = 20 + 60 * images.labels[:, None, None]  # the class in the second channel
    loader = ImageLoader(images, 16)
    encoders = {
        "good": lambda x: x[:, 1, :2, :2].flatten(1),
        "bad": lambda x: torch.ones(len(x), 2),
    }
    results = score(encoders, loader, loader, ["knn", "linear"])
    assert results["good"]["knn"]["top1"] <= 1
    assert results["good"]["linear"]["top1"] == 1
    assert results["bad"]["linear"]["top1"] == 0.25
    assert set(results) == {"good", "bad"}


def test_without_a_test_set_no_image_answers_itself(noise_images: Callable) -> None:
    images = noise_images(60)
    loader = ImageLoader(images, 16)
    pixels = {"pixels": lambda x: x.flatten(1)}
    alone = score(pixels, loader, None, ["knn", "linear", "low_shot"])["pixels"]
    seen = score(pixels, loader, loader, ["knn", "linear", "low_shot"])["pixels"]
    for protocol in ("knn", "linear"):
        assert seen[protocol]["top1"] > 0.9
        assert alone[protocol]["top1"] < 0.6  # noise
    assert np.sum(alone["knn"]["confusion"]) == 60
    assert np.sum(alone["linear"]["confusion"]) == 12
    assert alone["low_shot"]["budgets"][-1]["images"] < 60


def test_classes_are_matched_by_name(noise_images: Callable) -> None:
    train, test = noise_images(8), noise_images(4)
    train.classes, test.classes = ["ant", "bee", "cat", "dog"], ["dog", "bee"]
    test.labels = np.array([0, 1, 1, 0])
    match_labels(test, train)
    assert test.labels.tolist() == [3, 1, 1, 3]
    test.classes = ["eel", "bee", "x", "y"]
    with pytest.raises(UsageError, match="class 'eel' of 'arrays' is not in 'arrays'"):
        match_labels(test, train)


def test_images_without_a_label_stay_without(noise_images: Callable) -> None:
    train, test = noise_images(8), noise_images(4)
    test.labels = np.array([0, -1, 1, 2])
    match_labels(test, train)
    assert test.labels.tolist() == [0, -1, 1, 2]
    with pytest.raises(UsageError, match="1 of 4 images of the test set have no label"):
        score({"x": lambda x: x.flatten(1)}, ImageLoader(train, 16), ImageLoader(test, 16), ["knn"])


def test_unlabelled_images_are_refused(noise_images: Callable) -> None:
    train, test = noise_images(8), noise_images(4)
    test.classes = None
    with pytest.raises(UsageError, match="has no labels to score against"):
        match_labels(test, train)


def test_unknown_protocol() -> None:
    with pytest.raises(UsageError, match="unknown protocol 'linaer': did you mean linear"):
        score({}, [], [], ["linaer"])
