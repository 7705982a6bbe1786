"""Names as they lie on the disk are the list of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ssl_toolkit.eval.search import names as module
from ssl_toolkit.eval.search.names import Chosen, Items, last_of_equals

ODD = ["plain.jpg", "line\nbreak.jpg", "bytes\udcff.jpg", 'x"label": 7, "stamp"', "", "ünï\u2028code", 'a\\"label": 3']


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"path": name, "label": place - 1, "stamp": None if place % 2 else "s"} for place, name in enumerate(ODD)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "items.jsonl"


@pytest.mark.parametrize("block", [1, 10, 64, 1 << 20])
def test_items_of_any_block_are_the_lines(file: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    items = Items(file)
    paths = items.column("path")
    assert len(items) == len(paths) == 7
    assert paths == ODD
    assert list(paths) == ODD
    assert (paths[-1], paths[1:3], paths.index("")) == (ODD[-1], ODD[1:3], 4)
    assert paths != ODD[1:]
    with pytest.raises(IndexError):
        paths[7]
    assert items.column("stamp")[:2] == ["s", None]
    np.testing.assert_array_equal(items.labels(), np.arange(7) - 1)
    assert pickle.loads(pickle.dumps(paths)) == ODD


def test_items_without_labels_have_none_to_give(file: Path) -> None:
    file.write_text(file.read_text().replace('"label": 3, "stamp"', '"label": null, "stamp"', 1))
    with pytest.raises(ValueError, match="7 items have 6 labels"):
        Items(file).labels()
    file.write_text("")
    assert len(Items(file)) == 0


def test_chosen_texts_of_several_sequences() -> None:
    chosen = Chosen([(ODD, np.array([6, 0])), (["b"], np.array([], np.int64)), (["c", "d"], np.array([1]))])
    assert chosen == [ODD[6], ODD[0], "d"]
    assert [chosen[place] for place in range(3)] == list(chosen)
    assert chosen[1:] == [ODD[0], "d"]


@pytest.mark.parametrize("collide", [False, True])
def test_of_equal_texts_the_last_sequence_counts(monkeypatch: pytest.MonkeyPatch, collide: bool) -> None:
    if collide:  # all hashes are alike, and the texts themselves decide
        monkeypatch.setattr(module, "_keys", lambda texts: np.zeros(len(texts), np.int64))
    parts: list[Sequence[str]] = [["a", "a", "b", "c"], ["b", "d"], ["a", "e"]]
    assert [kept.tolist() for kept in last_of_equals(parts)] == [[3], [0, 1], [0, 1]]
    assert [kept.tolist() for kept in last_of_equals([["a", "a"], ["b"]])] == [[0, 1], [0]]
