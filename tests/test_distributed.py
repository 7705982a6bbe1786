from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
import two_processes
from torch import Tensor, nn
from two_processes import BATCH, CASES, FAULTS, NORMS, PROCESSES, Outcome

from ssl_toolkit.checkpoints import latest_checkpoint, load_newest
from ssl_toolkit.distributed import CpuSyncBatchNorm, all_mean, gather, rank, synchronize_batch_norm, world_size
from ssl_toolkit.encoders import Encoder, EncoderConfig, encoder_metadata, load_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.runs import RunFolder
from tests import every_method
from tests.trained_together import ACCUMULATED, GLOBAL_BATCH, MOCO, SGD, STEPS, free_port, run

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}
# timm interpolates the positions of a ViT in float32, which these methods' local crops and masked views need.
INTERPOLATED = {f"{way} {name}": 1e-8 for way in ("method", "shared") for name in ("ibot", "dinov2", "msn")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def found(folder) -> list[dict[str, dict[str, Outcome]]]:
    return two_processes.in_two_processes(folder)


def differences(found: Outcome, expected: Outcome, float64: float = TOLERANCE[torch.float64]) -> list[str]:
    assert found.keys() == expected.keys()
    return [name for name in expected if not same(found[name], expected[name], float64)]


def same(a: Tensor, b: Tensor, float64: float = TOLERANCE[torch.float64]) -> bool:
    tolerance = float64 if b.dtype == torch.float64 else TOLERANCE.get(b.dtype, 0)
    return a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_each_of_two_processes_finds_what_one_finds(case, found):
    for number in range(PROCESSES):
        assert not isinstance(found[number][""][case], str), found[number][""][case]
    expected = expected_of(case.replace("shared", "method"))
    for number in range(PROCESSES):
        assert differences(found[number][""][case], expected, INTERPOLATED.get(case, 1e-10)) == []


@functools.cache
def expected_of(case: str) -> Outcome:
    return CASES[case]()


def test_a_method_that_is_not_small_is_asked_for_a_recipe(monkeypatch):
    monkeypatch.setattr(every_method, "LARGEST", 1000)
    with pytest.raises(AssertionError, match=r"byol has .* weights: give it a small recipe in tests/every_method.py"):
        every_method.make("byol")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_notices(fault, found):
    for case in FAULTS[fault][1]:
        assert differences(found[0][fault][case], found[0][""][case]) != [], case


@pytest.mark.parametrize("name", ["nt_xent", "batch_nce", "cpc"])
def test_a_gather_without_gradient_shows_in_gradients_alone(name, found):
    case, fault = f"loss {name}", "gather passes no gradient"
    wrong = differences(found[0][fault][case], found[0][""][case])
    assert wrong != []
    assert "loss" not in wrong


def test_gather_joins_rows_in_order_and_adds_up_gradients(found):
    for outcomes in found:
        outcome = outcomes[""]["gather"]
        assert torch.equal(outcome["value"], torch.arange(2.0 * BATCH).view(2, BATCH).T)
        assert torch.equal(outcome["gradient"], PROCESSES * torch.arange(2.0 * BATCH).view(BATCH, 2))


def test_all_mean_is_the_mean_and_shares_out_gradients(found):
    for outcomes in found:
        outcome = outcomes[""]["all_mean"]
        assert torch.equal(outcome["value"], 1.5 * torch.arange(4.0).view(2, 2).T)
        assert torch.equal(outcome["gradient"], torch.arange(4.0).view(2, 2))


def test_one_process_gathers_and_means_nothing():
    x = torch.randn(3, 2)
    assert (world_size(), rank()) == (1, 0)
    assert gather(x) is x
    assert all_mean(x) is x


def test_keys_come_back_to_their_images(found):
    method = every_method.make("moco").eval()
    with torch.no_grad():
        keys = F.normalize(method.key_projector(method.key_encoder(two_processes.key_images())), dim=1)
    for outcomes in found:
        assert same(outcomes[""]["keys in evaluation"]["keys"], keys)


def test_keys_are_made_among_images_of_both_processes(found):
    method = every_method.make("moco")
    seen = [outcomes[""]["keys in training"]["seen"] for outcomes in found]
    assert sorted(torch.cat(seen).tolist()) == list(range(BATCH))
    for numbers in seen:
        assert 0 < (numbers < BATCH // PROCESSES).sum() < BATCH // PROCESSES
        with torch.no_grad():
            keys = F.normalize(method.key_projector(method.key_encoder(two_processes.key_images()[numbers])), dim=1)
        for outcomes in found:
            assert same(outcomes[""]["keys in training"]["keys"][numbers], keys)


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_in_one_process_is_pytorchs(name):
    make, shape = NORMS[name]
    norm = make()
    synced = nn.Sequential(copy.deepcopy(norm))
    synchronize_batch_norm(synced)
    assert isinstance(synced[0], CpuSyncBatchNorm)
    for training in (True, True, False):
        x = 3 * torch.randn(BATCH, *shape) + 1
        assert torch.equal(synced.train(training)(x), norm.train(training)(x))
        assert differences(synced[0].state_dict(), norm.state_dict()) == []


def test_synchronizing_keeps_weights_names_and_mode():
    encoder = Encoder(EncoderConfig("resnet18", image_size=16, load_size=16))
    encoder.backbone.layer1.eval()
    weights, norms = dict(encoder.named_parameters()), batch_norms(encoder)
    names, modes = list(encoder.state_dict()), [norm.training for norm in norms]
    synchronize_batch_norm(encoder)
    assert len(norms) == 20
    assert all(isinstance(norm, CpuSyncBatchNorm) for norm in batch_norms(encoder))
    assert all(weight is weights[name] for name, weight in encoder.named_parameters())
    assert (list(encoder.state_dict()), [norm.training for norm in batch_norms(encoder)]) == (names, modes)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


# Whole runs.


def weights(run: Path) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in load_encoder(run).parameters()])


