import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssl_toolkit.augment import EvalView
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.scores import protocol as module
from ssl_toolkit.eval.scores.protocol import PROTOCOLS, match_labels, score
from ssl_toolkit.tasks.evaluation import evaluate


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


def test_sweep_svm_and_sgd_have_their_places(noise_images: Callable, small_encoder: Encoder) -> None:
    images = noise_images(40)
    images.pixels[:, 1] = 20 + 60 * images.labels[:, None, None]
    loader = ImageLoader(images, 16)
    options = {"sweep": {"least_steps": 60}, "sgd": {"epochs": 2, "lr": 1.0}}
    asked = ["sgd", "sweep", "svm", "knn"]
    encoders = {"trained": small_encoder, "pixels": lambda x: x.flatten(1)}
    found = score(encoders, loader, loader, asked, options=options)
    assert list(found["trained"]) == asked
    inputs = {name: [row["input"] for row in each["sweep"]["inputs"]] for name, each in found.items()}
    assert inputs == {"pixels": ["output"], "trained": ["output", "depth 2", "depth 3", "depth 4", "last 4"]}
    assert found["trained"]["sgd"]["epochs"] == 2
    assert found["trained"]["svm"]["top1"] == 1
    # Where several depths are extracted, the others read the output, and get what they get without.
    assert score(encoders, loader, loader, ["svm", "knn"])["trained"]["knn"] == found["trained"]["knn"]


def test_images_are_encoded_once_for_all_protocols_and_only_when_asked_for(noise_images: Callable) -> None:
    train, test = ImageLoader(noise_images(40), 16), ImageLoader(noise_images(12), 16)
    encoded: list[int] = []

    def encode(image: torch.Tensor) -> torch.Tensor:
        encoded.append(len(image))
        return image.flatten(1)

    score({"x": encode}, train, test, ["knn", "linear", "svm", "sweep"], options={"sweep": {"least_steps": 1}})
    assert sorted(encoded) == [12, 40]
    encoded.clear()
    score({"x": encode}, train, test, ["sgd"], options={"sgd": {"epochs": 3}})
    assert sorted(encoded) == [12, 40, 40, 40]  # the crops of three epochs


def test_without_a_test_set_sgd_trains_on_four_fifths(noise_images: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise_images(60, broken=(7,))
    seen = {}

    def spy(encode: object, train: ImageSet, test: Features, **options: object) -> dict[str, float]:
        seen["train"] = [train.path(row) for row in range(len(train))]
        seen["test"] = [images.path(index) for index in test.index]
        return {"top1": 0.5}

    monkeypatch.setattr(module, "sgd_probe", spy)
    loader = ImageLoader(images, 16, bad=BadImages(images, max_rate=0.1))
    score({"x": lambda x: x.flatten(1)}, loader, None, ["sgd"])
    assert (len(seen["train"]), len(seen["test"])) == (47, 12)
    assert sorted(seen["train"] + seen["test"]) == sorted(f"arrays#{number}" for number in range(60) if number != 7)


def test_crops_are_as_large_as_what_evaluation_shows(noise_images: Callable, small_encoder: Encoder) -> None:
    loader = ImageLoader(noise_images(16), 16)
    shapes = set()

    def encode(image: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(image.shape[2:]))
        return image.mean(dim=(2, 3))

    score({"x": encode}, loader, loader, ["sgd"], options={"sgd": {"epochs": 1}}, view=EvalView(12, 16))
    assert shapes == {(12, 12)}


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


def test_every_protocol_is_named_in_the_commands_help() -> None:
    assert set(PROTOCOLS) <= set(re.findall(r"\w+", evaluate.__doc__ or ""))
