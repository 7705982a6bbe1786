"""Objects in settings: described, recognised, refused in a line."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_toolkit.errors import UsageError
from ssl_toolkit.objects import describe, is_object, plain, refuse_objects


def test_objects_are_told_by_where_they_are_from_and_their_size() -> None:
    assert describe(np.zeros((2, 3), np.uint8)) == "<numpy.ndarray (2, 3) uint8>"
    assert describe(torch.zeros(2)) == "<torch.Tensor (2,) torch.float32>"
    assert describe(torch.nn.Identity()) == "<torch.nn.modules.linear.Identity>"
    assert describe(np.ndarray) == "<numpy.ndarray>"
    assert describe(plain) == "<ssl_toolkit.objects.plain>"
    assert describe(functools.partial(plain)) == "<functools.partial>"
    assert describe(3) == "<int>"


def test_a_folder_of_such_a_name_is_no_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_object("<a>")
    Path("<a>").mkdir()
    assert not is_object("<a>")
    assert not is_object("a")
    assert not is_object(3)


def test_plain_values_stay_and_objects_become_words() -> None:
    given = {"a": (1, np.float64(0.5)), "b": Path("x"), "c": None, "d": True, "e": [np.int64(2), np], "f": {"g": "h"}}
    assert plain(given) == {
        "a": [1, 0.5], "b": "x", "c": None, "d": True, "e": [2, describe(np)], "f": {"g": "h"}
    }  # fmt: skip
    assert type(plain(np.int64(2))) is int
    assert type(plain(np.float32(2))) is float


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"data": "<x>"}, "data"), ({"encoder": {"name": "<x>"}}, "encoder"), ({"callbacks": ["a", "<x>"]}, "callbacks")],
)
def test_the_setting_that_is_missing_is_named(settings: dict[str, object], name: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} was an object of Python, <x>, .*pretrain\(\.\.\., {name}=\.\.\., "):
        refuse_objects({"epochs": 3, **settings})
    refuse_objects({"epochs": 3, "method": {"name": "simclr", "temperature": 0.1}})
