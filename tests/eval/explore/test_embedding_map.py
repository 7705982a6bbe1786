"""Maps of an index: planes by hand, and clusters that stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from explored import indexed

from ssl_toolkit.eval.explore.embedding_map import EmbeddingMap
from ssl_toolkit.eval.explore.explorer import Explorer


def test_pca_map_is_the_plane_of_largest_variance(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)) * [1, 9, 2, 3, 1, 1]
    index = indexed(tmp_path, x, [str(n) for n in range(50)], metric="l2")
    drawn = EmbeddingMap.draw(index, 40)
    assert len(set(drawn.position.tolist())) == len(drawn.xy) == 40
    assert drawn.xy.min() >= 0
    assert drawn.xy.max() <= 1
    assert np.ptp(drawn.xy, axis=0).max() == pytest.approx(1)
    part = x[drawn.position] - x[drawn.position].mean(axis=0)
    scores = part @ np.linalg.svd(part)[2][:2].T  # the axes' signs are free, their scale is one
    scores /= np.ptp(scores, axis=0).max()
    for axis in range(2):
        ours, theirs = (one[:, axis] - one[:, axis].mean() for one in (drawn.xy, scores))
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4)
    assert drawn.place is not None
    np.testing.assert_allclose(drawn.place(index.vectors[drawn.position]), drawn.xy, atol=1e-5)
    again = EmbeddingMap.draw(index, 40)
    np.testing.assert_array_equal(again.position, drawn.position)


@pytest.mark.parametrize(("count", "width"), [(1, 4), (2, 4), (5, 1)])
def test_maps_of_next_to_nothing(tmp_path: Path, count: int, width: int) -> None:
    index = indexed(tmp_path, np.random.default_rng(0).normal(size=(count, width)), list("abcde")[:count], metric="l2")
    for projection in ("pca", "tsne"):
        assert np.isfinite(EmbeddingMap.draw(index, 100, projection).xy).all()


def test_tsne_keeps_clusters_and_has_no_place_for_others(tmp_path: Path) -> None:
    group = np.arange(60) % 3
    x = 20 * np.eye(3)[group] + np.random.default_rng(0).normal(size=(60, 3))
    index = indexed(tmp_path, x, [str(n) for n in range(60)])
    drawn = EmbeddingMap.draw(index, 45, "tsne")
    near = np.linalg.norm(drawn.xy[:, None] - drawn.xy[None], axis=2) + 9 * np.eye(45)
    assert (group[drawn.position][near.argmin(axis=1)] == group[drawn.position]).all()
    made = Explorer(index, encode=lambda content: x[0], map=drawn)
    on_map = {int(position): xy for position, xy in zip(drawn.position, drawn.xy, strict=True)}
    rows = made.neighbours(int(drawn.position[0]), k=59)["hits"]
    assert {row["position"] for row in rows if row["xy"] is not None} == set(on_map) - {int(drawn.position[0])}
    row = next(row for row in rows if row["xy"] is not None)
    np.testing.assert_allclose(row["xy"], on_map[row["position"]], atol=1e-4)
    assert made.similar(b"", k=1)["query"]["xy"] is None
