"""Parts of the page: what one shows, or why it is not there."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from matplotlib.figure import Figure

from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.pictures.png import figure_png
from ssl_toolkit.eval.pictures.themes import DARK, LIGHT, Theme

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Part(Generic[T]):
    """A part of the page: its content, or why there is none."""

    content: T | None
    missing: str = ""

    def needed(self) -> T:
        """The content, by others that cannot do without.

        Raises:
            ToolkitError: There is none.
        """
        if self.content is None:
            raise ToolkitError(self.missing)
        return self.content


def attempt(make: Callable[[], T]) -> Part[T]:
    """A part, or the error that it ended in."""
    try:
        return Part(make())
    except (ToolkitError, OSError) as error:
        return Part(None, str(error))


def chart_of(
    draw: Callable[[Theme], Figure],
    alt: str,
    themes: Sequence[Theme] = (LIGHT, DARK),
) -> dict[str, Any]:
    """A figure for light pages and one for dark pages if that is another, for the browser to choose."""
    figures = [draw(theme) for theme in themes]
    width, height = figures[0].get_size_inches()
    light, *dark = [data_uri(figure_png(figure)) for figure in figures]
    # In CSS pixels.
    return {"alt": alt, "width": round(96 * width), "height": round(96 * height), "light": light, "dark": dark}


def data_uri(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
