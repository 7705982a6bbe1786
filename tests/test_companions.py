"""One of the processes that train or read dies: all end soon, and the cause is told in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ssl_toolkit.companions import PARENT, Watch, watched
from ssl_toolkit.errors import ToolkitError
from tests.killing import die

LOST = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer"
SECONDS = 30  # in which all must have ended


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def failing(code: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", f"exit {code}"])


def test_a_killed_process_is_named_and_the_others_are_ended() -> None:
    lost, other = sleeper(), sleeper()

    def train() -> None:
        lost.send_signal(signal.SIGKILL)
        raise RuntimeError(LOST)

    with pytest.raises(ToolkitError, match=r"process 1 .* was killed by SIGKILL.*--resume"), watched([lost, other]):
        train()
    assert other.wait(10) == -signal.SIGKILL


def test_a_process_that_has_failed_has_said_why() -> None:
    with (
        pytest.raises(ToolkitError, match=r"process 2 .* exit code 3: its own message says why"),
        watched([(other := sleeper()), failing(3)]),
    ):
        raise RuntimeError(LOST)
    assert other.wait(10) == -signal.SIGKILL


def test_an_error_of_this_process_stays_and_ends_the_others() -> None:
    with pytest.raises(ZeroDivisionError), watched([(other := sleeper())]):
        _ = 1 / 0
    assert other.wait(10) == -signal.SIGKILL


def test_a_lost_process_that_nobody_here_has_started() -> None:
    with pytest.raises(ToolkitError, match=r"another of .* is gone \(\[gloo.*closed by peer\)"), watched([]):
        raise RuntimeError(LOST)


def test_the_first_process_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(PARENT, str(os.getpid()))  # which is not this process's parent
    with pytest.raises(ToolkitError, match="the first of the processes that train together has died"), watched([]):
        raise RuntimeError(LOST)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SystemExit), watched([]):  # of those that are left, one tells it
        raise RuntimeError(LOST)


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    monkeypatch.setattr(Watch, "GRACE", 0.1)
    monkeypatch.setattr("os._exit", lambda code: ended.set())
    other = sleeper()
    with watched([failing(1), other]):
        assert ended.wait(10)
    assert "error: process 1 of those that train together has failed" in capsys.readouterr().err
    assert other.wait(10) == -signal.SIGKILL


def test_nothing_is_said_where_all_end_well() -> None:
    with watched([failing(0), sleeper_that_ends()]):
        time.sleep(0.6)


def sleeper_that_ends() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "0.1"])


TOLD = {
    "first": ("the first of the processes that train together has died", -9),
    "second": ("process 1 of those that train together was killed by SIGKILL", 1),
    "reader of first": ("a process that reads images has died", 1),
    "reader of second": ("a process that reads images has died", 1),
}


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="looks for processes as Linux shows them")
@pytest.mark.parametrize("who", ["second", *(pytest.param(w, marks=pytest.mark.slow) for w in TOLD if w != "second")])
def test_one_dies_all_end(tmp_path: Path, who: str) -> None:
    seconds, told, code = die(tmp_path, who)
    text, expected = TOLD[who]
    assert text in told, told
    assert "Traceback" not in told, told
    assert code == expected
    assert seconds < SECONDS
