"""Weights shared out over processes: what each of them holds, saves and loads where no one holds all (FSDP2)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from ssl_toolkit.checkpoints import shard_file
from ssl_toolkit.companions import launcher
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


class Sharded(ModelParallelStrategy):
    """Lightning's, with processes that are watched; each holds its rows of the weights (see `shard`), in a file too.

    Args:
        processes: How many train together.
        backend: Of their exchange.
    """

    def __init__(self, processes: int, backend: str) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, process_group_backend=backend)

    def _configure_launcher(self) -> None:
        self._launcher = launcher(self)

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Gradients stay where they are, whole, until the last batch of a step."""
        model: Any = self.model
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Our checkpoints hold the optimiser, as others do."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This process's part."""
        assert self.lightning_module is not None
        state: dict[str, Any] = local(self.lightning_module.state_dict())
        return state

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """This process's part."""
        state: dict[str, Any] = local(optimizer.state_dict())
        return state

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """A file a process; the first one's comes last, and says that there are all."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        checkpoint["processes"] = self.world_size
        checkpoint["shared"] = [name for name, value in own.items() if isinstance(value, DTensor)]
        if not self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, shard_file(filepath, self.global_rank))
        self.barrier()
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """This process's file."""
        found: dict[str, Any] = self.checkpoint_io.load_checkpoint(shard_file(checkpoint_path, self.global_rank))
        return found

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """This process's part."""
        assert self.lightning_module is not None
        load_local(self.lightning_module, checkpoint["state_dict"], strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """This process's part."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            load_local_optimizer(optimizer, state)
