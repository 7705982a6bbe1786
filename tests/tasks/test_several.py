"""Runs at the same time: what fails or dies ends nothing, and a signal reaches all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_toolkit import sweep
from tests.tasks.test_sweeping import QUICK

pytestmark = pytest.mark.slow  # each run starts a process that imports torch


def test_several_give_what_one_after_the_other_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_toolkit.tasks.several.available_cores", lambda: 2)
    grid = {"method.temperature": [0.1, 0.2], "batch_size": [8, 999]}  # of which there are not so many images
    options = {**QUICK, "progress": False}
    one, two = (sweep("simclr", "shapes:train:32", grid, tmp_path / f"{n}", devices=n, **options) for n in (1, 2))
    assert [run.encoder.sha256 for run in one] == [run.encoder.sha256 for run in two]
    assert len(two) == 2
    assert two.failed == one.failed
    assert "too few for one batch of 999" in two.failed["temperature=0.1,batch_size=999"]
    log = tmp_path / "2" / "temperature=0.1,batch_size=8.log"
    assert "simclr: 32 images" in log.read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_all_and_a_death_ends_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    out = tmp_path / "sweep"
    command = [
        sys.executable, "-m", "ssl_toolkit.cli", "sweep", "--method", "simclr", "--data", "shapes:train:64",
        "--encoder", "convnet", "--image-size", "16", "--batch-size", "8", "--epochs", "100000", "--workers", "0",
        "--grid", "method.temperature=0.1,0.2", "--devices", "2", "--out", str(out),
    ]  # fmt: skip
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = [out / f"temperature={value}" / "metrics.csv" for value in (0.1, 0.2)]
    deadline = time.monotonic() + 240
    while not all(path.is_file() and len(path.read_text().splitlines()) > 1 for path in metrics):
        assert started.poll() is None, started.stderr.read()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    if signum == signal.SIGTERM:
        started.send_signal(signum)
    else:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        workers = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(int(workers[0]), signum)
        time.sleep(2)
        started.send_signal(signal.SIGTERM)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 128 + signal.SIGTERM, said
    assert "stopped by SIGTERM; the same command goes on with the sweep" in said
    states = [row["state"] for row in json.loads((out / "sweep.json").read_text())["runs"]]
    saved = [any((path.parent / "checkpoints").glob("step-*.ckpt")) for path in metrics]
    if signum == signal.SIGTERM:
        assert (states, saved) == (["waiting", "waiting"], [True, True])
    else:
        assert sorted(states) == ["failed", "waiting"]
        assert "its process ended with exit code -9" in said
        assert any(saved)
