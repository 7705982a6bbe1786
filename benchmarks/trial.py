"""What the trials of `reliability.py` share: what is seen, and work in children, which may die."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Seen:
    """What came of a trial."""

    tried: str
    seen: str
    kept: bool


def scaled(count: int, share: float) -> int:
    """A part of the full count, at least one."""
    return max(1, round(count * share))


def forked(work: Callable[[], Any]) -> Any:
    """What `work` gives in a child; None if the child died."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(ours)
            result = pickle.dumps(work())
            with os.fdopen(theirs, "wb") as file:
                file.write(result)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        content = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code > 0:
        raise RuntimeError(f"the child failed with exit code {code}")
    return pickle.loads(content) if code == 0 else None


def forked_cli(args: list[str], before: Callable[[], object] = lambda: None) -> tuple[int, str]:
    """Exit code of the command line in a child, and what it told."""
    from ssl_toolkit import cli

    with tempfile.NamedTemporaryFile() as told:
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                descriptor = os.open(told.name, os.O_WRONLY | os.O_APPEND)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                before()
                sys.argv = ["ssl-toolkit", *args]
                try:
                    cli.main()
                except SystemExit as end:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(int(end.code or 0))
                except BaseException:
                    traceback.print_exc()
            os._exit(70)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, Path(told.name).read_text(errors="replace")


def project_tests(python: str | Path, *words: str) -> tuple[str, bool]:
    """How many of some tests of the project have passed, which have not, and whether all have."""
    command = [python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=environment)
    last = (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", last)}
    if not counts:
        raise RuntimeError(last)
    failing = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    lacking = f" (not {', '.join(failing)})" if failing else ""
    return f"{counts.get('passed', 0)} of {sum(counts.values())}{lacking}", not failing and len(counts) == 1


def by_tests(*words: str) -> Callable[[float], Seen]:
    """A trial that is some tests."""

    def trial(share: float) -> Seen:
        seen, kept = project_tests(sys.executable, *words)
        return Seen(f"{seen.split()[2]} tests", seen, kept)

    return trial
