"""Words in pictures, tables and pages: names that can be drawn, and as much of them as fits."""

from __future__ import annotations

import re
from typing import Any

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from ssl_toolkit.eval.scores.protocol import PROTOCOLS

ENCODERS = {"trained": "trained", "random": "random weights", "pixels": "raw pixels"}
TITLES = {name: protocol.title for name, protocol in PROTOCOLS.items()} | {"finetune": "fine-tuned"}
BASELINES = ("random", "raw pixels", "pixels")  # how their names begin


def shown(text: object, length: int | None = None) -> str:
    """Text that can be drawn and encoded, of at most `length` characters: the middle of more becomes an ellipsis.

    File names may hold line breaks, control characters and bytes that are no UTF-8; each becomes a replacement mark.
    """
    clean = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", "�", str(text))
    if length is None or len(clean) <= length:
        return clean
    return f"{clean[: length - 1 - length // 2]}…{clean[len(clean) - length // 2 :]}"


def wrapped(text: str, length: int) -> str:
    """Text in lines of at most `length` characters, broken behind what separates words and parts of names.

    Examples:
        >>> wrapped("temperature=0.1,lr=0.001", 16).split()
        ['temperature=0.1,', 'lr=0.001']
    """
    lines = [""]
    for word in re.findall(r"[^-_,/ ]*[-_,/ ]+|[^-_,/ ]+", text):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > length:
            lines.append("")
        for start in range(0, len(word), length):
            if start:
                lines.append("")
            lines[-1] += word[start : start + length]
    return "\n".join(line.rstrip() for line in lines)


def width_of(text: str, **font: Any) -> float:
    """How wide a text is drawn, points; in a font of matplotlib's (``size``, ``weight``)."""
    # Dollar signs would be read as mathematics.
    path = TextPath((0, 0), shown(text).replace("$", "S"), prop=FontProperties(**font))
    return float(path.get_extents().x1) if text.strip() else 0.0


def fitted(text: str, points: float, **font: Any) -> str:
    """As much of `text` as fits into a width, points; drawn in a font of matplotlib's (``size``, ``weight``)."""
    length, width = min(len(text), 60), 2 * points
    while length and width > points:
        width = width_of(shown(text, length), **font)
        length = min(length, int(length * points / width)) if width > points else length
    return shown(text, length)


def score_title(key: str) -> str:
    """What a protocol is called, behind the name of the labelled set where there are several (``pets: kNN``)."""
    name, colon, protocol = key.rpartition(": ")
    return f"{shown(name, 16)}{colon}{TITLES.get(protocol, shown(protocol, 24))}"
