"""Who has started this process, and beside how many: what torchrun and srun say of it."""

from __future__ import annotations

import pytest

from ssl_toolkit.companions import environment
from ssl_toolkit.errors import UsageError
from ssl_toolkit.launch import check_processes, nodes
from ssl_toolkit.runs import launched_rank, local_rank


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun sets for the second of two processes on the second of three machines, in a job of SLURM's."""
    variables = {
        "TORCHELASTIC_RUN_ID": "one", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
        "SLURM_NTASKS": "3", "SLURM_STEP_ID": "0", "SLURM_NNODES": "3", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("torchrun")
def test_processes_are_numbered_as_torchrun_says() -> None:
    assert (launched_rank(), local_rank(), nodes()) == (3, 1, 3)
    found = environment()
    assert (found.world_size(), found.global_rank(), found.local_rank(), found.node_rank()) == (6, 3, 1, 1)


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize("asked", [None, 3])
def test_as_many_as_torchrun_has_started_are_fine(asked: int | None) -> None:
    check_processes(2, asked)


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize(("devices", "asked"), [(1, None), (2, 2), (6, 1)])
def test_others_than_torchrun_has_started_are_refused(devices: int, asked: int | None) -> None:
    wanted = asked or 3
    with pytest.raises(UsageError, match=rf"2 processes on each of 3 .*--nproc-per-node {devices} --nnodes {wanted}"):
        check_processes(devices, asked)


def test_other_machines_take_someone_who_starts_them() -> None:
    check_processes(4, 1)
    with pytest.raises(UsageError, match=r"--nodes is 2, and nothing has started .* by srun or torchrun"):
        check_processes(4, 2)
