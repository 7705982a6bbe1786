"""Cases for `test_distributed`, each a function of this process's part of a batch, whatever the number of processes.

`in_two_processes` computes all of them in each of two, as they are and with each fault put in; called directly, they
say what one process finds.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from ssl_toolkit import distributed
from ssl_toolkit.contrastive import cpc, dino, ibot, lejepa, losses, memory, passes, queue, swav, token_losses
from ssl_toolkit.distributed import all_mean, gather, rank, world_size
from ssl_toolkit.methods import installed_methods
from ssl_toolkit.pretext import audio_visual
from tests.every_method import Outcome, averaged, every_case, make, method_case, part
from tests.trained_together import as_by_torchrun, train_more, train_together

PROCESSES = 2
BATCH = 8  # images of all processes
STEPS = 2

# Those that are tried whenever tests are; the slow ones try all variants, and shares of all methods' weights.
METHODS = [*installed_methods(), "cpc v2"]
SHARED = ["moco"]


def joined(x: Tensor) -> Tensor:
    """The rows of all processes, by other means than the tested ones."""
    parts = [x.detach().clone()] * world_size()
    if world_size() > 1:
        dist.all_gather_object(parts, parts[0])
    return torch.cat(parts)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def gradients(module: nn.Module) -> Outcome:
    """Gradients of the weights, averaged over processes."""
    return {f"gradient of {name}": averaged(p.grad) for name, p in module.named_parameters()}


def cpc_loss(context: Tensor, futures: Tensor) -> Tensor:
    n = len(context)
    return losses.cpc(context, futures, gather(futures), rank() * n + torch.arange(n))


# What becomes of the outputs (N, 5) of a network for three views.
LOSSES: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "nt_xent": lambda z: losses.nt_xent(z[0], z[1]),
    "info_nce": lambda z: losses.info_nce(z[0], z[1], torch.eye(5, dtype=torch.float64)),
    "dcl": lambda z: losses.dcl(z[0], z[1]),
    "dclw": lambda z: losses.dcl(z[0], z[1], sigma=0.5),
    "supcon": lambda z: losses.supcon(z[0], z[1], part(torch.arange(BATCH)) % 3),
    "relational": lambda z: losses.relational(z[0], z[1], torch.eye(5, dtype=torch.float64)),
    "hard info_nce": lambda z: losses.info_nce(
        z[0], z[1], torch.eye(5, dtype=torch.float64), hardness=1.0, false_negatives=0.1
    ),
    "batch_nce": lambda z: losses.batch_nce(z[0], z[1]),
    "clip": lambda z: losses.clip(z[0], z[1], torch.tensor(3.0)),
    "siglip": lambda z: losses.siglip(z[0], z[1], torch.tensor(3.0), torch.tensor(-1.0)),
    "pixpro": lambda z: losses.pixpro(
        torch.stack(z[:2], 1), torch.stack(z[1:], 1), part(torch.arange(4 * BATCH).view(BATCH, 2, 2)) % 3 > 0
    ),
    "barlow_twins": lambda z: losses.barlow_twins(z[0], z[1]),
    "vicreg": lambda z: losses.vicreg(z[0], z[1]),
    "tico": lambda z: losses.tico(z[0], z[1], torch.eye(5, dtype=torch.float64))[0],
    "w_mse": lambda z: losses.w_mse(z, torch.arange(BATCH).flip(0).roll(1), 4, eps=0.1),
    "dino": lambda z: losses.dino(z, z[:2], torch.linspace(-1, 1, 5, dtype=torch.float64)),
    "swav": lambda z: losses.swav(z, [losses.sinkhorn(each) for each in z[:2]]),
    "clusters": lambda z: losses.clusters(
        z, torch.eye(5, dtype=torch.float64).expand(2, -1, -1), part(torch.arange(BATCH)).expand(2, -1) % 5
    ),
    "negative_cosine": lambda z: losses.negative_cosine(z[0], z[1]),
    "cpc": lambda z: cpc_loss(z[0], z[1]),
}


TOKEN_LOSSES: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "masked_patches": lambda z: token_losses.masked_patches(z[0], z[1].softmax(1), part(torch.arange(1, 9)), len(z[0])),
    "koleo": lambda z: token_losses.koleo(z[0]),
    "sigreg": lambda z: token_losses.sigreg(z[0], torch.eye(5, dtype=torch.float64)),
    "to_centre": lambda z: token_losses.to_centre(torch.stack(z), 2),
    "msn": lambda z: token_losses.msn(z[:2], z[2]),
    "regression": lambda z: token_losses.regression(z[0], z[1]),
}


def loss_case(name: str) -> Outcome:
    """A loss and the gradients of the network in front of it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    loss = {**LOSSES, **TOKEN_LOSSES}[name]([network(part(random(BATCH, 6))) for _ in range(3)])
    loss.backward()
    return {"loss": loss.detach(), **gradients(network)}


def sinkhorn_case(count: int) -> Outcome:
    torch.manual_seed(0)
    return {"codes": joined(losses.sinkhorn(part(random(count, 5)), epsilon=0.5))}


