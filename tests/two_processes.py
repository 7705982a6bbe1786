"""Cases for `test_distributed`, each a function of this process's part of a batch, whatever the number of processes.

`in_two_processes` computes all of them in each of two, as they are and with each fault put in; called directly, they
say what one process finds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_toolkit import distributed
from ssl_toolkit.contrastive import (
    cpc,
    data2vec2,
    dino,
    i_jepa,
    ibot,
    lejepa,
    losses,
    moco,
    msn,
    queue,
    swav,
    token_losses,
)
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean, gather, rank, world_size
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.method import Method
from ssl_toolkit.methods import method_class
from ssl_toolkit.pretext import simmim
from tests.conftest import small_config, small_teacher

PROCESSES = 2
BATCH = 8  # images of all processes
STEPS = 2

Outcome = dict[str, Tensor]


def part(x: Tensor) -> Tensor:
    """This process's rows."""
    return x.tensor_split(world_size())[rank()]


def joined(x: Tensor) -> Tensor:
    """The rows of all processes, by other means than the tested ones."""
    parts = [x.detach().clone()] * world_size()
    if world_size() > 1:
        dist.all_gather_object(parts, parts[0])
    return torch.cat(parts)


def averaged(x: Tensor) -> Tensor:
    """The mean over processes, by other means than the tested ones."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


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
    "batch_nce": lambda z: losses.batch_nce(z[0], z[1]),
    "barlow_twins": lambda z: losses.barlow_twins(z[0], z[1]),
    "vicreg": lambda z: losses.vicreg(z[0], z[1]),
    "dino": lambda z: losses.dino(z, z[:2], torch.linspace(-1, 1, 5, dtype=torch.float64)),
    "swav": lambda z: losses.swav(z, [losses.sinkhorn(each) for each in z[:2]]),
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


LOCAL = [16, 16, 8, 8]  # px: sides of global and local views
METHODS: dict[str, tuple[str, list[int], dict[str, Any]]] = {
    "simclr": ("simclr", [16, 16], {"hidden_dim": 8, "projection_dim": 4}),
    "dcl": ("dcl", [16, 16], {"hidden_dim": 8, "projection_dim": 4, "sigma": 0.5}),
    "supcon": ("supcon", [16, 16], {"hidden_dim": 8, "projection_dim": 4}),
    "ressl": ("ressl", [16, 16], {"hidden_dim": 8, "projection_dim": 4, "queue_size": 12}),
    "moco": ("moco", [16, 16], {"hidden_dim": 8, "projection_dim": 4, "queue_size": 12}),
    "moco_v3": ("moco_v3", [16, 16], {"hidden_dim": 8, "projection_dim": 4}),
    "byol": ("byol", [16, 16], {"hidden_dim": 8, "projection_dim": 4}),
    "simsiam": ("simsiam", [16, 16], {"hidden_dim": 4, "projection_dim": 8}),
    "barlow_twins": ("barlow_twins", [16, 16], {"projection_dim": 6}),
    "vicreg": ("vicreg", [16, 16], {"projection_dim": 6}),
    "nnclr": ("nnclr", [16, 16], {"hidden_dim": 8, "projection_dim": 4, "queue_size": 12}),
    "swav": (  # the queue is full, and so in use, after the first step; its halves are of unequal size
        "swav",
        LOCAL,
        {"hidden_dim": 8, "projection_dim": 4, "prototypes": 6, "queue_size": 7, "queue_start": 0.0},
    ),
    "dino": ("dino", LOCAL, {"hidden_dim": 8, "bottleneck_dim": 4, "prototypes": 6}),
    "lejepa": ("lejepa", LOCAL, {"hidden_dim": 8, "projection_dim": 4, "slices": 16}),
    "simmim": ("simmim", [16], {}),
    "i_jepa": ("i_jepa", [16], {"predictor_dim": 16}),
    "ibot": ("ibot", LOCAL, {"hidden_dim": 8, "bottleneck_dim": 4, "prototypes": 6}),
    "dinov2": ("dinov2", LOCAL, {"hidden_dim": 8, "bottleneck_dim": 4, "prototypes": 6}),
    "msn": ("msn", [16, 16], {"hidden_dim": 8, "projection_dim": 4, "prototypes": 6}),
    "data2vec2": ("data2vec2", [16], {"masks": 2, "decoder_dim": 16}),
    "distill": ("distill", [16], {"teacher": small_teacher()}),
    "colorization": ("colorization", [16], {}),
    "split_brain": ("split_brain", [16], {}),
    "cpc": ("cpc", [16], {"steps": 2, "context_dim": 8, "projection_dim": 4}),
    "cpc v2": ("cpc", [16], {"steps": 2, "context": "conv", "directions": 4, "context_dim": 8, "projection_dim": 4}),
}


def same_masks(module: Any, function: str, together: bool = False) -> Any:
    """Masks that go with the images: those of the whole batch, of which each process takes its part.

    Args:
        module: Whose masks.
        function: That draws them, from the number of images or a share for each.
        together: Whether the masks of an image follow one another, else those of a view do.
    """
    drawn = getattr(module, function)

    def mask(images: Any, *args: Any, **options: Any) -> Any:
        n = images if isinstance(images, int) else len(images)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            found = drawn(BATCH if isinstance(images, int) else torch.linspace(0, 0.6, BATCH), *args, **options)
        times = n // (BATCH // world_size())
        rows = [
            part(each).repeat_interleave(times, 0) if together else torch.cat([part(each)] * times)
            for each in (found if isinstance(found, tuple) else [found])
        ]
        return tuple(rows) if isinstance(found, tuple) else rows[0]

    return patch.object(module, function, mask)


# Methods that draw masks.
MASKS: dict[str, Callable[[], Any]] = {
    "simmim": lambda: same_masks(simmim, "square_masking"),
    "i_jepa": lambda: same_masks(i_jepa, "multiblock_masking"),
    "ibot": lambda: same_masks(ibot, "block_masking"),
    "dinov2": lambda: same_masks(ibot, "block_masking"),
    "msn": lambda: same_masks(msn, "random_masking"),
    "data2vec2": lambda: same_masks(data2vec2, "inverse_block_masking", together=True),
}


def make_method(name: str, **options: Any) -> Method:
    torch.manual_seed(0)
    found = method_class(name)
    encoder = Encoder(small_config(found, 16))
    return found(encoder, found.default_views(size=16), **options).double()


class Stepped(nn.Module):
    """A method's loss as a module's output, as `DistributedDataParallel` wants it."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: list[Tensor], batch: Batch) -> Tensor:
        return self.method.step(views, batch)["loss"]


