"""A SLURM job that is warned of its end saves, goes back into the queue, and goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_toolkit import pretrain
from ssl_toolkit.checkpoints import Interrupted
from ssl_toolkit.companions import environment
from ssl_toolkit.encoders import encoder_metadata
from ssl_toolkit.errors import UsageError
from ssl_toolkit.launch import check_processes, nodes
from ssl_toolkit.runs import RunFolder, launched_rank, local_rank, start_run
from ssl_toolkit.slurm import requeue
from tests.test_training import StopAt

TINY = {
    "data": "shapes:train:64", "encoder": "convnet", "image_size": 16, "batch_size": 16, "workers": 0, "epochs": 3,
    "accelerator": "cpu", "progress": False,
}  # fmt: skip


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in on PATH for the program that asks SLURM; what it was asked is written to this file."""
    return stand_in(tmp_path / "bin", monkeypatch)


def stand_in(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n')
    (folder / "scontrol").chmod(0o755)
    patch.setenv("PATH", str(folder), prepend=os.pathsep)
    patch.setenv("SLURM_JOB_ID", "4711")
    return folder / "asked"


def srun(number: int, tasks: int, nodes: int = 1) -> dict[str, str]:
    """What srun sets for the process of that number."""
    each = tasks // nodes
    return {
        "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "simclr", "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_PER_NODE": str(each), "SLURM_NNODES": str(nodes), "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number % each), "SLURM_NODEID": str(number // each), "SLURM_NODELIST": "127.0.0.1",
    }  # fmt: skip


def in_env(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


def test_a_warned_job_goes_back_into_the_queue_and_on(
    tmp_path: Path, scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain("simclr", out=tmp_path / "whole", **TINY)
    job = {**TINY, "out": tmp_path / "job", "callbacks": StopAt(5, signal.SIGUSR1)}
    with pytest.raises(Interrupted, match=r"stopped by SIGUSR1 at step 6; job 4711 is back in the queue"):
        pretrain("simclr", **job)
    assert scontrol.read_text() == "requeue 4711\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run = pretrain("simclr", overwrite=True, **job)  # the script is the same: what the job has begun is gone on with
    assert run.metrics["step"][0] == 1
    assert encoder_metadata(run)["sha256"] == encoder_metadata(whole)["sha256"]


def test_a_job_is_left_where_it_is_if_one_wants_that(tmp_path: Path, scontrol: Path) -> None:
    for name, signum, options in (("a", signal.SIGUSR1, {"requeue": False}), ("b", signal.SIGTERM, {})):
        with pytest.raises(Interrupted, match="go on with --resume"):
            pretrain("simclr", out=tmp_path / name, callbacks=StopAt(5, signum), **TINY, **options)
    assert not scontrol.exists()


def test_what_scontrol_has_against_it_is_told(scontrol: Path) -> None:
    (scontrol.parent / "scontrol").write_text("#!/bin/sh\nprintf 'Requested operation\\nis disabled' >&2; exit 1\n")
    assert requeue() == "scontrol requeue 4711 failed (Requested operation is disabled): go on with --resume"


def test_outside_slurm_there_is_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue() is None


def test_only_the_job_that_began_a_run_goes_on_unasked(
    tmp_path: Path, scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(tmp_path / "run", {})
    run = RunFolder(tmp_path / "run")
    assert not run.is_of_this_job()  # which has not been in the queue since
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert run.is_of_this_job()
    monkeypatch.setenv("SLURM_JOB_ID", "4712")
    assert not run.is_of_this_job()
    assert not RunFolder(tmp_path / "nowhere").is_of_this_job()


def test_processes_are_numbered_as_srun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    in_env(monkeypatch, srun(3, tasks=4, nodes=2))
    assert (launched_rank(), local_rank(), nodes()) == (3, 1, 2)
    found = environment()
    assert (found.world_size(), found.global_rank(), found.local_rank(), found.node_rank()) == (4, 3, 1, 1)
    assert (found.main_address, found.main_port) == ("127.0.0.1", 15000 + 4711)
    check_processes(2, None)
    check_processes(2, 2)
    with pytest.raises(UsageError, match=r"srun has started 4 processes on 2 machines, and --devices is 1, .*=1 .* 2"):
        check_processes(1, None)
    with pytest.raises(UsageError, match=r"--nodes 4: give sbatch --ntasks-per-node=2 \(not --ntasks\) --nodes=4, or"):
        check_processes(2, 4)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(UsageError, match=r"--ntasks-per-node=2 \(not --ntasks\)"):
        check_processes(2, None)


@pytest.mark.parametrize("without", ["SLURM_STEP_ID", "SLURM_NTASKS"])
def test_a_script_that_starts_without_srun_is_alone(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    in_env(monkeypatch, srun(0, tasks=2))
    monkeypatch.delenv(without)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (launched_rank(), local_rank(), nodes()) == (1, 1, 1)
    assert not environment().creates_processes_externally or environment().global_rank() == 0
    check_processes(2, None)


def train_under_srun(out: Path, nodes: int, devices: int) -> None:
    """Two processes, as srun starts them on that many machines; here they are all this one."""
    command = [
        sys.executable, "-m", "ssl_toolkit.cli", "pretrain", "--method", "simclr", "--data", "shapes:train:128",
        "--encoder", "convnet", "--image-size", "16", "--batch-size", "16", "--epochs", "2", "--workers", "0",
        "--accelerator", "cpu", "--progress", "false", "--devices", str(devices), "--out", str(out),
    ]  # fmt: skip
    usual = {"OMP_NUM_THREADS": "1"}
    if nodes:
        started = [
            subprocess.Popen(
                command, env=os.environ | usual | srun(number, 2, nodes), stderr=subprocess.PIPE, text=True
            )
            for number in range(2)
        ]
    else:
        started = [subprocess.Popen(command, env=os.environ | usual, stderr=subprocess.PIPE, text=True)]
    for each in started:
        told = each.communicate(timeout=300)[1]
        assert each.returncode == 0, told


@pytest.mark.slow
def test_srun_gives_the_same_weights_as_lightning(tmp_path: Path) -> None:
    train_under_srun(tmp_path / "lightning", nodes=0, devices=2)
    train_under_srun(tmp_path / "one", nodes=1, devices=2)
    train_under_srun(tmp_path / "two", nodes=2, devices=1)
    assert len({encoder_metadata(tmp_path / name)["sha256"] for name in ("lightning", "one", "two")}) == 1
