"""A run is a folder: configuration, metrics, checkpoints, encoder, list of bad images, report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ssl_toolkit.errors import UsageError
from ssl_toolkit.files import write_atomic
from ssl_toolkit.launch import started_by_torchrun
from ssl_toolkit.progress import say
from ssl_toolkit.slurm import requeued_job, started_by_srun

# What may differ between a run and its resumption: these change how it is done, never what comes out. Of devices and
# nodes, the product counts.
FREE_ON_RESUME = {
    *("out", "workers", "checkpoint_every", "progress", "data_root", "cache", "max_bad_rate", "doctor", "logger"),
    *("requeue", "devices", "nodes", "encoder.checkpoint_activations"),
}

# What ``config.yaml`` says of a run besides its settings: that it was extended.
HISTORY = "extended"


def launched_rank() -> int:
    """Number of this process among all that train the run together, as Lightning, torchrun or srun has told it."""
    if started_by_torchrun():
        return int(os.environ["RANK"])
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
        self.text_file = self.path / "text.safetensors"
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
        config: dict[str, Any] = without_history(yaml.safe_load(self.config_file.read_text()))
        return config

    def extensions(self) -> list[dict[str, int]]:
        """Where the run was given more epochs: the ``step`` and the ``epochs`` until then, in order; empty: nowhere."""
        stored = yaml.safe_load(self.config_file.read_text()) if self.config_file.is_file() else None
        return list(stored.get(HISTORY, ())) if isinstance(stored, dict) else []

    def extended(self) -> str:
        """`extensions` in words, to stand behind the number of epochs; empty if there are none."""
        places = [f"from {each['epochs']} at step {each['step']:,}" for each in self.extensions()]
        return f"extended {', '.join(places)}" if places else ""

    def first_epochs(self, epochs: int) -> int:
        """How many epochs the run had at first, or `epochs`, to which it is being extended, if it is new."""
        extensions = self.extensions()
        if extensions:
            return extensions[0]["epochs"]
        return min(epochs, self.config()["epochs"]) if self.config_file.is_file() else epochs

    def write_config(self, config: dict[str, Any]) -> None:
        """Write ``config.yaml``, whole or not at all."""
        text = yaml.safe_dump(config, sort_keys=False)
        write_atomic(self.config_file, lambda temporary: temporary.write_text(text))

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


def without_history(stored: Any) -> Any:
    """What ``config.yaml`` holds, without what is no setting."""
    return {key: value for key, value in stored.items() if key != HISTORY} if isinstance(stored, dict) else stored


def start_run(
    path: str | os.PathLike[str],
    config: dict[str, Any],
    *,
    overwrite: bool = False,
    resume: bool = False,
    extend: bool | None = None,
    usual: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Make the folder of a new run, or open that of a run to resume, and never lose one on the way.

    Args:
        path: The folder.
        config: The whole configuration, plain values only.
        overwrite: Whether a run that lies there may be deleted.
        resume: Whether a run that lies there is to be continued; without one, a new run starts.
        extend: Whether it may have more ``epochs`` than before, which is noted in its folder; None: it never can.
        usual: Defaults of settings, for a run from before some of them existed.

    Raises:
        UsageError: If something lies there and neither is allowed, if what lies there is no run, or if the
            configuration of the run to resume is another one (the setting is named).
    """
    run = RunFolder(path)
    if extend and not resume:
        raise UsageError("--extend goes on with a run: give --resume too")
    if run.path.is_file():
        raise UsageError(f"--out {path} is a file: name a folder")
    if run.path.is_dir() and any(run.path.iterdir()):
        if not run.config_file.is_file():
            raise UsageError(f"--out {path} is not empty and not a run: name a new folder")
        if resume:
            now, defaults = flatten(config), flatten(dict(usual or {}))
            before = {key: defaults[key] for key in now if key in defaults} | flatten(run.config())
            _check_same(before, now, run.path, extend)
            for left in run.path.rglob(".*.tmp-*"):  # by a process that was killed while it wrote
                left.unlink()
            if extend:
                _extend(run, config["epochs"])
            return run
        if not overwrite:
            raise UsageError(f"--out {path} holds a run already: name another folder, or give --resume or --overwrite")
    try:
        if run.path.is_dir():
            run.empty()
        run.checkpoints.mkdir(parents=True)
        if job := os.environ.get("SLURM_JOB_ID"):
            run.job_file.write_text(job)
        run.write_config(config)
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


def _check_same(before: dict[str, Any], now: dict[str, Any], path: Path, extend: bool | None) -> None:
    fix = f"start a new run from its encoder with --encoder {path}"
    if _processes(before) != _processes(now):
        raise UsageError(
            f"--devices x --nodes is {_processes(now)} processes, but the run in {path} has {_processes(before)}, on "
            f"which its course depends: resume it with as many, or {fix}"
        )
    for key in sorted(before.keys() | now.keys()):
        if key in FREE_ON_RESUME or before.get(key) == now.get(key):
            continue
        longer = key == "epochs" and extend is not None and now[key] > before[key]
        if longer and extend:
            continue
        raise UsageError(
            f"--{key.replace('_', '-')} is {now.get(key)}, but the run in {path} has {before.get(key)}: "
            f"{'give --extend too to go on with it' if longer else 'resume it as it was'}, or {fix}"
        )


def _processes(config: dict[str, Any]) -> int:
    return (config.get("devices") or 1) * (config.get("nodes") or 1)


def _extend(run: RunFolder, epochs: int) -> None:
    """Note that the run goes on to `epochs` from its newest checkpoint; nothing, if it does so already."""
    before = run.config()
    if epochs == before["epochs"]:
        return
    step = max((int(path.stem.partition("-")[2]) for path in run.checkpoints.glob("step-*.ckpt")), default=0)
    extensions = [*run.extensions(), {"step": step, "epochs": before["epochs"]}]
    try:
        run.write_config({**before, "epochs": epochs, HISTORY: extensions})
    except OSError as error:
        raise UsageError(f"{run.config_file} cannot be written: {error.strerror}") from error
    say(
        f"extended: from {before['epochs']} to {epochs} epochs at step {step:,}; schedules go on from where those of "
        f"{epochs} epochs stand there, without a second warm-up"
    )
