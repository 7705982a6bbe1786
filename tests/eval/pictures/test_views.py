"""Views: each below its image."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_toolkit.eval.pictures.views import views_figure
from tests.conftest import BLUE, RED, pixels, plain


def test_views_figure_has_images_above_their_views() -> None:
    figure = views_figure([plain(RED)] * 3, [[plain(BLUE, 5) / np.float32(255)] * 3, [plain((9,), 4)] * 3])
    picture = pixels(figure)
    (red, blue, grey) = ((picture == colour).all(axis=2) for colour in (RED, BLUE, (9, 9, 9)))
    sizes = [int(mask.sum()) for mask in (red, blue, grey)]
    assert min(sizes) > 30_000
    assert max(sizes) < 1.03 * min(sizes)  # edges lie between pixels
    assert red.nonzero()[0].max() < blue.nonzero()[0].min() < blue.nonzero()[0].max() < grey.nonzero()[0].min()
    assert {text.get_text() for text in figure.axes[0].texts} == {"image", "view 1", "view 2"}


def test_views_figure_needs_a_view_of_every_image() -> None:
    with pytest.raises(ValueError, match="2 images"):
        views_figure([plain(RED)] * 2, [[plain(RED)]])
