"""PNG files: lossless, and without matplotlib's global state."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from PIL import Image

from ssl_toolkit.eval.pictures.charts import score_chart
from ssl_toolkit.eval.pictures.png import figure_png, picture_png
from ssl_toolkit.eval.pictures.themes import DARK


def test_picture_png_is_lossless() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(picture_png(picture)))) == picture).all()


def test_figures_neither_read_nor_change_global_settings() -> None:
    scores = {"trained": {"knn": {"top1": 0.75}}}
    before = dict(matplotlib.rcParams)
    first = figure_png(score_chart(scores))
    assert dict(matplotlib.rcParams) == before
    assert figure_png(score_chart(scores)) == first
    assert figure_png(score_chart(scores, theme=DARK)) != first
