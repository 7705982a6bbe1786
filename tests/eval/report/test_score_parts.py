"""Scores in words."""

from __future__ import annotations

from ssl_toolkit.eval.report.score_parts import verdict


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
