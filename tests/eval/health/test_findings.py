"""Findings: each collapse is found and named, and healthy measures are left in peace."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssl_toolkit.eval.health.findings import Finding, diagnose, examine
from ssl_toolkit.eval.health.measures import MEASURES, measure


def gaussian(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)


def names(found: list[Finding]) -> list[str]:
    return [finding.name for finding in found]


HEALTHY = {
    "effective_rank": 25.0, "embedding_std": 0.9, "uniformity": -2.0, "alignment": 0.5, "grad_norm": 0.5,
    "teacher_entropy": 0.7, "teacher_spread": 0.9, "code_entropy": 0.8, "above_chance": -1.0,
    "solved": 0.0,
}  # fmt: skip


def test_healthy_measures_give_no_finding() -> None:
    assert set(HEALTHY) == set(MEASURES)
    assert examine(HEALTHY) == [] == diagnose([HEALTHY] * 30)
    assert examine(measure(gaussian(256, 32), gaussian(256, 32))) == []


def test_healthy_ranges_are_those_of_healthy_runs() -> None:
    for name, value in HEALTHY.items():
        if name != "solved":  # of methods that solve no task
            assert MEASURES[name].holds(value), name
    # Features of ten finished recipes, docs/evaluation.md, and two runs without stop-gradient.
    for rank, std, uniformity in ((70.7, 0.58, -1.27), (83.2, 0.46, -1.02), (107.8, 0.61, -1.47), (15.4, 0.83, -2.28)):
        assert MEASURES["effective_rank"].holds(rank)
        assert MEASURES["embedding_std"].holds(std)
        assert MEASURES["uniformity"].holds(uniformity)
    for rank, uniformity in ((1.4, 0.0), (2.1, -0.09)):
        assert not MEASURES["effective_rank"].holds(rank)
        assert not MEASURES["uniformity"].holds(uniformity)
    assert [str(MEASURES[name]) for name in ("effective_rank", "uniformity", "embedding_std", "grad_norm")] == [
        "healthy 5 or more, higher is better", "healthy -0.6 or less, lower is better",
        "healthy 0.4 to 1, higher is better", "steady is better",
    ]  # fmt: skip


def test_every_finding_says_what_to_do_next() -> None:
    sick = {"uniformity": 0.0, "grad_norm": 0.0, "teacher_entropy": 1.0, "code_entropy": 1.0}
    found = examine(sick) + examine({"effective_rank": 1.0}) + examine({"teacher_spread": 0.0})
    found += diagnose([{"above_chance": 0.0}] * 10)
    assert len({each.name for each in found}) == 6
    for each in found:
        assert "Next: " in each.advice, each.name


@pytest.mark.parametrize(
    ("z", "name"),
    [
        (np.ones((256, 32), np.float32) + 0.01 * gaussian(256, 32), "collapse"),
        (gaussian(256, 2) @ gaussian(2, 32), "dimensional collapse"),
    ],
)
def test_collapsed_embeddings_are_found(z: np.ndarray, name: str) -> None:
    assert names(examine(measure(z))) == [name]


@pytest.mark.parametrize(
    ("changed", "name", "cause"),
    [
        ({"teacher_entropy": 0.0, "teacher_spread": 0.0}, "one prototype", "entring is off"),
        ({"teacher_entropy": 1.0, "teacher_spread": 1.0}, "uniform targets", "sharpening"),
        ({"code_entropy": 1.0}, "uniform targets", "epsilon"),
        ({"grad_norm": math.nan}, "gradient not finite", "--clip-gradient"),
        ({"grad_norm": 0.0}, "gradient vanished", "detach"),
        ({"uniformity": -0.3, "effective_rank": 4.0}, "collapse", "stop-gradient"),
        ({"uniformity": -0.01}, "collapse", "stop-gradient"),
        ({"effective_rank": 2.0}, "dimensional collapse", "stop-gradient"),
    ],
)
def test_each_fault_is_named_with_its_cause(changed: dict[str, float], name: str, cause: str) -> None:
    others = {key: value for key, value in HEALTHY.items() if not key.startswith("teacher")}
    (finding,) = examine({**others, **changed})
    assert finding.name == name
    assert cause in finding.advice
    assert finding.value == pytest.approx(changed[finding.measure], nan_ok=True)


def test_what_centring_takes_out_is_no_collapse() -> None:
    assert examine({**HEALTHY, "uniformity": -0.01, "effective_rank": 2.0}) == []


def test_a_finding_must_last_and_comes_once() -> None:
    sick = {"uniformity": 0.0, "effective_rank": 1.0}
    rows = [{**row, "step": 10.0 * i + 30} for i, row in enumerate([HEALTHY, sick, HEALTHY, HEALTHY, *[sick] * 5])]
    assert diagnose(rows[:4]) == []
    (finding,) = diagnose(rows)
    assert (finding.name, finding.step) == ("collapse", 80)


def test_a_network_that_starts_with_a_low_rank_is_given_time() -> None:
    low = {"uniformity": -0.1, "effective_rank": 3.0}
    assert diagnose([low] * 4 + [HEALTHY] * 5) == []
    assert names(diagnose([low] * 6)) == ["collapse"]
    assert diagnose([{**low, "step": float(step)} for step in range(30)]) == []


def test_an_overflow_now_and_then_is_no_finding() -> None:
    overflow = {**HEALTHY, "grad_norm": math.nan}
    assert diagnose([HEALTHY, overflow, HEALTHY, HEALTHY, overflow, HEALTHY]) == []
    assert names(diagnose([HEALTHY, overflow, HEALTHY, overflow])) == ["gradient not finite"]


def test_a_gradient_explodes_against_what_it_was() -> None:
    def rows(*norms: float) -> list[dict[str, float]]:
        return [{"grad_norm": norm} for norm in norms]

    assert names(diagnose(rows(*[2.0] * 10, 300.0, 400.0, 500.0))) == ["gradient explodes"]
    assert diagnose(rows(*[2.0] * 10, 300.0, 2.0, 500.0)) == []
    assert diagnose(rows(*[300.0] * 13)) == []


def test_a_loss_that_stays_at_chance() -> None:
    assert names(diagnose([{**HEALTHY, "above_chance": 0.01}] * 10)) == ["loss at chance"]
    assert diagnose([{**HEALTHY, "above_chance": 0.01}] * 9) == []
    assert diagnose([{**HEALTHY, "above_chance": 0.01}] * 9 + [HEALTHY]) == []


def test_features_that_solve_a_task_have_not_collapsed_whatever_they_share() -> None:
    alike = {"effective_rank": 2.0, "uniformity": -0.01, "grad_norm": 0.5}
    for solved, told in ((0.04, ["collapse"]), (0.3, [])):
        assert names(examine({**alike, "solved": solved})) == told
        assert names(diagnose([{**alike, "solved": solved}] * 10)) == told
