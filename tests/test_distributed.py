from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import two_processes
from torch import Tensor, nn
from two_processes import BATCH, CASES, FAULTS, NORMS, PROCESSES, Outcome

from ssl_toolkit.distributed import CpuSyncBatchNorm, all_mean, gather, rank, synchronize_batch_norm, world_size
from ssl_toolkit.encoders import Encoder, EncoderConfig

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, dict[str, Outcome]]]:
    return two_processes.in_two_processes(tmp_path_factory.mktemp("two_processes"))


def differences(found: Outcome, expected: Outcome) -> list[str]:
    assert found.keys() == expected.keys()
    return [name for name in expected if not same(found[name], expected[name])]


def same(a: Tensor, b: Tensor) -> bool:
    tolerance = TOLERANCE.get(b.dtype, 0)
    return a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_each_of_two_processes_finds_what_one_finds(case, found):
    expected = CASES[case]()
    for number in range(PROCESSES):
        assert differences(found[number][""][case], expected) == []


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
    method = two_processes.make_method("moco", hidden_dim=8, projection_dim=4, queue_size=12).eval()
    with torch.no_grad():
        keys = F.normalize(method.key_projector(method.key_encoder(two_processes.key_images())), dim=1)
    for outcomes in found:
        assert same(outcomes[""]["keys in evaluation"]["keys"], keys)


def test_keys_are_made_among_images_of_both_processes(found):
    method = two_processes.make_method("moco", hidden_dim=8, projection_dim=4, queue_size=12)
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
