"""The doctor: a collapse is caught while it happens, told once, and the training never notices."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.simsiam import SimSiam
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.health.doctor import CollapseDoctor
from ssl_toolkit.eval.health.findings import Finding
from ssl_toolkit.eval.health.measures import numbers
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.methods import method_class
from ssl_toolkit.optim import OptimizerConfig
from tests.conftest import tiny_heads

SMALL = {"projection_dim": 128, "hidden_dim": 32}


def nothing_stopped(p: Tensor, z: Tensor) -> Tensor:
    return -F.cosine_similarity(p, z, dim=1).mean()


@pytest.mark.parametrize("stopped", [True, False])
def test_simsiam_without_stop_gradient_is_caught_within_two_epochs(
    train_quickly: Callable, shapes: ImageSet, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    if not stopped:
        monkeypatch.setattr(losses, "negative_cosine", nothing_stopped)
    told: list[str] = []
    doctor = CollapseDoctor(every=2, tell=told.append)
    optimizer = OptimizerConfig("sgd", lr=0.1, warmup=0.0)
    train_quickly(
        SimSiam, shapes, epochs=2, batch_size=20, method=SMALL, optimizer=optimizer, callbacks=[doctor],
        views={"blur_p": 0.0},
    )  # fmt: skip
    assert bool(doctor.findings) != stopped
    assert len(told) == len(doctor.findings)
    if not stopped:
        assert "collapse" in doctor.findings[0].name
        assert "stop-gradient" in told[0]


@pytest.mark.parametrize("name", ["dino", "inpainting", "rotation", "swav", "vicreg"])
def test_looks_are_logged_where_they_were_taken(
    train_quickly: Callable, noise_images: Callable, name: str, tmp_path: Path
) -> None:
    found = method_class(name)
    train_quickly(found, noise_images(48), epochs=1, method=tiny_heads(found), callbacks=[CollapseDoctor(every=2)])
    rows = numbers(read_metrics(tmp_path / "run" / "metrics.csv"))
    assert [row["step"] for row in rows] == [2, 4, 6]
    always = {"step", "grad_norm", "effective_rank", "embedding_std", "uniformity"}
    own = {
        "dino": {"alignment", "above_chance", "teacher_entropy", "teacher_spread"},
        "inpainting": set(),
        "rotation": {"above_chance", "solved"},
        "swav": {"alignment", "above_chance", "code_entropy"},
        "vicreg": {"alignment"},
    }
    assert all(set(row) == always | own[name] for row in rows)


@pytest.mark.parametrize("name", ["inpainting", "rotation"])
def test_no_look_is_taken_in_the_middle_of_accumulation(
    train_quickly: Callable, noise_images: Callable, name: str, tmp_path: Path
) -> None:
    found, doctor = method_class(name), CollapseDoctor(every=1)
    train_quickly(found, noise_images(48), epochs=1, method=tiny_heads(found), callbacks=[doctor], accumulate=2)
    rows = numbers(read_metrics(tmp_path / "run" / "metrics.csv"))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(row["grad_norm"]) for row in rows)


@pytest.mark.parametrize("options", [{}, {"accumulate": 3, "clip_gradient": 1.0}])
@pytest.mark.parametrize("name", ["dino", "inpainting", "rotation"])
def test_training_never_notices(
    train_quickly: Callable, noise_images: Callable, name: str, options: dict[str, Any]
) -> None:
    found = method_class(name)
    plain, watched = (
        train_quickly(
            found, noise_images(32), out=str(len(callbacks)), method=tiny_heads(found), callbacks=callbacks, **options
        )
        for callbacks in ([], [CollapseDoctor(every=1)])
    )
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in watched.state_dict().items())


class Tired(SimSiam):
    """Its gradient is zero."""

    def step(self, views: list[Tensor], batch: Any) -> dict[str, Tensor]:
        return {"loss": 0 * super().step(views, batch)["loss"]}


def test_a_resumed_run_tells_nothing_twice(train_quickly: Callable, noise_images: Callable) -> None:
    told: list[list[str]] = [[], []]
    for part in range(2):
        callbacks = [CollapseDoctor(1, told[part].append)]
        train_quickly(
            Tired, noise_images(32), epochs=10 + 2 * part, method=SMALL, callbacks=callbacks, resume=part == 1
        )
    assert [sum("gradient vanished" in text for text in each) for each in told] == [1, 0]


def test_a_period_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="every must be at least 1, got 0"):
        CollapseDoctor(every=0)


def test_table_has_a_dash_where_there_is_no_measure() -> None:
    from ssl_toolkit.tasks.diagnosis import Diagnosis

    finding = Finding("collapse", "collapse", "uniformity", -0.01, -0.4, "Advice.")
    measures = {"embedding": {"effective_rank": 2.0}, "features": {"effective_rank": 3.0, "alignment": 0.5}}
    found = Diagnosis(measures=measures, findings=[{"where": "embedding", **finding._asdict()}])
    lines = [line.split() for line in str(found).splitlines()]
    assert ["alignment", "-", "0.500", "0", "to", "1", "lower"] in lines
    assert ["effective_rank", "2.000", "3.000", "5", "or", "more", "higher"] in lines
    assert lines[0] == ["embedding", "features", "healthy", "better"]
    assert "no finding" not in str(found)
    assert found.collapsed
    found["findings"][0]["where"] = "training"
    assert not found.collapsed
    well = Diagnosis(measures=measures, findings=[])
    well.run = "runs/a"
    assert str(well).endswith(
        "no finding. Next: `ssl-toolkit evaluate runs/a --train DATA --test DATA` says how good it is."
    )
