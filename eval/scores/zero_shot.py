"""Zero-shot classification: an image is of the class whose prompts its features are nearest to; nothing is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features.extraction import Features, check_labelled
from ssl_toolkit.eval.scores.knn import unit
from ssl_toolkit.eval.scores.metrics import accuracies, rank_of

# Texts to vectors of unit length (N, D), in the space of the features.
EncodeTexts: TypeAlias = Callable[[list[str]], NDArray[np.float32]]

HOLE = "{}"


def prompts_of(lines: Sequence[str], classes: Sequence[str]) -> dict[str, list[str]]:
    """The prompts of each class.

    Args:
        lines: Each a template, which has ``{}`` for the name of the class, or ``CLASS: TEXT`` for one class alone;
            empty ones, and those that begin with ``#``, say nothing. None at all: the names themselves.
        classes: Their names, in which ``_`` becomes a space where a template takes them.

    Raises:
        UsageError: A line is neither, a class has no prompts, or one is named that there is not.

    Examples:
        >>> prompts_of(["a {}", "car: an automobile"], ["red_house", "car"])
        {'red_house': ['a red house'], 'car': ['a car', 'an automobile']}
    """
    found: dict[str, list[str]] = {name: [] for name in classes}
    said = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for line in said or [HOLE]:
        if HOLE in line:
            for name, prompts in found.items():
                prompts.append(line.replace(HOLE, name.replace("_", " ")))
            continue
        name, colon, text = line.partition(":")
        if not colon or not text.strip():
            raise UsageError(f"--prompts: '{line}' is neither a template with {HOLE} nor CLASS: TEXT")
        if name not in found:
            raise unknown_name("class of --prompts", name, classes)
        found[name].append(text.strip())
    if missing := [name for name, prompts in found.items() if not prompts]:
        raise UsageError(f"--prompts has none for the class '{missing[0]}' ({len(missing)} such classes)")
    return found


def class_vectors(prompts: dict[str, list[str]], encode: EncodeTexts) -> NDArray[np.float32]:
    """A vector of unit length for each class, (K, D): the mean of those of its prompts.

    Source: Radford et al. 2021 (CLIP), section 3.1.4, ensembling over the embedding space.
    """
    x = encode([text for each in prompts.values() for text in each])
    ends = np.cumsum([len(each) for each in prompts.values()])[:-1]
    return unit(np.stack([part.mean(axis=0) for part in np.split(x, ends)]))


def zero_shot(features: Features, classes: NDArray[np.float32]) -> dict[str, Any]:
    """Accuracy of the nearest class by cosine.

    Args:
        features: Labelled, (N, D).
        classes: A vector for each class, (K, D), of unit length.

    Returns:
        What `accuracies` says of the answers.

    Source: Radford et al. 2021 (CLIP), section 3.1.
    """
    check_labelled(features, features)
    score = unit(features.x) @ classes.T
    rank = rank_of(score, features.label)
    return accuracies(rank, score.argmax(axis=1), features.label, len(classes))
