"""Scores in words."""

from __future__ import annotations

from ssl_toolkit.eval.report.score_parts import scores_part, verdict


def test_verdict() -> None:
    scores = {name: {"knn": {"top1": top1}} for name, top1 in (("trained", 0.7), ("random", 0.75), ("pixels", 0.41))}
    assert verdict(scores) == (
        "kNN on the trained features names 70.0 % of the test images right: 29.0 points more than raw pixels and "
        "5.0 points fewer than random weights."
    )
    assert verdict({"trained": {"linear": {"top1": 0.5}}, "random": {"linear": {"top1": 0.5}}}) == (
        "linear probe on the trained features names 50.0 % of the test images right: as many as random weights."
    )
    assert verdict({"trained": scores["trained"]}).endswith("names 70.0 % of the test images right.")


def test_what_needs_no_labels_and_calibration_are_parts_of_a_set() -> None:
    labelled = {
        "protocol": {"train": {}, "test": {}, "classes": 2},
        "results": {"trained": {"knn": {"top1": 0.5}, "linear": {"top1": 0.75, "ece": 0.0314}}},
        "measures": {"trained": {"rankme": 12.345, "lidar": 3.0}, "random": {"rankme": 2.0}},
    }
    part = scores_part(labelled | {"encoder": {}}, None, "runs/a")["sets"][0]
    assert part["ece"] == ["", "3.1"]
    assert part["measures"]["encoders"] == ["trained", "random weights"]
    assert [(each.title, cells) for each, cells in part["measures"]["rows"]] == [
        ("RankMe", ["12.35", "2"]), ("LiDAR", ["3", ""])
    ]  # fmt: skip
    assert scores_part({**labelled, "measures": {}, "encoder": {}}, None, "runs/a")["sets"][0]["measures"] is None


def test_corruptions_are_listed_best_first() -> None:
    found = {"top1": 0.3, "clean": 0.5, "by_corruption": {"gaussian_noise": 0.1, "jpeg": 0.45}}
    labelled = {"protocol": {"train": {}, "test": {}}, "results": {"trained": {"corruptions": found}}, "encoder": {}}
    assert scores_part(labelled, None, "runs/a")["sets"][0]["spoilt"] == (
        "Corrupted, means over five strengths of what is 50.0 % on clean images: jpeg 45.0, gaussian noise 10.0."
    )