def close(one: Path, two: Path) -> bool:
    """Whether two runs' encoders are equal, but for rounding, which grows: less than a fiftieth of their way."""
    start = one.parent / "start"
    if not start.exists():
        run(start, optimizer={**SGD, "lr": 1e-9})
    return bool((weights(one) - weights(two)).norm() < (weights(two) - weights(start)).norm() / 50)


def test_two_processes_train_as_one_with_their_batches_joined(found, folder):
    run(folder / "one", knn_every=1)
    assert close(folder / "together", folder / "one")
    together, one = (RunFolder(folder / name) for name in ("together", "one"))
    assert [float(row["lr"]) for row in read_metrics(together.metrics_file)] == [SGD["lr"] * GLOBAL_BATCH / 256] * STEPS
    scores = [[row["knn_top1"] for row in read_metrics(each.metrics_file)] for each in (together, one)]
    assert scores[0] == scores[1]
    assert (together.config()["devices"], together.config()["nodes"]) == (1, PROCESSES)


def test_weights_that_are_shared_out_are_saved_in_parts_resumed_and_gathered(found, folder):
    run(folder / "one moco", method=MOCO)
    assert close(folder / "stopped", folder / "one moco")
    names = [f"step-{step:08d}.ckpt{part}" for step in (4, STEPS) for part in ("", ".1")]
    checkpoints = RunFolder(folder / "stopped").checkpoints
    assert sorted(path.name for path in checkpoints.iterdir()) == names
    assert encoder_metadata(folder / "stopped")["method"] == "MoCo"
    joined, gathered = Mock(), load_encoder(folder / "stopped").backbone.state_dict()
    assert load_newest(joined, checkpoints)
    state = joined.load_state_dict.call_args.args[0]
    assert all(torch.equal(state[f"encoder.backbone.{name}"], rows) for name, rows in gathered.items())
    (checkpoints / names[-1]).unlink()
    with pytest.warns(UserWarning, match=r"step-00000006.ckpt.1 cannot be read.*falling back"):
        assert latest_checkpoint(checkpoints, rank=1).name == names[0]


def test_another_number_of_processes_cannot_go_on(found, folder):
    with pytest.raises(UsageError, match=r"--devices x --nodes is 1 processes, but the run in .* has 2, on which its"):
        run(folder / "together", knn_every=1, resume=True)


# Two machines, as far as torchrun knows, with two processes each.


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two_nodes")
    port = free_port()
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node)),
                *("--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port)),
                *("-m", "tests.two_processes", str(folder)),
            ],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for node in range(2)
    ]
    assert [each.wait(1800) for each in started] == [0, 0]
    return folder, [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("label", every_method.LABELS)
def test_four_processes_on_two_nodes_find_what_one_finds(label, seen):
    expected = every_method.method_case(label, processes=4)
    for outcome in seen[1]:
        for way in ("", " shared"):
            close = INTERPOLATED.get(f"method {label}", 1e-10)
            assert differences(outcome["cases"][label + way], expected, close) == []


@pytest.mark.slow
def test_four_processes_on_two_nodes_train_as_one(seen):
    folder, _ = seen
    run(folder / "one", knn_every=1)
    run(folder / "one moco", method=MOCO)
    assert close(folder / "together", folder / "one")
    assert close(folder / "stopped", folder / "one moco")
    assert encoder_metadata(folder / "whole")["sha256"] == encoder_metadata(folder / "stopped adam")["sha256"]


@pytest.mark.slow
def test_gradients_are_exchanged_once_an_optimiser_step(seen):
    for each in seen[1]:
        assert each["exchanges"] == {(kind, n): STEPS for kind in ACCUMULATED for n in (1, 2)}


@pytest.mark.slow
def test_processes_that_do_not_see_the_same_folder_are_told(seen):
    for number, each in enumerate(seen[1]):
        assert f"process {number} goes on from step {0 if number else 4}, others from 0 to 4" in each["unseen"]
