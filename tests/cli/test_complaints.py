"""What the parser says of wrong words: a line, in which the option is written as users write it."""

from __future__ import annotations

import pytest

from ssl_toolkit.cli import dispatch
from ssl_toolkit.errors import UsageError

START = ["pretrain", "--method", "simclr", "--data", "shapes:train", "--out", "unused"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*START, "--epochs", "x"], "--epochs is x: it must be a whole number"),
        ([*START, "--epochs=1.5"], "--epochs is 1.5: it must be a whole number"),
        ([*START, "--image-size", "big"], "--image-size is big: it must be a whole number"),
        ([*START, "--optimizer.weight-decay", "fast"], "--optimizer.weight-decay is fast: it must be a number"),
        ([*START, "--labels", "fodler"], "--labels is fodler: it must be auto or folder or none"),
        ([*START, "--workers", "all"], "--workers is all: it must be a whole number or auto"),
        ([*START, "--encoder.mean", "[a]"], "--encoder.mean is ['a']: it must be a list, each of it a number"),
        (
            [*START, "--optimizer", "adamm"],
            "--optimizer is adamm: it must be adamw or adam or sgd or lars or rmsprop or",
        ),
        ([*START, "--epochs"], "--epochs needs a value behind it"),
        ([*START, "perhaps", "not"], "too much is given: perhaps not; put quotes around what holds spaces"),
        (START[:-2], "--out is missing"),
        (["pretrain", "--method", "simclr"], "--out and --data are missing"),
        (["search", "index"], "queries is missing"),
        (["sweep", *START[1:]], "--grid is missing"),
    ],
)
def test_wrong_words_in_ours(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        dispatch(words)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
