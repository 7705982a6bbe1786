"""Pictures and figures as PNG files."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ssl_toolkit.errors import UsageError
from ssl_toolkit.files import make_folder, write_atomic


def picture_png(picture: NDArray[np.uint8]) -> bytes:
    """A PNG of pixels (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def figure_png(figure: Figure) -> bytes:
    """A PNG of a figure; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class may be named in a script that no installed font has: boxes are drawn, and nothing else is wrong.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def write_figure(figure: Figure, out: str | os.PathLike[str], option: str) -> None:
    """Write a figure as a PNG; its folder is made.

    Raises:
        UsageError: It cannot be written; `option` is what named it.
    """
    make_folder(Path(out).parent, option)
    try:
        write_atomic(out, lambda temporary: temporary.write_bytes(figure_png(figure)))
    except OSError as error:
        raise UsageError(f"{option} {os.fspath(out)} cannot be written: {error.strerror}") from error
