from __future__ import annotations

import numpy as np
import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.eval.scores.zero_shot import class_vectors, prompts_of, zero_shot


def encode(texts: list[str]) -> np.ndarray:
    """Made-up vectors: the word that a text ends with decides the axis, "not" turns it round."""
    axes = {"house": 0, "car": 1, "mug": 2}
    x = np.zeros((len(texts), 4), np.float32)
    for row, text in enumerate(texts):
        x[row, axes[text.split()[-1]]] = -1 if "not" in text else 1
        x[row, 3] = 0.1 * len(text)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_prompts_of_templates_and_of_single_classes() -> None:
    lines = ["# how they are said", "a photo of a {}", "", "car: an automobile: red", "the {}"]
    assert prompts_of(lines, ["red_house", "car"]) == {
        "red_house": ["a photo of a red house", "the red house"],
        "car": ["a photo of a car", "an automobile: red", "the car"],
    }
    assert prompts_of([], ["red_house", "car"]) == {"red_house": ["red house"], "car": ["car"]}
    assert prompts_of(["# nothing"], ["car"]) == {"car": ["car"]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a photo"], r"--prompts: 'a photo' is neither a template with \{\} nor CLASS: TEXT"),
        (["car:"], "neither a template"),
        (["cat: a cat", "car: a car", "house: a house"], "class of --prompts 'cat'.*car"),
        (["car: a car"], r"--prompts has none for the class 'house' \(1 such classes\)"),
    ],
)
def test_prompts_that_leave_questions_are_refused(lines: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompts_of(lines, ["house", "car"])


def test_a_class_is_the_mean_of_its_prompts() -> None:
    prompts = {"house": ["a house"], "car": ["a car", "some very long words about a car"]}
    found = class_vectors(prompts, encode)
    x = encode(["a house", "a car", "some very long words about a car"])
    mean = (x[1] + x[2]) / 2
    np.testing.assert_allclose(found, [x[0], mean / np.linalg.norm(mean)], atol=1e-6)


def test_answers_are_the_nearest_by_cosine() -> None:
    """The second image is nearer to the first class by the inner product, and to its own by the angle."""
    classes = np.eye(3, 4, dtype=np.float32)
    x = np.array([[5, 0, 0, 0], [0, 0.01, 0, 0], [0, 3, 0, 1], [0, 0.1, 0.2, 9]], np.float32)
    found = zero_shot(Features(x, np.array([0, 1, 2, 2]), np.arange(4)), classes)
    assert found["top1"] == 0.75
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert found["top5"] == 1
    assert zero_shot(Features(x, np.array([1, 0, 0, 0]), np.arange(4)), classes)["top1"] == 0


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1 of 2 images .* have no label"):
        zero_shot(Features(np.eye(2, 4, dtype=np.float32), np.array([0, -1]), np.arange(2)), np.eye(3, 4))
