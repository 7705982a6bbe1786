"""Processes that are killed, and whether what they leave behind ends too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_toolkit.cli import main
from ssl_toolkit.logs import read_metrics


def forked(words: Sequence[object], out: int, before: Callable[[], object] = lambda: None) -> int:
    """The command line in a copy of this process, which has imported all that it needs: a tenth of a start's time.

    Args:
        words: Command and options.
        out: File descriptor in the place of its input, output and errors.
        before: What it does first.

    Returns:
        Its number, for `exit_code`.
    """

    def command() -> None:
        for each in (0, 1, 2):
            os.dup2(out, each)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        sys.argv = ["ssl-toolkit", *map(str, words)]
        before()
        main()

    return copied(command)


def copied(run: Callable[[], Any]) -> int:
    """Run something in a copy of this process, which ends with it; its number, for `exit_code`."""
    if child := os.fork():
        return child
    code: Any = 1
    try:
        run()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(child: int) -> int:
    """How a child ended, once it has: as `subprocess` says it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(run: Callable[[], Any]) -> bool:
    """Run something in a child process; whether it died of kill -9."""
    return exit_code(copied(run)) == -signal.SIGKILL


def children(parent: int) -> list[int]:
    return list(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(processes: Iterable[int], seconds: float) -> bool:
    """Whether all have ended by themselves in that time; they have afterwards."""
    deadline = time.monotonic() + seconds
    left = [*processes]
    while (left := [*filter(alive, left)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for each in left:
        os.kill(each, signal.SIGKILL)
    return not left


def family(first: int) -> dict[str, list[int]]:
    """Processes of a run of two: those that train, and those that read for the first and the second."""
    of_first = children(first)
    (second,) = (each for each in of_first if b"LOCAL_RANK=1" in Path(f"/proc/{each}/environ").read_bytes())
    return {"train": [first, second], "read first": [each for each in of_first if each != second],
            "read second": children(second)}  # fmt: skip


def die(folder: Path, who: str) -> tuple[float, str, int]:
    """Train in two processes with readers, kill one; seconds until all have ended, what was told, and the exit code.

    Args:
        folder: An empty one.
        who: "first", "second", "reader of first" or "reader of second".
    """
    for number in range(64):
        noise = np.random.default_rng(number).integers(0, 256, (36, 36, 3), np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(noise).save(folder / "images" / f"{number}.png")
    command = [
        sys.executable, "-m", "ssl_toolkit.cli", "pretrain", "--method", "simclr", "--data", str(folder / "images"),
        "--encoder", "convnet", "--image-size", "32", "--batch-size", "16", "--epochs", "100000", "--devices", "2",
        "--accelerator", "cpu", "--progress", "false", "--cache", "none", "--workers", "2", "--out",
        str(folder / "run"),
    ]  # fmt: skip
    with (folder / "told").open("w") as told:
        process = subprocess.Popen(command, stderr=told, stdout=told, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 240
    while not read_metrics(folder / "run" / "metrics.csv"):
        assert process.poll() is None, (folder / "told").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = family(process.pid)
    first, second = found["train"]
    of = {"first": first, "second": second, "reader of first": found["read first"][0],
          "reader of second": found["read second"][0]}  # fmt: skip
    os.kill(of[who], signal.SIGKILL)
    start = time.monotonic()
    left = [each for some in found.values() for each in some]
    ended(left, 60)
    seconds = time.monotonic() - start
    lines = (folder / "told").read_text().splitlines()
    return seconds, "\n".join(line for line in lines if not line.startswith(USUAL)), process.wait()


USUAL = ("simclr: ", "start: ", "first step done")
