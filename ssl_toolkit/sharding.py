"""Weights shared out over processes: what each of them holds, saves and loads where no one holds all (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from ssl_toolkit.encoders import Encoder


def shard(method: nn.Module, mesh: DeviceMesh) -> None:
    """Leave to each process its rows of every weight; they come together for `step` and `forward` alone.

    The blocks of each encoder come together one by one, all other weights for as long as the step takes, so that a
    method may use them as it likes. Buffers stay whole: queues and centres are the same in every process.

    Args:
        method: A `Method`, changed in place; not again if it is so already.
        mesh: The processes, in one dimension.
    """
    if isinstance(method, FSDPModule):
        return
    method.to(memory_format=torch.contiguous_format)  # rows of any other are not in one piece
    encoders = [each for each in method.modules() if isinstance(each, Encoder)]
    for block in (block for encoder in encoders for block in blocks(encoder.backbone)):
        fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh)
    register_fsdp_forward_method(method, "step")


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The parts that a network is a list of, such as a transformer's blocks; single layers are none."""
    for child in network.children():
        if not isinstance(child, nn.Sequential | nn.ModuleList):
            yield from blocks(child)
            continue
        for part in child:
            if len(list(part.children())) and next(part.parameters(), None) is not None:
                yield part


def local(state: Any) -> Any:
    """A state, nested or not, with this process's rows in the place of what is shared out."""
    if isinstance(state, Mapping):
        return {key: local(value) for key, value in state.items()}
    if isinstance(state, list):
        return [local(value) for value in state]
    return state.to_local() if isinstance(state, DTensor) else state


def as_shared(value: Any, like: Tensor) -> Any:
    """What `local` made of a tensor of the form of `like`, shared out again; anything else as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.to_local().shape:
        return value
    rows = value.to(like.device)
    return DTensor.from_local(
        rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def load_local(module: nn.Module, state: Mapping[str, Any], strict: bool = True) -> None:
    """Load a module's `local` state."""
    own = module.state_dict()
    module.load_state_dict({name: as_shared(value, own[name]) for name, value in state.items()}, strict=strict)


def load_local_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's `local` state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    held = {
        number: {name: as_shared(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": held})