def method_case(label: str) -> Outcome:
    """Losses of some steps, and all that the method knows afterwards."""
    name, sizes, options = METHODS[label]
    method = make_method(name, **options)
    stepped: nn.Module = Stepped(method)
    if world_size() > 1:
        distributed.synchronize_batch_norm(method)
        stepped = DistributedDataParallel(stepped, broadcast_buffers=False)
    # Not Adam: it turns the rounding of a gradient that should be 0 into a step.
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    outcome = {}
    for step in range(STEPS):
        torch.manual_seed(step)  # what a method drew before depends on the number of its images
        views = [part(torch.rand(BATCH, 3, size, size, dtype=torch.float64)) for size in sizes]
        numbers = part(torch.arange(BATCH))
        with MASKS.get(name, nullcontext)(), patch.object(data2vec2, "NOISE", 0.0):
            loss = stepped(views, Batch(views[0], numbers % 3, numbers))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_update()
        outcome[f"loss {step}"] = loss.detach()
    return {**outcome, **{k: v.clone() for k, v in method.state_dict().items()}}


def keys_case(train: bool) -> Outcome:
    """MoCo's keys with batch norm of each process alone, and which images the key encoder of this process saw."""
    method = make_method("moco", hidden_dim=8, projection_dim=4, queue_size=12).train(train)
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


