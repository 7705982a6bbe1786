"""A run is a folder: configuration, metrics, checkpoints, encoder, list of bad images, report."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from ssl_toolkit.errors import UsageError
from ssl_toolkit.files import write_atomic
from ssl_toolkit.slurm import requeued_job, started_by_srun

# What may differ between a run and its resumption: these change how it is done, never what comes out.
FREE_ON_RESUME = {
    *("out", "workers", "checkpoint_every", "progress", "data_root", "cache", "max_bad_rate", "doctor", "logger"),
    "requeue",
}


def launched_rank() -> int:
    """Number of this process among all that train the run together, as Lightning, torchrun or srun has told it."""
    return int(os.environ["SLURM_PROCID"]) if started_by_srun() else local_rank()


def local_rank() -> int:
    """Number of this process among those of them that run on this machine."""
    return int(os.environ["SLURM_LOCALID"] if started_by_srun() else os.environ.get("LOCAL_RANK", "0"))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RunFolder:
    """Names of what lies in a run's folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.csv"
        self.checkpoints = self.path / "checkpoints"
        self.encoder_file = self.path / "encoder.safetensors"
        self.bad_images_file = self.bad_images(0)
        self.results_file = self.path / "results.json"
        self.report_file = self.path / "report.html"
        self.bad_batches = self.path / "bad_batches"
        self.job_file = self.path / "slurm_job"

    def bad_images(self, rank: int) -> Path:
        """Where process `rank` lists the images that it could not read."""
        return self.path / (f"bad_images-{rank}.csv" if rank else "bad_images.csv")

    def config(self) -> dict[str, Any]:
        """The run's whole configuration.

        Raises:
            UsageError: If the folder holds no run.
        """
        if not self.config_file.is_file():
            raise UsageError(f"{self.path} is not a run folder: it has no config.yaml")
        loaded: dict[str, Any] = yaml.safe_load(self.config_file.read_text())
        return loaded

    def is_of_this_job(self) -> bool:
        """Whether the run was begun by the very SLURM job that is running, before it went back into the queue."""
        return self.job_file.is_file() and self.job_file.read_text() == requeued_job()

    def empty(self) -> None:
        """Delete all that lies in the folder. The folder itself stays: it may be a link to somewhere."""
        for child in self.path.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()


def start_run(
    path: str | os.PathLike[str], config: dict[str, Any], *, overwrite: bool = False, resume: bool = False
) -> RunFolder:
    """Make the folder of a new run, or open that of a run to resume, and never lose one on the way.

    Args:
        path: The folder.
        config: The whole configuration, plain values only.
        overwrite: Whether a run that lies there may be deleted.
        resume: Whether a run that lies there is to be continued; without one, a new run starts.

    Raises:
        UsageError: If something lies there and neither is allowed, if what lies there is no run, or if the
            configuration of the run to resume is another one (the setting is named).
    """
    run = RunFolder(path)
    if run.path.is_file():
        raise UsageError(f"--out {path} is a file: name a folder")
    if run.path.is_dir() and any(run.path.iterdir()):
        if not run.config_file.is_file():
            raise UsageError(f"--out {path} is not empty and not a run: name a new folder")
        if resume:
            _check_same(run.config(), config, run.path)
            for left in run.path.rglob(".*.tmp-*"):  # by a process that was killed while it wrote
                left.unlink()
            return run
        if not overwrite:
            raise UsageError(f"--out {path} holds a run already: name another folder, or give --resume or --overwrite")
    try:
        if run.path.is_dir():
            run.empty()
        run.checkpoints.mkdir(parents=True)
        if job := os.environ.get("SLURM_JOB_ID"):
            run.job_file.write_text(job)
        write_atomic(run.config_file, lambda temporary: temporary.write_text(yaml.safe_dump(config, sort_keys=False)))
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error.strerror}") from error
    return run


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    before, now = flatten(old), flatten(new)
    for key in sorted(before.keys() | now.keys()):
        if key not in FREE_ON_RESUME and before.get(key) != now.get(key):
            raise UsageError(
                f"--{key.replace('_', '-')} is {now.get(key)}, but the run in {path} has {before.get(key)}: resume it "
                f"as it was, or start a new run from its encoder with --encoder {path}"
            )
