"""Trial of `reliability.py` with the oldest and the newest versions that can be installed; minutes, and 6 GB each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from trial import ROOT, Seen, project_tests

# Environments are kept here, and made only where they are not there yet.
FOLDER = Path(os.environ.get("RELIABILITY_ENVIRONMENTS", ROOT / ".venv-versions"))
ENDS = {"oldest": ("3.10", "=="), "newest": ("3.13", "")}
PARTS = [
    "tests/encoders", "tests/eval/search", "tests/data/test_images.py", "tests/data/test_loader.py",
    "tests/contrastive/test_losses.py", "tests/test_finite.py", "tests/test_slurm.py", "tests/test_runs.py",
]  # fmt: skip


def versions(share: float) -> Seen:
    """Row 16."""
    told, kept = [], True
    for end in ENDS:
        python = environment(end)
        seen, fine = project_tests(python, *PARTS)
        told.append(f"{end} ({_described(python)}): {seen} tests")
        kept &= fine
    return Seen(" ".join(PARTS), "; ".join(told), kept)


def environment(end: str) -> Path:
    """The interpreter of one end of what is allowed, with everything that the project needs.

    Where its version of Python is not installed: the one that runs this, whose versions are told beside what it saw.
    """
    version, pin = ENDS[end]
    python, found = FOLDER / end / "bin" / "python", shutil.which(f"python{version}")
    if python.exists():
        return python
    if found is None or subprocess.run([found, "-V"], capture_output=True).returncode:
        return Path(sys.executable)
    needed = [each for each in requires("ssl-toolkit") or [] if "extra ==" not in each]
    if pin:
        needed = [re.sub(r">=([\d.]+).*", rf"{pin}\1", each) for each in needed]
    subprocess.run([found, "-m", "venv", FOLDER / end], check=True)
    install = [python, "-m", "pip", "install", "--quiet", *needed, "pytest", "pytest-xdist", "setuptools"]
    subprocess.run(install, check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", ROOT], check=True)  # its entry points
    return python


def _described(python: Path) -> str:
    names = "torch", "pytorch_lightning", "kornia", "faiss-cpu", "timm"
    code = f"from importlib.metadata import version as v; print(*(f'{{n}} {{v(n)}}' for n in {names}), sep=', ')"
    listed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    number = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{number}, {listed}"