def gather_case() -> Outcome:
    """Values, and the gradient of the sum of the losses of all processes."""
    x = part(torch.arange(2.0 * BATCH).view(2, BATCH).T).detach().requires_grad_()  # not contiguous
    rows = gather(x)
    (rows * torch.arange(2.0 * BATCH).view(BATCH, 2)).sum().backward()
    return {"value": rows.detach(), "gradient": joined(x.grad)}


def all_mean_case() -> Outcome:
    x = (torch.arange(4.0).view(2, 2).T * (1 + rank())).detach().requires_grad_()
    mean = all_mean(x)
    (mean * torch.arange(4.0).view(2, 2)).sum().backward()
    return {"value": mean.detach(), "gradient": x.grad}


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(5), (5,)),
    "1d of sequences": (lambda: nn.BatchNorm1d(5), (5, 3)),
    "2d": (lambda: nn.BatchNorm2d(5, eps=0.1, momentum=0.3), (5, 3, 2)),
    "without scale": (lambda: nn.BatchNorm1d(5, affine=False), (5,)),
    "without running statistics": (lambda: nn.BatchNorm2d(5, track_running_stats=False), (5, 3, 2)),
    "of cumulative statistics": (lambda: nn.BatchNorm2d(5, momentum=None), (5, 3, 2)),
    "with timm's activation": (lambda: BatchNormAct2d(5), (5, 3, 2)),
    "of half precision": (lambda: nn.BatchNorm2d(5), (5, 3, 2)),
}


def norm_case(name: str) -> Outcome:
    """Training, then evaluation; in one process it is PyTorch's own batch norm."""
    torch.manual_seed(0)
    make, shape = NORMS[name]
    network = nn.Sequential(make())
    dtype = torch.bfloat16 if name == "of half precision" else torch.float64
    if dtype == torch.float64:
        network.double()
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    if world_size() > 1:
        distributed.synchronize_batch_norm(network)
    outcome = {}
    for step in range(STEPS):
        x = part((3 * random(BATCH, *shape) + 1).to(dtype)).requires_grad_()
        out = network(x)
        (out * part(random(BATCH, *shape).to(dtype))).mean().backward()
        outcome |= {f"output {step}": joined(out), f"gradient of the input {step}": joined(x.grad) / world_size()}
    if network[0].track_running_stats:
        outcome["evaluated"] = joined(network.eval()(x))
    return {**outcome, **gradients(network), **network.state_dict()}


def keys_case(train: bool) -> Outcome:
    """MoCo's keys with batch norm of each process alone, and which images the key encoder of this process saw."""
    method = make("moco").train(train)
    image, seen = key_images(), []
    method.key_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    keys = joined(method._keys(part(image)))
    return {"keys": keys, "seen": (seen[0][:, None] == image).flatten(2).all(2).nonzero()[:, 1]}


