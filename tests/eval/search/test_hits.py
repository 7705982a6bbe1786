"""What a search found, for JSON and for the eye."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import BuildIndex


def test_rows_are_ready_for_json(build_index: BuildIndex) -> None:
    x = np.array([[1, 0], [0.6, 0.8]], np.float32)
    rows = build_index(x, ["a.jpg", "b.jpg"], labels=np.array([0, 1]), classes=["cat", "dog"]).search(x[:1], k=2).rows()
    again = json.loads(json.dumps(rows))
    assert again == rows
    assert [list(row) for row in rows[0]] == [["rank", "path", "score", "label"]] * 2
    assert [(row["rank"], row["path"], row["label"]) for row in rows[0]] == [(1, "a.jpg", "cat"), (2, "b.jpg", "dog")]
    assert [row["score"] for row in rows[0]] == pytest.approx([1, 0.6], abs=1e-6)


def test_a_line_says_what_was_found(build_index: BuildIndex) -> None:
    x = np.array([[1, 0], [0.6, 0.8]], np.float32)
    index = build_index(x, ["a\n.jpg", "b.jpg"])
    assert repr(index.search(x, k=2)) == r"Hits(2 queries, 2 each, cosine, first 'a\n.jpg' 1.000)"
    assert repr(index.search(x[:0], k=2)) == "Hits(0 queries, 2 each, cosine)"
    assert repr(build_index(x, metric="l2").search(x, k=1)) == "Hits(2 queries, 1 each, l2, first '0.jpg' 0.000)"
