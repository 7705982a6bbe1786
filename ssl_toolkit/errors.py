"""The two errors a user can meet, and the words they use."""

from __future__ import annotations

import difflib
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
