"""Sweeps: a folder a run, what is done is not done again, and what fails ends nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_toolkit import Runs, compare, pretrain, sweep
from ssl_toolkit.checkpoints import Interrupted
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.tasks import pretraining, sweeping
from ssl_toolkit.tasks.sweeping import Trial

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
QUICK: dict[str, Any] = {
    "encoder": "convnet", "image_size": 16, "epochs": 1, "batch_size": 8, "workers": 0, "progress": False,
    "doctor": False, "logger": "csv", "accelerator": "cpu",
    "views": {"crop_scale": [0.08, 1.0], "jitter": [0.8, 0.8, 0.8, 0.2], "blur_p": 0.5},
}  # fmt: skip
GRID = {"method.temperature": [0.1, 0.2]}


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((out / "sweep.json").read_text())["runs"]}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the runs that are trained; nothing is, but a folder with an encoder is made."""
    called: list[str] = []

    def run(trial: Trial) -> None:
        called.append(trial.name)
        out = Path(trial.settings["out"])
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text("method: {name: simclr}\nencoder: {name: convnet}\ndata: a\nepochs: 1\n")
        (out / "encoder.safetensors").touch()

    monkeypatch.setattr(Trial, "run", run)
    return called


def test_each_run_has_a_folder_and_is_scored_and_compared(tmp_path: Path) -> None:
    out, data = tmp_path / "sweep", "shapes:train:32"
    runs = sweep("simclr", data, GRID, out, seeds=2, train=data, protocol="knn", **QUICK)
    names = [f"temperature={value}/seed{seed}" for value in (0.1, 0.2) for seed in (0, 1)]
    assert [str(run.path.relative_to(out)) for run in runs] == names
    assert [run.config["method"]["temperature"] for run in runs] == [0.1, 0.1, 0.2, 0.2]
    assert [run.config["seed"] for run in runs] == [0, 1, 0, 1]
    assert runs.failed == {}
    assert len({run.encoder.sha256 for run in runs}) == 4
    table = str(runs)
    assert table == str(compare([out]))
    assert table.splitlines()[0].split()[:7] == ["top-1,", "%", "method", "encoder", "seeds", "kNN", "to"]
    assert {row["state"] for row in rows(out).values()} == {"done"}
    with (out / "sweep.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first["method.temperature"] == "0.1"
    assert float(first["knn"]) == runs[0].scores["results"]["trained"]["knn"]["top1"]  # type: ignore[index]
    before = [run.encoder.sha256 for run in runs]
    assert [
        run.encoder.sha256 for run in sweep("simclr", data, GRID, out, seeds=2, train=data, protocol="knn", **QUICK)
    ] == before


def test_what_is_done_is_not_done_again(tmp_path: Path, called: list[str]) -> None:
    out = tmp_path / "sweep"
    sweep("simclr", IMAGES, GRID, out, **QUICK)
    assert called == ["temperature=0.1", "temperature=0.2"]
    sweep("simclr", IMAGES, {"method.temperature": [0.1, 0.2, 0.3]}, out, **QUICK)
    assert called[2:] == ["temperature=0.3"]
    sweep("simclr", IMAGES, GRID, out, **{**QUICK, "epochs": 2})
    assert called[3:] == called[:2]  # is another run, which `pretrain` refuses to put in the place of the old one
    (out / "temperature=0.2" / "encoder.safetensors").unlink()
    sweep("simclr", IMAGES, GRID, out, **{**QUICK, "epochs": 2, "workers": 1})  # which changes nothing
    assert called[5:] == ["temperature=0.2"]
    assert list(rows(out)) == ["temperature=0.1", "temperature=0.2", "temperature=0.3"]


def test_a_run_that_fails_ends_nothing_and_is_tried_again(
    tmp_path: Path, called: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, works = tmp_path / "sweep", Trial.run

    def fail(trial: Trial) -> None:
        if trial.options["method.temperature"] == 0.1:
            raise ToolkitError("the loss is nan") if "seed0" in trial.name else RuntimeError("CUDA out of memory\nat")
        works(trial)

    monkeypatch.setattr(Trial, "run", fail)
    runs = sweep("simclr", IMAGES, GRID, out, seeds=2, **QUICK)
    errors = {
        "temperature=0.1/seed0": "the loss is nan", "temperature=0.1/seed1": "RuntimeError: CUDA out of memory"
    }  # fmt: skip
    assert runs.failed == errors
    assert len(runs) == 2
    assert "FAILED temperature=0.1/seed0: the loss is nan" in str(runs)
    assert "FAILED temperature=0.1/seed0: the loss is nan" in capsys.readouterr().err
    assert rows(out)["temperature=0.1/seed0"]["state"] == "failed"
    monkeypatch.setattr(Trial, "run", works)
    called.clear()
    assert sweep("simclr", IMAGES, GRID, out, seeds=2, **QUICK).failed == {}
    assert called == list(errors)


def test_a_signal_stops_the_sweep_which_goes_on_later(
    tmp_path: Path, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, works = tmp_path / "sweep", Trial.run

    def stop(trial: Trial) -> None:
        if len(called) == 1:
            raise Interrupted("stopped by SIGTERM at step 3; go on with --resume", 15)
        works(trial)

    monkeypatch.setattr(Trial, "run", stop)
    with pytest.raises(Interrupted, match="at step 3; the same command goes on with the sweep") as error:
        sweep("simclr", IMAGES, GRID, out, **QUICK)
    assert error.value.signum == 15
    assert [row["state"] for row in rows(out).values()] == ["done", "waiting"]
    monkeypatch.setattr(Trial, "run", works)
    sweep("simclr", IMAGES, GRID, out, **QUICK)
    assert called == ["temperature=0.1", "temperature=0.2"]


@pytest.mark.parametrize(
    ("grid", "options", "said"),
    [
        ({"method.temprature": [1]}, {}, "unknown option 'method.temprature': did you mean method.temperature"),
        ({"optimiser.lr": [1]}, {}, "unknown option 'optimiser': did you mean optimizer"),
        ({"epocs": [1]}, {}, "unknown option 'epocs': did you mean epochs"),
        ({"optimizer.lr": ["fast"]}, {}, "--optimizer.lr is 'fast': it must be a number"),
        ({"optimizer.lr": [1e-3, -1]}, {}, "--optimizer.lr is -1"),
        ({"seed": [1, 2]}, {}, "--grid seed: the sweep decides about it; of other seeds there are --seeds"),
        ({"out": ["a"]}, {}, "--grid out: the sweep decides"),
        (GRID, {"seeds": 0}, "--seeds is 0"),
        (GRID, {"test": IMAGES}, "give both, or --train alone"),
        (GRID, {"train": IMAGES, "protocol": "kn"}, "kn"),
        (GRID, {"devices": 999}, "--devices is 999: this machine has"),
        (GRID, {"devices": 2}, "data was an object of Python"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    tmp_path: Path, called: list[str], grid: dict[str, Any], options: dict[str, Any], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("ssl_toolkit.tasks.several.available_cores", lambda: 4)
    with pytest.raises(UsageError) as error:
        sweep("simclr", IMAGES, grid, tmp_path / "sweep", **QUICK, **options)
    assert said in str(error.value)
    assert called == []
    assert not (tmp_path / "sweep").exists()


def test_folders_that_hold_something_else_are_left_alone(tmp_path: Path, called: list[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and not a sweep"):
        sweep("simclr", IMAGES, GRID, tmp_path, **QUICK)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(ToolkitError, match=r"sweep\.json is damaged"):
        sweep("simclr", IMAGES, GRID, tmp_path / "sweep", **QUICK)
    assert called == []


def test_options_reach_their_group_whatever_stands_for_it() -> None:
    from ssl_toolkit.optim import OptimizerConfig

    for before in (OptimizerConfig(lr=5.0), {"lr": 5.0}):
        settings: dict[str, Any] = {"optimizer": before, "encoder": "convnet"}
        sweeping._put(settings, "optimizer.momentum", 0.5)
        sweeping._put(settings, "encoder.stem", "small")
        sweeping._put(settings, "views.blur_p", 0.0)
        assert (settings["optimizer"]["lr"], settings["optimizer"]["momentum"]) == (5.0, 0.5)
        assert settings["encoder"] == {"name": "convnet", "stem": "small"}
        assert settings["views"] == {"blur_p": 0.0}
    assert before == {"lr": 5.0}  # which others share


def test_seeds_of_one_run(tmp_path: Path) -> None:
    given = {**QUICK, "method": "simclr", "data": IMAGES}
    runs = pretrain(**given, out=tmp_path / "run", seed=3, seeds=2)
    assert isinstance(runs, Runs)
    assert [(run.path.name, run.config["seed"]) for run in runs] == [("seed3", 3), ("seed4", 4)]
    assert "seeds" not in runs[0].config
    first, second = (run.encoder.sha256 for run in runs)
    assert first != second
    assert pretrain(**given, out=tmp_path / "alone", seed=4).encoder.sha256 == second
    assert [line.split()[1:3] for line in str(runs).splitlines()] == [["epochs", "steps"], ["1", "2"], ["1", "2"]]
    again = pretrain(**given, out=tmp_path / "run", seed=3, seeds=2, resume=True)
    assert [run.encoder.sha256 for run in again] == [first, second]  # type: ignore[attr-defined]
    assert runs.evaluate(train="shapes:train:16", protocol="knn", baselines=False, progress=False, workers=0)[0][
        "runs"
    ] == tuple(map(str, runs))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 0}, "--seeds is 0"),
        ({"seeds": 2, "devices": 2}, "--devices is 2: with --seeds it must be 1"),
        ({"seeds": 2, "method": object()}, "method is an object: give its class"),
    ],
)
def test_seeds_that_cannot_be(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pretrain(**{**QUICK, "method": "simclr", "data": IMAGES, "out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_seeds_do_not_go_into_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "run", lambda *_: pytest.fail("trained"))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(UsageError, match="holds a run already: --seeds needs a folder for several"):
        pretrain(**{**QUICK, "method": "simclr", "data": IMAGES, "out": tmp_path, "seeds": 2})
