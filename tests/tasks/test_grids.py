"""Grids: what the words of ``--grid`` mean, each wrong one in a line, and names for folders."""

from __future__ import annotations

from typing import Any

import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.grids import combinations, names_of, parse_grid


def test_words_become_values() -> None:
    words = [
        "method.temperature=.1,.2,1e-3", "optimizer.lr=log:1e-4:1e-2:3", "epochs=lin:2:10:3",
        "encoder.name=convnet,test_vit", "optimizer.name=sgd,lars", "views.crop-scale=[0.2,1.0],[0.5,1.0]",
        "doctor=true,false", "image_size=null,32",
    ]  # fmt: skip
    assert parse_grid(words) == {
        "method.temperature": [0.1, 0.2, 0.001],
        "optimizer.lr": [0.0001, 0.001, 0.01],
        "epochs": [2, 6, 10],
        "encoder": ["convnet", "test_vit"],
        "optimizer.name": ["sgd", "lars"],
        "views.crop_scale": [[0.2, 1.0], [0.5, 1.0]],
        "doctor": [True, False],
        "image_size": [None, 32],
    }
    assert all(type(epochs) is int for epochs in parse_grid(words)["epochs"])  # type: ignore[union-attr]
    assert parse_grid({"epochs": [1, 2], "optimizer.lr": "log:1:4:3"}) == {"epochs": [1, 2], "optimizer.lr": [1, 2, 4]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["epochs"], "--grid epochs: write KEY=VALUE,VALUE"),
        (["=1"], "--grid =1: write KEY"),
        (["epochs="], "--grid epochs has no values"),
        (["epochs=1,,2"], "--grid epochs=1,,2 has an empty value"),
        (["epochs=1,2,1"], "--grid epochs has 1 twice"),
        (["optimizer.lr=1e-3,0.001"], r"--grid optimizer.lr has 0.001 twice"),
        (["epochs=1", "epochs=2"], "--grid names epochs twice"),
        (["image-size=8", "image_size=9"], "--grid names image_size twice"),
        (["optimizer.lr=log:-1:1:3"], "a logarithmic range must be above 0, and -1 is not"),
        (["optimizer.lr=log:0:1:3"], "a logarithmic range must be above 0, and 0 is not"),
        (["optimizer.lr=log:1:0.1:3"], "1 must be below 0.1"),
        (["optimizer.lr=log:1:2:1"], "1 values are no range"),
        (["optimizer.lr=log:1:2:3:4"], "write log:LOW:HIGH:COUNT"),
        (["optimizer.lr=lin:a:2:3"], "write lin:LOW:HIGH:COUNT"),
        (["optimizer.lr=log:1"], "write log:LOW:HIGH:COUNT"),
        (["optimizer.lr=lin:1:inf:3"], "write lin:LOW:HIGH:COUNT"),
    ],
)
def test_wrong_words_are_named_in_a_line(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_grid(words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_all_combinations_the_last_option_changing_fastest() -> None:
    found = combinations(parse_grid(["a=1,2", "b=x,y"]))
    assert found == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert combinations({}) == [{}]
    with pytest.raises(
        UsageError, match="--grid lr is a range without a number of values: put it behind, or give --random"
    ):
        combinations(parse_grid(["lr=log:1:2"]))


def test_some_are_drawn_always_the_same_and_within_the_ranges() -> None:
    axes = parse_grid(["lr=log:1e-4:1e-2", "t=1,2,3"])
    found = combinations(axes, 200)
    assert combinations(axes, 50) == found[:50]
    assert len({row["lr"] for row in found}) > 190
    assert all(1e-4 <= row["lr"] <= 1e-2 for row in found)
    assert 70 < sum(row["lr"] < 1e-3 for row in found) < 130  # half of them: even in the logarithm
    assert {row["t"] for row in found} == {1, 2, 3}
    every = combinations(parse_grid(["a=1,2", "b=1,2,3"]), 100)
    assert len(every) == 6
    assert len({tuple(row.values()) for row in every}) == 6
    with pytest.raises(UsageError, match="--random is 0"):
        combinations(axes, 0)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ([{"method.temperature": 0.1, "optimizer.lr": 1e-05}], ["temperature=0.1,lr=1e-05"]),
        ([{"encoder.name": "a", "method.name": "b"}], ["encoder.name=a,method.name=b"]),
        ([{"data": "../x/y z"}, {"data": ".. x y z"}], ["data=..-x-y-z", "data=..-x-y-z~2"]),
        ([{"views.crop_scale": [0.2, 1.0]}], ["crop_scale=0.2-1.0"]),
        ([{}], ["run"]),
    ],
)  # fmt: skip
def test_names_are_readable_and_fit_for_folders(chosen: list[dict[str, Any]], names: list[str]) -> None:
    assert names_of(chosen) == names
