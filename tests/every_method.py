"""Steps of any installed method on a joined batch: in one process, or in several that hold a part each.

Whoever installs a method has it here; it must be small, by `tiny_heads` or by a recipe of its own in `SMALL`.
``python -m tests.every_method`` prints how far two processes are from one, as a table.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from ssl_toolkit import distributed
from ssl_toolkit.contrastive import data2vec2, i_jepa, ibot, msn
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import rank, world_size
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.encoders.weights_file import whole
from ssl_toolkit.method import Method
from ssl_toolkit.methods import installed_methods, method_class
from ssl_toolkit.pretext import simmim
from ssl_toolkit.sharding import load_local, load_local_optimizer, local, shard
from tests.conftest import SOUND, frames_of, small_config, tiny_heads

PART = (
    7  # images a process: a number that is no width, side or count of anything else, so that draws by image are known
)
STEPS = 2  # between them the state is saved, and a new method goes on from it
LARGEST = 2_000_000  # weights of what is small

Outcome = dict[str, Tensor]

# What the small copy of a method has besides `tiny_heads`; variants stand behind a name.
SMALL: dict[str, dict[str, Any]] = {
    "audio_visual": {"sound_dim": 2},
    "audio_visual clusters": {"sound_dim": 2, "task": "clusters", "clusters": 3},
    "autoencoder denoising": {"variant": "denoising"},
    "autoencoder variational": {"variant": "variational"},
    "bigan": {"code_dim": 4, "generator_dim": 8, "discriminator_dim": 2},
    "clip": {"text_layers": 1},
    "clip sigmoid": {"text_layers": 1, "loss": "sigmoid"},
    "cpc": {"steps": 2},
    "cpc v2": {"steps": 2, "context": "conv", "directions": 4},
    "dcl": {"sigma": 0.5},
    "data2vec2": {"masks": 2},
    "deepcluster_v2": {"prototypes": 6},
    "inpainting": {"code_dim": 4},
    "inpainting blocks": {"code_dim": 4, "adversarial_weight": 0.0, "mask": "blocks"},
    "jigsaw": {"permutations": 10},
    "lejepa": {"slices": 16},
    "moco": {"queue_size": 20},
    "moco hard negatives": {"queue_size": 20, "hardness": 1.0, "false_negatives": 0.1},
    "pirl": {"negatives": 5},
    # The queue is full, and so in use, after the first step; its halves are of unequal size.
    "swav": {"queue_size": 9, "queue_start": 0.0},
    "w_mse": {"slice_size": 7, "slicings": 2, "eps": 0.1},
}
SIDES = {"jigsaw": 32, "relative_patch": 32}  # px, where tiles do not fit into 16
LABELS = sorted({*installed_methods(), *SMALL})


def make(label: str, seed: int = 0) -> Method:
    """The small method of that label, in float64."""
    name, side = label.split()[0], SIDES.get(label.split()[0], 16)
    found = method_class(name)
    heads = tiny_heads(found)
    torch.manual_seed(seed)
    encoder = Encoder(replace(small_config(found, side), image_size=side, load_size=side))
    views = found.default_views(side, channels=3 * frames_of(found))
    method = found(encoder, views, **{**heads, **SMALL.get(label, {})}).double().train()
    weights = sum(p.numel() for p in method.parameters())
    assert weights < LARGEST, f"{label} has {weights} weights: give it a small recipe in tests/every_method.py"
    return method


def part(x: Tensor) -> Tensor:
    """This process's rows."""
    return x.tensor_split(world_size())[rank()]


class JoinedDraws(TorchFunctionMode):
    """Draws an image are those of the joined batch, of which this process takes its own; training draws by rank.

    An image's place is the first axis that is a multiple of `PART`, where images come before what else is in it.
    """

    DRAWS = (torch.rand, torch.randn, torch.randint, torch.rand_like, torch.randn_like)

    def __init__(self) -> None:
        super().__init__()
        self.drawn = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.DRAWS or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        self.drawn = True
        with torch.random.fork_rng(devices=[]):
            like = func(*args, **kwargs)  # for its shape
        axis = next((axis for axis, size in enumerate(like.shape) if size % PART == 0), None)
        if axis is None:  # not by image: the same in all processes
            return func(*args, **kwargs)
        shape = [size * (world_size() if number == axis else 1) for number, size in enumerate(like.shape)]
        if func is torch.randint:
            joined = torch.randint(*[arg for arg in args if isinstance(arg, int)], shape)
        else:
            joined = (torch.rand if func in (torch.rand, torch.rand_like) else torch.randn)(shape, dtype=like.dtype)
        return joined.tensor_split(world_size(), dim=axis)[rank()]


