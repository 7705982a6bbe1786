"""SLURM, a cluster's scheduler: which of its processes this one is, and a job that goes back into the queue."""

from __future__ import annotations

import os
import shutil
import subprocess

from ssl_toolkit.errors import said_by


def started_by_srun() -> bool:
    """Whether srun has started this process beside others; torchrun, under srun, numbers its processes itself."""
    several = int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return several and "SLURM_STEP_ID" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ


def requeue() -> str | None:
    """Ask for this job to be put back into the queue, as the same job.

    Returns:
        What came of it, to be told; None where this is no job of SLURM's.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or shutil.which("scontrol") is None:
        return None
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        why = " ".join(str(getattr(error, "stderr", "") or said_by(error)).split())
        return f"scontrol requeue {job} failed ({why[:160]}): go on with --resume"
    return f"job {job} is back in the queue, and goes on from here"


def requeued_job() -> str | None:
    """The job's number where it has been in the queue before."""
    return os.environ.get("SLURM_JOB_ID") if int(os.environ.get("SLURM_RESTART_COUNT", "0")) else None
