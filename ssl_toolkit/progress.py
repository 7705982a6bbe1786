"""What everything long tells its user: a progress bar, and lines of text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def say(text: str) -> None:
    """Tell the user what is happening, on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def progress_bar(total: int | None, what: str, unit: str, show: bool = True, done: int = 0) -> tqdm[Any]:
    """A bar on stderr, or in a notebook; in a file or a pipe, where each turn is a new line, a few lines a minute.

    Args:
        total: Units to do, if known.
        what: What is being done.
        unit: Name of a unit.
        show: Whether anything is shown.
        done: Units done before.
    """
    from tqdm.auto import tqdm  # imports much that a command without a bar can do without

    moves = sys.stderr.isatty() or "ipykernel" in sys.modules
    # tqdm's monitor thread would force lines out of a bar that is meant to be slow.
    tqdm.monitor_interval = 0
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        mininterval=0.5 if moves else 20.0,
        miniters=1,
        disable=not show,
        leave=moves,
        dynamic_ncols=moves,
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
