"""What units compute: filters, maps and patches on scales that can be compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_toolkit.eval.pictures import unit_plots
from ssl_toolkit.eval.pictures.subject import Subject
from ssl_toolkit.eval.pictures.themes import LIGHT
from tests.eval.pictures.conftest import texts


def test_filters_are_on_one_scale(convnet: Subject) -> None:
    tiles = [np.asarray(tile.get_array()).astype(float) for tile in unit_plots.draw_filters(convnet).axes[0].images]
    assert len(tiles) == 32
    spread = [np.abs(tile - 127.5).max() for tile in tiles]
    assert max(spread) == pytest.approx(127.5, abs=1)
    assert min(spread) < 120


def test_feature_maps_share_a_units_scale(convnet: Subject) -> None:
    wanted = Subject(convnet.encoder, convnet.data, 3, layer="features.2", unit=7)
    figure = unit_plots.draw_feature_maps(wanted)
    assert "unit 7" in texts(figure)
    maps = figure.axes[0].images[1:6:2]
    with torch.no_grad():
        image = convnet.data.views(convnet.encoder, wanted.rows)
        convnet.encoder.eval()
        expected = convnet.encoder.backbone.features[:3](convnet.encoder.normalize(image))[:, 7].numpy()
    for drawn, one in zip(maps, expected, strict=True):
        assert np.asarray(drawn.get_array()) == pytest.approx(one, abs=1e-4)
        assert drawn.get_clim() == pytest.approx((expected.min(), expected.max()), abs=1e-4)


def test_patches_that_the_edge_cuts_keep_their_scale() -> None:
    image = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)
    corner = unit_plots._cut(image, (0, 2, 5, 8), (4, 4), LIGHT)
    assert (corner[:, 2:, :3] == image[:, :2, 5:]).all()
    assert corner.shape == (3, 4, 4)
    beyond = np.concatenate([corner[:, :2].ravel(), corner[:, :, 3].ravel()])
    assert (beyond == beyond[0]).all()
    assert (unit_plots._cut(image, (1, 5, 2, 6), (4, 4), LIGHT) == image[:, 1:5, 2:6]).all()


def test_ascent_of_a_unit_needs_no_images(convnet: Subject, quick: None) -> None:
    alone = Subject(convnet.encoder, None, 2)
    words = texts(unit_plots.draw_ascent(alone))
    assert [word.split(":")[0] for word in words[:2]] == ["unit 0", "unit 1"]
    of_class = Subject(convnet.encoder, convnet.data, 2, target="lamp")
    assert texts(unit_plots.draw_ascent(of_class))[0].startswith("lamp: ")
