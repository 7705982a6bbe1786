"""The progress bar that everything long shows."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int | None, what: str, unit: str, show: bool = True, done: int = 0) -> tqdm[Any]:
    """A bar on stderr; in a file or a pipe, where each turn is a new line, a few lines a minute.

    Args:
        total: Units to do, if known.
        what: What is being done.
        unit: Name of a unit.
        show: Whether anything is shown.
        done: Units done before.
    """
    tty = sys.stderr.isatty()
    # tqdm's monitor thread would force lines out of a bar that is meant to be slow.
    tqdm.monitor_interval = 0
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        mininterval=0.5 if tty else 20.0,
        miniters=1,
        disable=not show,
        leave=tty,
        dynamic_ncols=tty,
    )
