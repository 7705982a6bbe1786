"""The two errors a user can meet, and the words they use."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class ToolkitError(Exception):
    """Something went wrong while running; the message names the value, the place and the fix (exit code 1)."""


class UsageError(ToolkitError):
    """What was asked for cannot be done as asked: a wrong name, path, option or value (exit code 2)."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A `UsageError` for a name that does not exist, answered with the nearest names that do.

    Args:
        kind: What the name stands for, as it should read in the sentence: ``"method"``.
        name: The name that was given.
        known: All names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if near:
        return UsageError(f"unknown {kind} '{name}': did you mean {' or '.join(near)}?")
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return UsageError(f"unknown {kind} '{name}': known are {listed}")


def missing_extra(what: str, extra: str, library: str = "a library that is not installed") -> UsageError:
    """A `UsageError` for a library that only some users need, and that is not installed.

    Args:
        what: What needs it, as it should read in the sentence: ``"the UMAP map"``.
        extra: The extra of this package that brings it.
        library: What it needs, where a name or version says more.
    """
    # The package is on no index: its extras come from where the toolkit was installed from.
    return UsageError(f"{what} needs {library}: in the folder of ssl-toolkit, pip install '.[{extra}]'")


def said_by(error: Exception) -> str:
    """What a library's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def require_positive(**options: float) -> None:
    """Refuse options of a method that are not above 0.

    Raises:
        UsageError: Naming the first such option and its value.
    """
    for name, value in options.items():
        if not value > 0:
            raise UsageError(f"{_option(name)} is {value}: it must be above 0")


def require_share(**options: float) -> None:
    """Refuse options of a method that are not from 0 to 1.

    Raises:
        UsageError: Naming the first such option and its value.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{_option(name)} is {value}: it must be from 0 to 1")


def require_two_views(count: int) -> None:
    """Refuse a recipe that makes another number of views than the two that a method compares.

    Raises:
        UsageError: Naming the number.
    """
    if count != 2:
        raise UsageError(f"--views.count is {count}: the method compares two views")


def _option(name: str) -> str:
    """The parameter of a method as the command line spells it; an underscore at its end stays."""
    return "--method." + re.sub("_(?=.)", "-", name)
