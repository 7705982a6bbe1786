"""The model of `benchmarks/scale.py`: what it fits to known seconds, and what it says of sizes nobody measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale

RATE = {"train": 2e-11, "fill": 1e-11, "recall": 5e-11, "rest": 4e-9}
SEEN = {"building": 800, "disk": 1, "searching": 500, "open": 1, "together_ms": 1, "alone_ms": 2, "nprobe": 16,
        "recall_at_10": 0.96, "on_disk": True, "factory": "IVF4096,Flat", "total": 90, "clock": 50}  # fmt: skip


def seconds(count: int, off: float = 1.0) -> dict[str, Any]:
    """A row whose stages take so many times as long as `RATE` says."""
    work = scale.work_of(count, 4096)
    return {"count": count, "lists": 4096, **{stage: off * RATE[stage] * work[stage] for stage in scale.STAGES}}


def test_work_is_counted_in_multiplications_and_bytes() -> None:
    assert scale.work_of(3_000_000, 4096) == {
        "train": 2 * 128 * 4096 * (64 * 4096) * 10,
        "fill": 2 * 128 * 4096 * 3_000_000,
        "recall": 2 * 128 * 1000 * 3_000_000,
        "rest": 4 * 128 * 3_000_000,
    }
    assert scale.work_of(10, 4)["train"] == 2 * 128 * 4 * 65_536 * 10  # never trained on fewer


def test_rates_are_those_that_the_seconds_were_made_of() -> None:
    assert scale.rates([seconds(10**6), seconds(3 * 10**6), seconds(10**7)]) == pytest.approx(RATE)


def test_of_two_sizes_that_disagree_neither_outweighs_the_other() -> None:
    fast, slow = seconds(10**6, 0.5), seconds(10**7, 1.0)
    # The r of the least (2r - 1)^2 + (r - 1)^2, r in units of the slow one's rate.
    assert scale.rates([fast, slow]) == pytest.approx({stage: 0.6 * rate for stage, rate in RATE.items()})


def test_costs_on_paper() -> None:
    found = scale.costs(100_000_000, RATE, lambda lists: lists * 1e-9)
    assert found["factory"] == "IVF32768_HNSW32,SQ8"
    hours = {
        "train": 2e-11 * 2 * 128 * 32_768 * (64 * 32_768) * 10 / 3600,
        "fill": 32_768e-9 * 1e8 / 3600,
        "recall": 5e-11 * 2 * 128 * 1000 * 1e8 / 3600,
        "rest": 4e-9 * 512 * 1e8 / 3600,
    }
    assert {stage: found[stage] for stage in scale.STAGES} == pytest.approx(hours)
    assert found["all"] == pytest.approx(sum(hours.values()))
    assert (found["disk"], found["meanwhile"]) == pytest.approx((51.2 + 13.6 + 6, 2 * 51.2 + 13.6 + 6))


def test_what_was_measured_before_is_told_with_what_more_would_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for count in (10**6, 3 * 10**6):
        (tmp_path / f"{count}-4096-Flat.json").write_text(json.dumps({**SEEN, **seconds(count)}))
    monkeypatch.setattr(scale, "coarse_seconds", lambda lists: 1e-4)
    monkeypatch.setattr(sys, "argv", ["scale.py", "--millions", "1", "3", "--out", str(tmp_path), "--threads", "1"])
    scale.main()
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines if "HNSW" in line or "on paper" in line}) == 1
    assert [line.split(" | ")[0] for line in lines if "HNSW" in line] == ["| 100,000,000", "| 1,000,000,000"]
    assert [line.split(" | ")[-1] for line in lines if line.startswith("| fill |")] == ["1.00, 1.00 |"]
    assert next(line for line in lines if line.startswith("| 3,000,000 |")).endswith("| 16 | 0.960 |")
