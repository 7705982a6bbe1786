"""Rankings judged by a ground truth, beside slow ways to do it and scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search import judged

RNG = np.random.default_rng(0)


def one_query(ranking: list[int], right: set[int], junk: set[int]) -> tuple[float, dict[int, float]]:
    """Step by step: go down the list, pass over junk, and take trapezoids below precision over recall."""
    seen, hits, area, positions = 0, 0, 0.0, []
    for image in ranking:
        if image in junk:
            continue
        if image in right:
            before = 1.0 if seen == 0 else hits / seen
            area += (before + (hits + 1) / (seen + 1)) / 2 / len(right)
            hits += 1
            positions.append(seen + 1)
        seen += 1
    precision = {}
    for k in (1, 5, 10):
        depth = min(k, positions[-1])
        precision[k] = sum(place <= depth for place in positions) / depth
    return area, precision


def test_revisited_is_what_going_down_the_list_gives() -> None:
    similarity = RNG.standard_normal((6, 40))
    answers = []
    for _ in range(6):
        drawn = RNG.permutation(40).tolist()
        answers.append({"easy": drawn[:4], "hard": drawn[4:9], "junk": drawn[9:15]})
    answers[2]["easy"] = []  # nothing to be found in the easy setting: it does not count there
    found = judged.revisited(similarity, answers)
    roles = {"easy": (("easy",), ("hard", "junk")), "medium": (("easy", "hard"), ("junk",)),
             "hard": (("hard",), ("easy", "junk"))}  # fmt: skip
    for setting, (good, bad) in roles.items():
        expected = []
        for row, answer in zip(similarity, answers, strict=True):
            right, junk = ({place for key in keys for place in answer[key]} for keys in (good, bad))
            if right:
                expected.append(one_query(np.argsort(-row).tolist(), right, junk))
        assert found[setting]["queries"] == (5 if setting == "easy" else 6)
        assert found[setting]["map"] == pytest.approx(np.mean([area for area, _ in expected]))
        for k in (1, 5, 10):
            assert found[setting][f"mp@{k}"] == pytest.approx(np.mean([precision[k] for _, precision in expected]))


def test_a_perfect_ranking_and_junk_before_it() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, 0.1]])
    found = judged.revisited(similarity, [{"easy": [1], "hard": [2], "junk": [0]}])
    assert [found[setting]["map"] for setting in ("easy", "medium", "hard")] == [1, 1, 1]
    assert found["medium"]["mp@10"] == 1
    last = judged.revisited(similarity, [{"easy": [3], "hard": [], "junk": []}])
    assert last["easy"]["map"] == pytest.approx((0 + 1 / 4) / 2)
    assert last["easy"]["mp@1"] == 0
    assert last["hard"]["queries"] == 0
    assert np.isnan(last["hard"]["map"])


def test_micro_average_precision_is_scikit_learns_where_all_is_answered() -> None:
    score, right = RNG.integers(0, 30, 200) / 10, RNG.random(200) < 0.2  # with ties
    assert judged.micro_average_precision(score, right, int(right.sum())) == pytest.approx(
        average_precision_score(right, score)
    )
    # What was not given counts as never found.
    assert judged.micro_average_precision(score, right, 2 * int(right.sum())) == pytest.approx(
        average_precision_score(right, score) / 2
    )


def test_ground_truths_are_read_and_what_is_none_refused(tmp_path: Path) -> None:
    truth = {
        "imlist": ["a", "b"],
        "qimlist": ["q"],
        "gnd": [{"bbx": [1, 2, 3.5, 4], "easy": [0], "hard": [], "junk": [1]}],
    }
    (tmp_path / "gnd.json").write_text(json.dumps(truth))
    database, (question,) = judged.read_revisited(tmp_path / "gnd.json")
    assert database == ["a", "b"]
    assert question == ("q", (1, 2, 3.5, 4), {"easy": [0], "hard": [], "junk": [1]})
    truth["gnd"][0]["easy"] = [2]  # type: ignore[index]
    (tmp_path / "gnd.json").write_text(json.dumps(truth))
    for path in (tmp_path / "gnd.json", tmp_path / "no.json"):
        with pytest.raises(UsageError, match="--truth"):
            judged.read_revisited(path)
    (tmp_path / "copies.csv").write_text("query_id,reference_id\nQ1,R1\nQ2,\nQ3,R1\n")
    assert judged.read_copies(tmp_path / "copies.csv") == {("Q1", "R1"), ("Q3", "R1")}
    for text, message in (("a,b\n1,2\n", "no columns"), ("query_id,reference_id\nQ,\n", "names no copy")):
        (tmp_path / "copies.csv").write_text(text)
        with pytest.raises(UsageError, match=message):
            judged.read_copies(tmp_path / "copies.csv")
