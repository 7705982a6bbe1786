"""The doctor: each collapse is found and named, healthy runs are left in peace, and the training never notices."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.simsiam import SimSiam
from ssl_toolkit.data.loader import BadImages, ImageLoader, InMemory
from ssl_toolkit.data.sources import ImageSet, open_images
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.health.doctor import (
    MEASURES,
    CollapseDoctor,
    Finding,
    beside_a_guess,
    diagnose,
    examine,
    examine_method,
    measure,
    numbers,
    views_of,
)
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.methods import method_class
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.rotation import Rotation
from tests.conftest import tiny_heads


def gaussian(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)


def names(found: list[Finding]) -> list[str]:
    return [finding.name for finding in found]


# Measures to findings


HEALTHY = {
    "effective_rank": 25.0, "embedding_std": 0.9, "uniformity": -2.0, "alignment": 0.5, "grad_norm": 0.5,
    "teacher_entropy": 0.7, "teacher_spread": 0.9, "code_entropy": 0.8, "above_chance": -1.0,
    "solved": 0.0,
}  # fmt: skip


def test_healthy_measures_give_no_finding() -> None:
    assert set(HEALTHY) == set(MEASURES)
    assert examine(HEALTHY) == [] == diagnose([HEALTHY] * 30)
    assert examine(measure(gaussian(256, 32), gaussian(256, 32))) == []


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


def test_looks_are_the_rows_that_have_them() -> None:
    rows = [
        {"step": "1", "loss": "2.0", "grad_norm": "", "uniformity": ""},
        {"step": "2", "loss": "1.0", "grad_norm": "0.5", "uniformity": "-1"},
    ]
    assert numbers(rows) == [{"step": 2.0, "grad_norm": 0.5, "uniformity": -1.0}]
    with pytest.raises(ToolkitError, match=r"metrics\.csv is damaged.*'x'"):
        numbers([{"step": "2", "grad_norm": "x"}])


def test_views_are_told_apart_and_rows_belong_together() -> None:
    z = torch.arange(24.0).view(12, 2)
    for seen in ([z], [z[:4], z[4:]]):  # both views in one call, or in two
        one, other = views_of(seen, images=4, views=3, limit=2)
        assert one.tolist() == [[0, 1], [6, 7]]
        assert other.tolist() == [[8, 9], [14, 15]]
    (alone,) = views_of([z], images=4, views=1)
    assert len(alone) == 12


# While it trains


SMALL = {"projection_dim": 128, "hidden_dim": 32}


@pytest.fixture(scope="module")
def shapes() -> ImageSet:
    images = open_images("shapes:train:1000")
    return InMemory(images, 16, BadImages(images))


def nothing_stopped(p: Tensor, z: Tensor) -> Tensor:
    return -F.cosine_similarity(p, z, dim=1).mean()


@pytest.mark.parametrize("stopped", [True, False])
def test_simsiam_without_stop_gradient_is_caught_within_an_epoch(
    train_quickly: Callable, shapes: ImageSet, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    if not stopped:
        monkeypatch.setattr(losses, "negative_cosine", nothing_stopped)
    told: list[str] = []
    doctor = CollapseDoctor(every=2, tell=told.append)
    optimizer = OptimizerConfig("sgd", lr=0.1, warmup=0.0)
    train_quickly(
        SimSiam, shapes, epochs=1, batch_size=20, method=SMALL, optimizer=optimizer, callbacks=[doctor],
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


def test_features_that_solve_a_task_have_not_collapsed_whatever_they_share() -> None:
    alike = {"effective_rank": 2.0, "uniformity": -0.01, "grad_norm": 0.5}
    for solved, told in ((0.04, ["collapse"]), (0.3, [])):
        assert names(examine({**alike, "solved": solved})) == told
        assert names(diagnose([{**alike, "solved": solved}] * 10)) == told


def test_only_a_head_on_features_solves_a_task(small_encoder: Encoder) -> None:
    chance = math.log(4)
    found = beside_a_guess(Rotation(small_encoder, Rotation.default_views(16)), 0.5 * chance, 8)
    assert found == pytest.approx({"above_chance": -0.5 * chance, "solved": 0.5})
    compared = beside_a_guess(SimSiam(small_encoder, SimSiam.default_views(16)), -1.0, 8)  # as when it has collapsed
    assert set(compared) == {"above_chance"}


def test_a_task_is_solved_by_features_of_which_one_part_is_common(train_quickly: Callable, shapes: ImageSet) -> None:
    method = train_quickly(Rotation, shapes, epochs=1, batch_size=50)
    found = examine_method(method, ImageLoader(shapes, 16, batch_size=100, shuffle=True))
    loss = found["step"]["loss"]
    assert found["features"]["solved"] == pytest.approx(1 - loss / math.log(4), abs=1e-5)


def test_a_period_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="every must be at least 1, got 0"):
        CollapseDoctor(every=0)


# Afterwards


def test_a_method_is_measured_as_it_is_kept(train_quickly: Callable, shapes: ImageSet) -> None:
    method = train_quickly(SimSiam, shapes, epochs=1, batch_size=50, method=SMALL)
    weights = {key: value.clone() for key, value in method.state_dict().items()}
    found = examine_method(method, ImageLoader(shapes, 16, batch_size=100, shuffle=True))
    assert set(found) == {"embedding", "features", "step"}
    assert set(found["embedding"]) == {"effective_rank", "embedding_std", "uniformity", "alignment"}
    assert found["step"]["above_chance"] == found["step"]["loss"]
    assert all(torch.equal(weights[key], value) for key, value in method.state_dict().items())
    assert set(examine_method(method, ImageLoader(shapes, 16), heads=False)) == {"features"}


def test_a_method_that_gives_one_embedding_is_found(train_quickly: Callable, shapes: ImageSet) -> None:
    method = train_quickly(SimSiam, shapes, epochs=1, batch_size=50, method=SMALL)
    with torch.no_grad():
        method.projector[-2].weight.zero_()
        method.projector[-1].running_mean.add_(1)  # every image at the same place
    found = examine_method(method, ImageLoader(shapes, 16, batch_size=100, shuffle=True))
    assert names(examine(found["embedding"])) == ["collapse"]


def test_table_has_a_dash_where_there_is_no_measure() -> None:
    from ssl_toolkit.tasks.diagnosis import Diagnosis

    finding = Finding("collapse", "collapse", "uniformity", -0.01, -0.4, "Advice.")
    measures = {"embedding": {"effective_rank": 2.0}, "features": {"effective_rank": 3.0, "alignment": 0.5}}
    found = Diagnosis(measures=measures, findings=[{"where": "embedding", **finding._asdict()}])
    lines = [line.split() for line in str(found).splitlines()]
    assert ["alignment", "-", "0.500"] in lines
    assert "no finding" not in str(found)
    assert found.collapsed
    found["findings"][0]["where"] = "training"
    assert not found.collapsed
