"""Marks of classes: twenty colours and shapes that are told apart by everybody, on light and on dark pages."""

from __future__ import annotations

# Searched for: of five colours that stand out from both backgrounds (contrast 2.2 and 2.8 at least), those whose
# nearest two lie farthest apart in CIELAB, for common colour vision and without red, green or blue cones (Machado,
# Oliveira and Fernandes 2009): 43, where the first five of Okabe and Ito (2008) have 16.
PALETTE = ("#a90bf7", "#fb9701", "#47c1aa", "#c5002a", "#575c98")
MARKERS = ("o", "^", "s", "X")
NAMED_CLASSES = len(PALETTE) * len(MARKERS)
"""This many classes have a colour and marker of their own; the others share a grey."""


def mark(number: int) -> tuple[str, str]:
    """Colour and marker (of matplotlib's) of a class, by its number in [0, `NAMED_CLASSES`)."""
    return PALETTE[number % len(PALETTE)], MARKERS[number // len(PALETTE)]
