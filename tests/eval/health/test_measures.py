"""Measures: of the right views, of the newest weights, and without a trace."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ssl_toolkit.contrastive.simsiam import SimSiam
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.health.findings import examine
from ssl_toolkit.eval.health.measures import beside_a_guess, examine_method, numbers, views_of
from ssl_toolkit.pretext.rotation import Rotation

SMALL = {"projection_dim": 128, "hidden_dim": 32}


def test_looks_are_the_rows_that_have_them() -> None:
    rows = [
        {"step": "1", "loss": "2.0", "grad_norm": "", "uniformity": ""},
        {"step": "2", "loss": "1.0", "grad_norm": "0.5", "uniformity": "-1"},
    ]
    assert numbers(rows) == [{"step": 2.0, "grad_norm": 0.5, "uniformity": -1.0}]
    with pytest.raises(ToolkitError, match=r"metrics\.csv is damaged.*'x'"):
        numbers([{"step": "2", "grad_norm": "x"}])


def test_views_are_told_apart_and_rows_belong_together() -> None:
    z = torch.arange(24.0).view(12, 2)
    for seen in ([z], [z[:4], z[4:]]):  # both views in one call, or in two
        one, other = views_of(seen, images=4, views=3, limit=2)
        assert one.tolist() == [[0, 1], [6, 7]]
        assert other.tolist() == [[8, 9], [14, 15]]
    (alone,) = views_of([z], images=4, views=1)
    assert len(alone) == 12


def test_only_a_head_on_features_solves_a_task(small_encoder: Encoder) -> None:
    chance = math.log(4)
    found = beside_a_guess(Rotation(small_encoder, Rotation.default_views(16)), 0.5 * chance, 8)
    assert found == pytest.approx({"above_chance": -0.5 * chance, "solved": 0.5})
    compared = beside_a_guess(SimSiam(small_encoder, SimSiam.default_views(16)), -1.0, 8)  # as when it has collapsed
    assert set(compared) == {"above_chance"}


def test_a_task_is_solved_by_features_of_which_one_part_is_common(train_quickly: Callable, shapes: ImageSet) -> None:
    method = train_quickly(Rotation, shapes, epochs=1, batch_size=50)
    found = examine_method(method, ImageLoader(shapes, 16, batch_size=100, shuffle=True))
    loss = found["step"]["loss"]
    assert found["features"]["solved"] == pytest.approx(1 - loss / math.log(4), abs=1e-5)


def test_a_method_is_measured_as_it_is_kept(train_quickly: Callable, shapes: ImageSet) -> None:
    method = train_quickly(SimSiam, shapes, epochs=1, batch_size=50, method=SMALL)
    weights = {key: value.clone() for key, value in method.state_dict().items()}
    found = examine_method(method, ImageLoader(shapes, 16, batch_size=100, shuffle=True))
    assert set(found) == {"embedding", "features", "step"}
    assert set(found["embedding"]) == {"effective_rank", "embedding_std", "uniformity", "alignment"}
    assert found["step"]["above_chance"] == found["step"]["loss"]
    assert all(torch.equal(weights[key], value) for key, value in method.state_dict().items())
    assert set(examine_method(method, ImageLoader(shapes, 16), heads=False)) == {"features"}


def test_a_method_that_gives_one_embedding_is_found(train_quickly: Callable, shapes: ImageSet) -> None:
    method = train_quickly(SimSiam, shapes, epochs=1, batch_size=50, method=SMALL)
    with torch.no_grad():
        method.projector[-2].weight.zero_()
        method.projector[-1].running_mean.add_(1)  # every image at the same place
    found = examine_method(method, ImageLoader(shapes, 16, batch_size=100, shuffle=True))
    assert [each.name for each in examine(found["embedding"])] == ["collapse"]