def key_images() -> Tensor:
    return torch.rand(BATCH, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


CASES: dict[str, Callable[[], Outcome]] = {
    "sinkhorn": lambda: sinkhorn_case(BATCH),
    "sinkhorn of uneven parts": lambda: sinkhorn_case(BATCH + 1),
    **{f"loss {name}": lambda name=name: loss_case(name) for name in (*LOSSES, *TOKEN_LOSSES)},
    **{f"batch norm {name}": lambda name=name: norm_case(name) for name in NORMS},
    **{f"method {label}": lambda label=label: method_case(label) for label in METHODS},
    **{f"shared {label}": lambda label=label: method_case(label, shared=True) for label in SHARED},
}


# Cases in which two processes differ from one; `test_distributed` knows what they should find.
OTHER_CASES: dict[str, Callable[[], Outcome]] = {
    "gather": gather_case,
    "all_mean": all_mean_case,
    "keys in evaluation": lambda: keys_case(train=False),
    "keys in training": lambda: keys_case(train=True),
}


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """A loss that knows of one process only."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with patch.object(losses, "world_size", lambda: 1), patch.object(losses, "all_mean", lambda x: x):
            return function(*args, **kwargs)

    return run


def own_rows(ctx: Any, grad: Tensor) -> Tensor:
    return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def named(kind: str, *names: str) -> list[str]:
    return [f"{kind} {name}" for name in names]


OF_ROWS = [name for name in LOSSES if name != "w_mse"]  # of which a process computes the rows of its own images

# A fault: what is put in the place of what, and the cases that must notice.
FAULTS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "gather passes no gradient": (
        lambda: patch.object(
            distributed._Gather, "backward", staticmethod(lambda ctx, grad: torch.zeros_like(own_rows(ctx, grad)))
        ),
        [*named("loss", "nt_xent", "batch_nce", "clip", "siglip", "cpc", "w_mse"), *named("method", "simclr", "cpc")],
    ),
    "gather passes the gradient of its own process": (
        lambda: patch.object(distributed._Gather, "backward", staticmethod(own_rows)),
        [*named("loss", "nt_xent", "batch_nce", "clip", "siglip", "cpc", "w_mse"), *named("method", "simclr", "cpc")],
    ),
    "mean passes the gradient of its own process": (
        lambda: patch.object(distributed._AllMean, "backward", staticmethod(lambda ctx, grad: grad / PROCESSES)),
        [*named("loss", *OF_ROWS, *TOKEN_LOSSES), *named("method", "dino", "ibot", "lejepa", "tico")],
    ),
    "mean within the loss of tokens is of one process": (
        lambda: patch.object(token_losses, "all_mean", lambda x: x),
        named("loss", *TOKEN_LOSSES),
    ),
    "neighbours are sought among those of one process": (
        lambda: patch.multiple(token_losses, gather=lambda x: x, rank=lambda: 0),
        ["loss koleo", "method dinov2"],
    ),
    "the Gaussian's images are those of one process": (
        lambda: patch.object(token_losses, "world_size", lambda: 1),
        ["loss sigreg", "method lejepa"],
    ),
    "each process tests in directions of its own": (
        lambda: patch.object(lejepa, "derive_seed", lambda *key, seed=lejepa.derive_seed: seed(*key, rank())),
        ["method lejepa"],
    ),
    "centres are of one process": (lambda: patch.object(ibot, "all_mean", lambda x: x), ["method ibot"]),
    "mean within the loss is of one process": (
        lambda: patch.object(losses, "all_mean", lambda x: x),
        named("loss", *OF_ROWS),
    ),
    "sinkhorn is of one process": (
        lambda: patch.object(losses, "sinkhorn", alone(losses.sinkhorn)),
        ["sinkhorn", "loss swav", "method swav"],
    ),
    "centre is of one process": (lambda: patch.object(dino, "all_mean", lambda x: x), ["method dino"]),
    "queue is of one process": (
        lambda: patch.object(queue, "gather", lambda x: x),
        named("method", "moco", "swav", "dense_cl"),
    ),
    "memory is of one process": (
        lambda: patch.object(memory, "gather", lambda x: x),
        named("method", "deepcluster_v2", "pirl"),
    ),
    "batch norm is of one process": (
        lambda: patch.object(distributed, "synchronize_batch_norm", lambda module: None),
        [*named("batch norm", *NORMS), "method simclr"],
    ),
    "negatives are of one process": (
        lambda: patch.multiple(cpc, gather=lambda x: x, rank=lambda: 0),
        ["method cpc"],
    ),
    "batches are whitened by each process": (
        lambda: patch.object(losses, "gather", lambda x: torch.cat([x] * world_size())),
        ["loss w_mse", "method w_mse"],
    ),
    "own rows are sought among those of the first process": (
        lambda: patch.object(losses, "rank", lambda: 0),
        named("loss", "nt_xent", "dcl", "supcon", "batch_nce", "clip", "siglip"),
    ),
    "past embeddings are assigned by each process": (
        lambda: patch.multiple(swav, world_size=lambda: 1, rank=lambda: 0),
        named("method", "swav"),
    ),
    "the sound of the next is of one process": (
        lambda: patch.object(audio_visual, "gather", lambda x: x),
        named("method", "audio_visual"),
    ),
    "keys are out of order": (
        lambda: patch.object(passes, "gather", lambda x: gather(x).roll(1, 0)),
        ["method moco", "method dense_cl"],
    ),
}


def in_two_processes(folder: Path) -> list[dict[str, dict[str, Outcome | str]]]:
    """What each process found: by fault ('' for none), then by case; in the place of a case that fails, why.

    The runs of `train_together` are in the folder.

    Raises:
        ProcessRaisedException: With the traceback of the process that failed; one that hangs fails in ten minutes.
    """
    # Copies of this process, which has imported all that they need.
    torch.multiprocessing.start_processes(work, (folder,), nprocs=PROCESSES, start_method="fork")
    return [torch.load(folder / f"{number}.pt") for number in range(PROCESSES)]


def work(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("default")  # pytest's filters, which a copy has, make errors of what torch says of DDP
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",  # no port that may be taken
        rank=number,
        world_size=PROCESSES,
        timeout=timedelta(minutes=10),
    )
    found = {"": {name: tried(case) for name, case in {**CASES, **OTHER_CASES}.items()}}
    for fault, (put_in, cases) in FAULTS.items():
        with put_in():
            found[fault] = {name: CASES[name]() for name in cases}
    torch.save(found, folder / f"{number}.pt")
    as_by_torchrun(number, PROCESSES)
    train_together(folder)
    dist.destroy_process_group()


def by_torchrun(folder: Path) -> None:
    """All there is, in processes that torchrun has started."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train_together(folder)
    seen = {"cases": every_case(), **train_more(folder)}
    torch.save(seen, folder / f"{rank()}.pt")
    dist.destroy_process_group()


def tried(case: Callable[[], Outcome]) -> Outcome | str:
    try:
        return case()
    except Exception as error:  # in all processes alike: the other cases go on
        return repr(error)


if __name__ == "__main__":
    by_torchrun(Path(sys.argv[1]))
