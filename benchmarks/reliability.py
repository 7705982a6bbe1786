"""The sixteen promises of docs/reliability.md, tried.

    make reliability                                        # all of them, at most 30 minutes on two cores
    python benchmarks/reliability.py --only 4 9 --share 0.1 # two of them, at a tenth of the counts
    python benchmarks/reliability.py --missing              # those that have never been tried

A row is written when it is done, into docs/reliability.json, of which the page is made: what is cut off leaves what it
had. Each runs in a process of its own. Row 5 needs root, to mount a small disk; row 16 installs two environments.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from trial import ROOT, Seen, by_tests

JSON, PAGE = ROOT / "docs" / "reliability.json", ROOT / "docs" / "reliability.md"
ALSO_SLOW = ("-m", "slow or not slow")


@dataclass(frozen=True)
class Row:
    """A promise, and how it is tried: a function of one of the modules beside this one, or tests of the project."""

    promise: str
    to_reach: str
    trial: str | tuple[str, ...]


ROWS = {
    1: Row("hostile images", "all survived and listed", "trials_images:hostile_images"),
    2: Row("decoding never kills the process", "0 signals, under 1 GB", "trials_images:decoding"),
    3: Row("kill -9, resume to the same bits", "50 of 50", "trials_runs:kill_and_resume"),
    4: Row("kill while saving", "0 unreadable", "trials_runs:kill_while_saving"),
    5: Row("disk full, read-only", "one line, exit 1, the older checkpoint loads", "trials_runs:no_room"),
    6: Row("signals", "saved; 130, 143, 129", "trials_runs:signals"),
    7: Row("SLURM", "resumed to the same bits", ("tests/test_slurm.py", *ALSO_SLOW)),
    8: Row(
        "a process that trains or reads dies",
        "ends in 30 s, the cause in one line",
        ("tests/test_companions.py", "tests/data/test_reading.py", *ALSO_SLOW),
    ),
    9: Row("damaged artefacts", "0 crashes, 0 wrong answers", "trials_artefacts:damaged"),
    10: Row("mismatches refused by name", "all, both sides named", "trials_artefacts:mismatches"),
    11: Row("untrusted artefacts run nothing", "0", "trials_images:untrusted"),
    12: Row(
        "NaN and infinity",
        "caught before the step, the batch saved, stop after 5 in a row",
        ("tests/test_finite.py", "tests/data/test_images.py", "tests/eval/search", "tests/tasks/test_queries.py",
         "-k", "finite or sick or row or to_uint8_refuses"),
    ),
    13: Row("embed and index idempotent", "same rows", "trials_artefacts:idempotent"),
    14: Row("flat memory", "under 1 MB per 1,000", "trials_runs:flat_memory"),
    15: Row(
        "wrong commands",
        "under 10 lines, nearest name, nothing written",
        ("tests/cli/test_cli.py", "-k", "bad_input"),
    ),
    16: Row("oldest and newest versions", "tests pass at both ends", "trials_versions:versions"),
}  # fmt: skip
HOW = {
    7: "simulated: USR1 before the limit, `scontrol requeue` called, the same job goes on; `srun`'s environment for 2 "
    "processes on 1 and 2 nodes",
    8: "SIGKILL to the first, the second, and a reader of each of 2 processes",
    12: "in loss, gradient and activations of three methods; in arrays, queries and features",
    15: "commands with a wrong name, path, option or value",
}


def machine() -> str:
    """What it was tried on."""
    import torch

    return f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def tried(number: int, share: float) -> dict[str, Any]:
    """A row of the page, tried in this process."""
    sys.path.insert(0, str(ROOT))
    trial = ROWS[number].trial
    start = time.perf_counter()
    if isinstance(trial, str):
        import tests.conftest  # noqa: F401 - one thread, and none for autograd: what is killed here was forked

        module, _, name = trial.partition(":")
        function: Callable[[float], Seen] = getattr(importlib.import_module(module), name)
    else:
        function = by_tests(*trial)
    seen = function(share)
    how = f"{HOW[number]}: {seen.tried}" if number in HOW else seen.tried
    about = {"date": datetime.now(timezone.utc).date().isoformat(), "machine": machine()}
    return {**asdict(seen), **about, "tried": how, "minutes": round((time.perf_counter() - start) / 60, 1)}


def in_a_process(number: int, share: float, seconds: float) -> dict[str, Any]:
    """A row, tried in a process of its own; one that fails says why."""
    command = [sys.executable, __file__, "--row", str(number), "--share", str(share)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        if done.returncode == 0:
            return dict(json.loads(last))
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        said = f"not done in {seconds / 60:.0f} minutes"
    about = {"date": datetime.now(timezone.utc).date().isoformat(), "machine": machine()}
    return {"tried": "-", "seen": f"the trial failed: {said[:200]}", "kept": False, "minutes": 0.0, **about}


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The page, of what has been seen."""
    lines = []
    for number, row in ROWS.items():
        seen = rows.get(str(number))
        cells = [str(number), row.promise]
        if seen is None:
            cells += ["not tried yet", row.to_reach, "", "", ""]
        else:
            mark = "" if seen["kept"] else "**short of it:** "
            cells += [seen["tried"], row.to_reach, mark + seen["seen"], f"{seen['date']}, {seen['minutes']} min"]
            cells += [seen["machine"]]
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, HEAD, *lines, END]) + after


BEGIN, END = "<!-- made by make reliability -->", "<!-- end -->"
HEAD = "| # | promise | how it was tried | to reach | seen | when | machine |\n|---|---|---|---|---|---|---|"


def main() -> None:
    """Try rows, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", choices=ROWS, metavar="N", help="these rows")
    parser.add_argument("--missing", action="store_true", help="rows that have not been tried yet")
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts, in (0, 1]")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no more row is begun")
    parser.add_argument("--row", type=int, choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(tried(args.row, args.share)))
        return
    rows = json.loads(JSON.read_text()) if JSON.exists() else {}
    deadline = time.monotonic() + 60 * args.minutes
    for number in args.only or ROWS:
        if args.missing and str(number) in rows:
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            print(f"{number}: not begun, the minutes are over")
            continue
        rows[str(number)] = in_a_process(number, args.share, left)
        JSON.write_text(json.dumps(dict(sorted(rows.items(), key=lambda row: int(row[0]))), indent=1) + "\n")
        PAGE.write_text(page(rows))
        print(f"{number}: {ROWS[number].promise}: {rows[str(number)]['seen']}", flush=True)


if __name__ == "__main__":
    main()
