"""Several processes train one run: the command line starts them, a signal stops them together, they resume together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from ssl_toolkit.encoders import encoder_metadata
from ssl_toolkit.errors import UsageError
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.tasks import assembly
from ssl_toolkit.tasks.assembly import check_accelerator, readers
from ssl_toolkit.tasks.pretraining import own_device
from tests.killing import exit_code, forked
from tests.trained_together import free_port

STEPS = 48  # 6 epochs of 256 images, 16 on each of two devices


MOCO = ("moco", "--method.queue-size", "64", "--method.hidden-dim", "16")
# Were its discriminators to drift apart, a resumed run would go on with the first process's in both.
INPAINTING = (
    "inpainting",
    "--method.code-dim",
    "16",
    "--method.discriminator-dim",
    "8",
    "--method.adversarial-weight",
    "1",
)


def command(out: Path, method: tuple[str, ...]) -> list[str]:
    return [
        "pretrain", "--method", *method, "--data", "shapes:train:256", "--encoder", "convnet", "--image-size", "32",
        "--batch-size", "16", "--epochs", "6", "--devices", "2", "--accelerator", "cpu", "--progress", "false",
        "--out", str(out),
    ]  # fmt: skip


def start(
    out: Path, *more: str, method: tuple[str, ...] = MOCO, launcher: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    words = [*(launcher or (sys.executable,)), "-m", "ssl_toolkit.cli", *command(out, method), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def as_by_torchrun(out: Path, method: tuple[str, ...]) -> str:
    """Train in two copies of this process, numbered as by torchrun; what they told."""
    job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
           "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "one"}  # fmt: skip
    told = out.with_suffix(".txt")
    with told.open("a") as file:
        numbered = [partial(os.environ.update, job | {"RANK": n, "LOCAL_RANK": n}) for n in ("0", "1")]
        started = [forked(command(out, method), file.fileno(), before=each) for each in numbered]
    assert [exit_code(each) for each in started] == [0, 0], told.read_text()
    return told.read_text()


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, out + err
    return err


@pytest.mark.parametrize("method", [MOCO, pytest.param(INPAINTING, marks=pytest.mark.slow)], ids=["moco", "inpainting"])
def test_two_processes_train_stop_and_resume_as_one(tmp_path: Path, method: tuple[str, ...]) -> None:
    told = as_by_torchrun(tmp_path / "whole", method)
    assert [told.count(line) for line in ("start: ", "first step done ", "done: ")] == [1, 1, 1], told
    steps = [int(row["step"]) for row in read_metrics(tmp_path / "whole" / "metrics.csv")]
    assert steps == list(range(1, STEPS + 1))

    stopped = start(tmp_path / "stopped", method=method)
    while stopped.poll() is None and len(read_metrics(tmp_path / "stopped" / "metrics.csv")) < 3:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    assert finish(stopped, 128 + signal.SIGTERM).count("stopped by SIGTERM at step") == 1
    assert len(list((tmp_path / "stopped" / "checkpoints").iterdir())) == 1

    finish(start(tmp_path / "stopped", "--resume", method=method))
    assert encoder_metadata(tmp_path / "stopped")["sha256"] == encoder_metadata(tmp_path / "whole")["sha256"]


@pytest.mark.slow
def test_torchrun_gives_the_same_weights(tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    finish(start(tmp_path / "lightning"))
    finish(start(tmp_path / "torchrun", launcher=torchrun))
    assert encoder_metadata(tmp_path / "torchrun")["sha256"] == encoder_metadata(tmp_path / "lightning")["sha256"]


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_accelerator("gpu", 1)
    check_accelerator("cpu", 2)
    with pytest.raises(UsageError, match=r"--devices is 2: this machine has 1"):
        check_accelerator("auto", 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_keeps_its_images_on_the_device_that_it_trains_on(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    gpus = [torch.device("cuda", number) for number in range(2)]
    trained_on = DDPStrategy(parallel_devices=gpus, cluster_environment=LightningEnvironment()).root_device
    assert own_device("auto") == own_device("gpu") == trained_on == gpus[rank]
    assert own_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("cores", "devices", "expected"), [(16, 1, 16), (64, 1, 16), (16, 4, 4), (16, 8, 2), (1, 1, 2)]
)
def test_devices_share_the_cores_that_read(
    monkeypatch: pytest.MonkeyPatch, cores: int, devices: int, expected: int
) -> None:
    monkeypatch.setattr(assembly, "available_cores", lambda: cores)
    assert readers(devices) == expected
