"""Who has started the processes that train together, on how many machines: torchrun, srun, or this program itself."""

from __future__ import annotations

import os

from ssl_toolkit.errors import UsageError
from ssl_toolkit.slurm import started_by_srun


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process, and numbers it; under srun too."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def nodes() -> int:
    """Machines that train together."""
    if started_by_torchrun():
        return int(os.environ["GROUP_WORLD_SIZE"])
    return int(os.environ.get("SLURM_NNODES", "1")) if started_by_srun() else 1


def check_processes(devices: int, asked: int | None) -> None:
    """Refuse another number of processes than is asked for: they would wait for each other for ever.

    Args:
        devices: Processes on each machine.
        asked: Machines; None: as many as there are.

    Raises:
        UsageError: Naming both numbers.
    """
    there, wanted = nodes(), nodes() if asked is None else asked
    if started_by_torchrun():
        each = int(os.environ["LOCAL_WORLD_SIZE"])
        if (each, there) != (devices, wanted):
            raise UsageError(
                f"torchrun has started {each} processes on each of {there} machines, and --devices is {devices}, "
                f"--nodes {wanted}: give torchrun --nproc-per-node {devices} --nnodes {wanted}, or --devices {each} "
                f"--nodes {there}"
            )
    elif started_by_srun():
        tasks, per_node = int(os.environ["SLURM_NTASKS"]), os.environ.get("SLURM_NTASKS_PER_NODE")
        if tasks != devices * there or per_node != str(devices) or there != wanted:
            raise UsageError(
                f"srun has started {tasks} processes on {there} machines, and --devices is {devices}, --nodes "
                f"{wanted}: give sbatch --ntasks-per-node={devices} (not --ntasks) --nodes={wanted}, or --devices "
                f"{per_node or max(1, tasks // there)} --nodes {there}"
            )
    elif wanted > 1:
        raise UsageError(
            f"--nodes is {wanted}, and nothing has started this process among others: start the same command on every "
            "machine, by srun or torchrun"
        )
