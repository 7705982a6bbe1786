"""Values that change in the course of training: momentum of a teacher, temperatures, weight decay."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine.

    Args:
        start: Value at the beginning.
        end: Value at the end.
        progress: Share of training that is done, in [0, 1].

    Examples:
        >>> cosine(0.996, 1.0, 0.5)
        0.998
    """
    return end - (end - start) * (1 + math.cos(math.pi * progress)) / 2


def warm_up(start: float, end: float, progress: float, until: float) -> float:
    """From `start` to `end` in a straight line until `progress` is `until`, then `end`.

    Args:
        start: Value at the beginning.
        end: Value from `until` on.
        progress: Share of training that is done, in [0, 1].
        until: Share of training that is warm-up, in [0, 1].

    Examples:
        >>> [round(warm_up(0.04, 0.07, progress, until=0.5), 3) for progress in (0, 0.25, 0.5, 1)]
        [0.04, 0.055, 0.07, 0.07]
    """
    return end if progress >= until else start + (end - start) * progress / until
