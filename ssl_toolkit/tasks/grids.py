"""Grids: options with the values that they take in turn, their combinations, and a name for each of these."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import yaml

from ssl_toolkit.errors import UsageError
from ssl_toolkit.randomness import numpy_generator

LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True)
class Span:
    """All numbers from `low` to `high`, of which some are drawn, evenly or, with `log`, evenly in their logarithm."""

    low: float
    high: float
    log: bool

    def at(self, share: float) -> float | int:
        """The number at a share of the way, in [0, 1], with four digits.

        Examples:
            >>> Span(1e-4, 1e-2, log=True).at(0.5)
            0.001
        """
        value = self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share
        return _number(f"{value:.4g}")


NAMED = ("method.name", "encoder.name")  # whose groups alone stand for them; an optimiser's is an option as others are

Axes: TypeAlias = "dict[str, list[Any] | Span]"


def parse_grid(grid: Sequence[str] | Mapping[str, Any]) -> Axes:
    """Options and their values.

    Args:
        grid: ``KEY=VALUE,VALUE``, ``KEY=log:LOW:HIGH:COUNT`` or ``KEY=lin:LOW:HIGH:COUNT`` each, the count only where
            all combinations are wanted; or a mapping of such keys to such texts or to lists of values.

    Raises:
        UsageError: In one line, naming the word.
    """
    axes: Axes = {}
    for key, values in grid.items() if isinstance(grid, Mapping) else map(_split, grid):
        name = key.removeprefix("--").replace("-", "_")
        if name in NAMED:
            name = name.removesuffix(".name")
        if name in axes:
            raise UsageError(f"--grid names {key} twice: give all its values at once")
        axes[name] = _values(key, values) if isinstance(values, str) else list(values)
        found = axes[name]
        if isinstance(found, list):
            _check(key, found)
    return axes


def _split(word: str) -> tuple[str, str]:
    key, equals, values = word.partition("=")
    if not (key and equals):
        raise UsageError(f"--grid {word}: write KEY=VALUE,VALUE, such as optimizer.lr=0.001,0.01")
    return key, values


def _values(key: str, text: str) -> list[Any] | Span:
    if not re.match("(log|lin):", text):
        words = re.split(r",(?![^\[]*\])", text) if text else []
        if not all(words):
            raise UsageError(f"--grid {key}={text} has an empty value: there is a comma too many")
        return [_scalar(word) for word in words]
    form = f"--grid {key}={text}: write {text[:3]}:LOW:HIGH:COUNT, such as log:1e-4:1e-2:5"
    try:
        low, high, *counts = text[4:].split(":")
        span, count = Span(float(low), float(high), text.startswith("log")), [int(each) for each in counts]
    except ValueError as error:
        raise UsageError(form) from error
    if len(count) > 1 or not (math.isfinite(span.low) and math.isfinite(span.high)):
        raise UsageError(form)
    if span.low >= span.high:
        raise UsageError(f"--grid {key}={text}: {low} must be below {high}")
    if span.log and span.low <= 0:
        raise UsageError(f"--grid {key}={text}: a logarithmic range must be above 0, and {low} is not; lin: may be")
    if not count:
        return span
    if count[0] < 2:
        raise UsageError(f"--grid {key}={text}: {count[0]} values are no range, give at least 2")
    return [span.at(number / (count[0] - 1)) for number in range(count[0])]


def _scalar(word: str) -> Any:
    """A value as the command line takes it: a number, true, false, null, a list in brackets, or text."""
    with contextlib.suppress(ValueError):
        return _number(word)  # which YAML does not know without a point: 1e-4
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return int(value) if value.is_integer() else value


def _check(key: str, values: Sequence[Any]) -> None:
    if not values:
        raise UsageError(f"--grid {key} has no values: write {key}=VALUE,VALUE")
    for number, value in enumerate(values):
        if value in values[:number]:
            raise UsageError(f"--grid {key} has {value} twice: each combination is trained once")


def combinations(axes: Axes, random: int | None = None) -> list[dict[str, Any]]:
    """The combinations of the values, the last option changing fastest; or `random` of them, always the same.

    Raises:
        UsageError: A range says no number of values and nothing is drawn, or `random` is below 1.
    """
    if random is not None:
        if random < 1:
            raise UsageError(f"--random is {random}: it must be at least 1")
        return _drawn(axes, random)
    for key, values in axes.items():
        if isinstance(values, Span):
            raise UsageError(f"--grid {key} is a range without a number of values: put it behind, or give --random")
    lists = [values for values in axes.values() if isinstance(values, list)]
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*lists)]


def _drawn(axes: Axes, count: int) -> list[dict[str, Any]]:
    """Different combinations, of all there are at most; the first ones stay when more are asked for."""
    generator = numpy_generator(0, "sweep")
    sizes = [len(values) if isinstance(values, list) else math.inf for values in axes.values()]
    wanted, found = min(count, math.prod(sizes)), dict[str, dict[str, Any]]()
    while len(found) < wanted:
        shares = generator.random(len(axes))
        chosen = {
            key: values.at(share) if isinstance(values, Span) else values[int(share * len(values))]
            for (key, values), share in zip(axes.items(), shares, strict=True)
        }
        found.setdefault(repr(chosen), chosen)
    return list(found.values())


def names_of(chosen: Sequence[Mapping[str, Any]]) -> list[str]:
    """A readable name for each combination, unlike those of the others, fit for a folder.

    Examples:
        >>> names_of([{"method.temperature": 0.1, "optimizer.lr": 1e-4}])
        ['temperature=0.1,lr=0.0001']
    """
    keys = list(chosen[0]) if chosen else []
    ends = [key.rpartition(".")[2] for key in keys]
    labels = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
    names: list[str] = []
    for options in chosen:
        text = ",".join(f"{labels[key]}={_in_name(value)}" for key, value in options.items())[:LONGEST_NAME] or "run"
        again = sum(name == text or name.startswith(f"{text}~") for name in names)
        names.append(f"{text}~{again + 1}" if again else text)
    return names


def _in_name(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "-", f"{value:g}" if isinstance(value, float) else str(value)).strip("-")
