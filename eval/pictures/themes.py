"""Themes: the colours of figures on light and on dark pages."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a figure.

    Attributes:
        background: Behind everything.
        ink: Text and what stands out.
        muted: Secondary text and what others are compared with.
        faint: Grid lines and empty tiles.
        accent: The one thing that a chart is about.
        good: Right answers.
        bad: Wrong answers.
    """

    background: str
    ink: str
    muted: str
    faint: str
    accent: str
    good: str
    bad: str


LIGHT = Theme("#ffffff", "#1b2430", "#5f6b7a", "#e6e9ee", "#0a66a8", "#00805c", "#c2410c")
DARK = Theme("#171b21", "#e8ebf0", "#9aa5b4", "#2c333d", "#56b4e9", "#2dbd90", "#ff8f57")
# Beside `LIGHT` and `DARK`, for pictures with few words on them: transparent, and legible on both.
EITHER = Theme("none", "#757c86", "#757c86", "#b0b6bf", "#2a7fbf", "#00805c", "#c2410c")