WITHOUT_BATCH_NORM = {"cpc", "cpc v2", "simmim", "i_jepa", "ibot", "dinov2", "data2vec2"}
WITH_BATCH_NORM = named("method", *[label for label in METHODS if label not in WITHOUT_BATCH_NORM])

# A fault: what is put in the place of what, and the cases that must notice.
FAULTS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "gather passes no gradient": (
        lambda: patch.object(
            distributed._Gather, "backward", staticmethod(lambda ctx, grad: torch.zeros_like(own_rows(ctx, grad)))
        ),
        [*named("loss", "nt_xent", "batch_nce", "cpc"), *named("method", "simclr", "nnclr", "cpc", "cpc v2")],
    ),
    "gather passes the gradient of its own process": (
        lambda: patch.object(distributed._Gather, "backward", staticmethod(own_rows)),
        [*named("loss", "nt_xent", "batch_nce", "cpc"), *named("method", "simclr", "nnclr", "cpc", "cpc v2")],
    ),
    "mean passes the gradient of its own process": (
        lambda: patch.object(distributed._AllMean, "backward", staticmethod(lambda ctx, grad: grad / PROCESSES)),
        [*named("loss", *LOSSES, *TOKEN_LOSSES), *named("method", "simsiam", "dino", "ibot", "lejepa")],
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
        named("loss", *LOSSES),
    ),
    "sinkhorn is of one process": (
        lambda: patch.object(losses, "sinkhorn", alone(losses.sinkhorn)),
        ["sinkhorn", "loss swav", "method swav"],
    ),
    "centre is of one process": (lambda: patch.object(dino, "all_mean", lambda x: x), ["method dino"]),
    "queue is of one process": (
        lambda: patch.object(queue, "gather", lambda x: x),
        named("method", "moco", "nnclr", "ressl", "swav"),
    ),
    "batch norm is of one process": (
        lambda: patch.object(distributed, "synchronize_batch_norm", lambda module: None),
        [*named("batch norm", *NORMS), *WITH_BATCH_NORM],
    ),
    "negatives are of one process": (
        lambda: patch.multiple(cpc, gather=lambda x: x, rank=lambda: 0),
        named("method", "cpc", "cpc v2"),
    ),
    "own rows are sought among those of the first process": (
        lambda: patch.object(losses, "rank", lambda: 0),
        named("loss", "nt_xent", "dcl", "supcon", "batch_nce"),
    ),
    "past embeddings are assigned by each process": (
        lambda: patch.multiple(swav, world_size=lambda: 1, rank=lambda: 0),
        named("method", "swav"),
    ),
    "keys are out of order": (
        lambda: patch.object(
            moco.MoCo, "_keys", lambda self, image, keys=moco.MoCo._keys: keys(self, image).roll(1, 0)
        ),
        ["method moco"],
    ),
}


def in_two_processes(folder: Path) -> list[dict[str, dict[str, Outcome]]]:
    """What each process found: by fault ('' for none), then by case.

    Raises:
        ProcessRaisedException: With the traceback of the process that failed; one that hangs fails in ten minutes.
    """
    torch.multiprocessing.spawn(work, (folder,), nprocs=PROCESSES)
    return [torch.load(folder / f"{number}.pt") for number in range(PROCESSES)]


def work(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",  # no port that may be taken
        rank=number,
        world_size=PROCESSES,
        timeout=timedelta(minutes=10),
    )
    found = {"": {name: case() for name, case in {**CASES, **OTHER_CASES}.items()}}
    for fault, (put_in, cases) in FAULTS.items():
        with put_in():
            found[fault] = {name: CASES[name]() for name in cases}
    torch.save(found, folder / f"{number}.pt")
    dist.destroy_process_group()
