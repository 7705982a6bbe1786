"""Arguments in Python: defaults, names and types, without a parser."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.settings import with_defaults


def task(
    data: str,
    count: int = 3,
    share: float = 0.5,
    size: int | None = None,
    mode: Literal["auto", "none"] | int = "auto",
    scale: tuple[float, float] = (0.0, 1.0),
    fast: bool = False,
    anything: Any = None,
) -> None:
    """A function with one of each."""


class Options:
    """A class with options."""

    def __init__(self, encoder: object, width: int = 4) -> None: ...


def test_what_is_not_given_has_its_default() -> None:
    assert with_defaults(task, {"data": "x", "count": 7}) == {
        "data": "x", "count": 7, "share": 0.5, "size": None, "mode": "auto", "scale": (0.0, 1.0), "fast": False,
        "anything": None,
    }  # fmt: skip
    assert with_defaults(Options, {"width": 5}, "method", skip=("encoder",)) == {"width": 5}
    assert with_defaults(lambda **more: None, {"x": 1}) == {"x": 1}


def test_what_fits_is_taken_and_numbers_become_pythons() -> None:
    given = {"data": "x", "count": np.int64(2), "share": 1, "size": 9, "mode": 4, "scale": [0.1, 1], "anything": task}
    taken = with_defaults(task, given)
    assert taken == {**given, "fast": False}
    assert [type(taken[name]) for name in ("count", "share")] == [int, int]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--group.data is missing"),
        ({"data": "x", "cuont": 1}, r"unknown option 'group\.cuont': did you mean group\.count"),
        ({"data": np.zeros((50, 50))}, r"--group\.data is <numpy.ndarray \(50, 50\) float64>: it must be text"),
        ({"data": "x", "count": 1.5}, r"count is 1\.5: it must be a whole number"),
        ({"data": "x", "count": True}, "count is True: it must be a whole number"),
        ({"data": "x", "share": "1"}, "share is '1': it must be a number"),
        ({"data": "x", "size": "big"}, "size is 'big': it must be a whole number or None"),
        ({"data": "x", "mode": "fast"}, "mode is 'fast': it must be auto or none or a whole number"),
        ({"data": "x", "scale": (1.0,)}, r"scale is \(1\.0,\): it must be \(a number, a number\)"),
        ({"data": "x", "scale": "ab"}, "scale is 'ab'"),
        ({"data": "x", "fast": 1}, "fast is 1: it must be True or False"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        with_defaults(task, given, "group")
    assert "\n" not in str(error.value)
