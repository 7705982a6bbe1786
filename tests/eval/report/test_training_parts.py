"""The training in words."""

from __future__ import annotations

from ssl_toolkit.eval.report.training_parts import _seconds, _summary


def rows(steps: list[int], steps_per_epoch: int) -> list[dict[str, str]]:
    return [{"step": str(s), "epoch": str((s - 1) // steps_per_epoch), "images_per_second": "50"} for s in steps]


def test_training_is_summed_up() -> None:
    config = {"batch_size": 100, "accumulate": 2, "epochs": 4}
    assert _seconds(rows([10, 20, 28], 7), config) == 28 * 4
    assert _summary(rows([10, 20, 28], 7), config) == "28 optimiser steps, 2 min of training"


def test_only_runs_that_stopped_early_are_called_so() -> None:
    config = {"epochs": 9}
    assert "not finished" not in _summary(rows(list(range(10, 61, 10)), 7), config)  # 63 steps, the last logged is 60
    assert "not finished: epoch 6 of 9" in _summary(rows(list(range(10, 41, 10)), 7), config)
    assert "not finished" not in _summary(rows([63], 7), config)