def same_masks(images: int, module: Any, function: str, together: bool = False) -> Any:
    """Masks that go with the images: those of the joined batch, of which each process takes its part.

    Args:
        images: In the joined batch.
        module: Whose masks.
        function: That draws them, from the number of images or a share for each.
        together: Whether the masks of an image follow one another, else those of a view do.
    """
    drawn = getattr(module, function)

    def mask(of: Any, *args: Any, **options: Any) -> Any:
        with torch._C.DisableTorchFunction(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            found = drawn(images if isinstance(of, int) else torch.linspace(0, 0.6, images), *args, **options)
        times = (of if isinstance(of, int) else len(of)) // (images // world_size())
        rows = [
            part(each).repeat_interleave(times, 0) if together else torch.cat([part(each)] * times)
            for each in (found if isinstance(found, tuple) else [found])
        ]
        return tuple(rows) if isinstance(found, tuple) else rows[0]

    return patch.object(module, function, mask)


# Where the masks of methods come from.
MASKS: dict[str, tuple[Any, str, bool]] = {
    "simmim": (simmim, "square_masking", False),
    "i_jepa": (i_jepa, "multiblock_masking", False),
    "ibot": (ibot, "block_masking", False),
    "dinov2": (ibot, "block_masking", False),
    "msn": (msn, "random_masking", False),
    "data2vec2": (data2vec2, "inverse_block_masking", True),
}


class Stepped(nn.Module):
    """A method's loss as a module's output, as `DistributedDataParallel` wants it."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: list[Tensor], batch: Batch) -> Tensor:
        return self.method.step(views, batch)["loss"]


def data(method: Method, images: int, step: int) -> tuple[list[Tensor], Batch]:
    """This process's part of the views of the joined batch."""
    torch.manual_seed(1000 + step)
    side, frames = method.encoder.config.image_size, frames_of(type(method))
    image = torch.randint(0, 256, (images, 3 * frames, side, side), dtype=torch.uint8)
    numbers = torch.arange(images)
    views = [part(view.double()) for view in method.views(image)]
    own = part(numbers)
    captions = [f"{'long ' * (number % 3)}caption {number}" for number in own.tolist()]
    sound = part(torch.rand(images, *SOUND, dtype=torch.float64))
    return views, Batch(part(image), own % 3, own, caption=captions, sound=sound)


class Trained:
    """A method that several processes train together, by hand.

    Args:
        label: Which one.
        shared: Whether each process holds a share of the weights, and not all.
        seed: Of the first weights.
    """

    def __init__(self, label: str, shared: bool, seed: int = 0) -> None:
        self.method, self.shared, self.draws = make(label, seed), shared, JoinedDraws()
        self.masks = MASKS.get(label.split()[0])
        self.norms = any(isinstance(module, _BatchNorm) for module in self.method.modules())
        self.module: Callable[..., Tensor] = Stepped(self.method)
        if world_size() > 1:
            distributed.synchronize_batch_norm(self.method)
            if shared:
                shard(self.method, init_device_mesh("cpu", (world_size(),)))
            else:
                self.module = DistributedDataParallel(self.module, broadcast_buffers=False)  # type: ignore[arg-type]
        # Not Adam: it turns the rounding of a gradient that should be 0 into a step.
        trained = [p for p in self.method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)

    def step(self, images: int, number: int) -> Outcome:
        """One step on the joined batch of that number: its loss and all gradients."""
        views, batch = data(self.method, images, number)
        self.optimizer.zero_grad()
        with same_masks(images, *self.masks) if self.masks else nullcontext(), self.draws:
            loss = self.module(views, batch)
        loss.backward()
        every = self.method.named_parameters()
        gradients = {n: whole(p.grad).detach().clone() for n, p in every if p.grad is not None}
        self.optimizer.step()
        self.method.after_update()
        return {f"loss {number}": averaged(loss), **{f"gradient {number} of {n}": g for n, g in gradients.items()}}

    def saved(self) -> bytes:
        """All that goes on, as this process writes it."""
        file = io.BytesIO()
        torch.save(local({"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict()}), file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        load_local(self.method, state["method"])
        load_local_optimizer(self.optimizer, state["optimizer"])


def averaged(x: Tensor) -> Tensor:
    """The mean over processes: of losses that are the mean over a process's own images."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def method_case(label: str, shared: bool = False, processes: int = 2) -> Outcome:
    """Losses and gradients of a step, and of one after the state was saved and loaded into a new method.

    Args:
        label: Which method.
        shared: Whether each process holds a share of the weights, and not all.
        processes: How many parts the joined batch has, where this is the only process.
    """
    images = PART * (world_size() if world_size() > 1 else processes)
    trained, found = Trained(label, shared), {}
    for number in range(STEPS):
        if number:
            saved, trained = trained.saved(), Trained(label, shared, seed=number)
            trained.load(saved)
        found |= trained.step(images, number)
    found |= {name: whole(value).detach().clone() for name, value in trained.method.state_dict().items()}
    return {**found, "draws": torch.tensor(trained.draws.drawn), "batch norms": torch.tensor(trained.norms)}


def every_case(labels: Iterable[str] = LABELS) -> dict[str, Outcome]:
    """All methods, with all weights in each process and with shares of them."""
    return {f"{label}{' shared' * shared}": method_case(label, shared) for label in labels for shared in (False, True)}


def work(number: int, processes: int, folder: Path) -> None:
    """What process `number` finds, in the folder."""
    torch.set_num_threads(1)
    init = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=init, rank=number, world_size=processes)
    torch.save(every_case(), folder / f"{number}.pt")
    dist.destroy_process_group()


def largest(found: Outcome, expected: Outcome, kind: str) -> float:
    """The largest difference of what begins with a word."""
    return max(float((found[name] - expected[name]).abs().max()) for name in expected if name.startswith(kind))


def remark(found: Outcome) -> str:
    """What makes a method's step the same in any number of processes, besides its loss."""
    notes = {"batch norms": "batch norms over all processes", "draws": "draws of the joined batch"}
    return "; ".join(text for name, text in notes.items() if found[name])


def print_table() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (2, Path(folder)), nprocs=2)
        parts = [torch.load(Path(folder) / f"{number}.pt") for number in range(2)]
    print("| method | loss | gradient | loss, `fsdp` | gradient, `fsdp` | equal with |\n|---|---:|---:|---:|---:|---|")
    for label in LABELS:
        expected = method_case(label)
        cells = [
            max(largest(each[label + way], expected, kind) for each in parts)
            for way in ("", " shared")
            for kind in ("loss", "gradient")
        ]
        print(f"| `{label}` | {' | '.join(f'{cell:.0e}' for cell in cells)} | {remark(expected)} |")


if __name__ == "__main__":
    print_table()
