"""Many processes as one: what a loss over the whole batch needs where every process holds a part of it.

The convention throughout: every process computes the loss of the joined batch, and gradients of the weights are
averaged over the processes, as `DistributedDataParallel` does. Then both are those of one process with that batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    """Number of processes that train together; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def agree(values: list[int], device: torch.device) -> list[int]:
    """The largest of each value in any process."""
    if world_size() == 1:
        return values
    found = torch.tensor(values, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [int(value) for value in found]


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks, with gradients.

    Args:
        x: (N, ...), the same shape in every process.

    Returns:
        (world size x N, ...); `x` itself in a single process.
    """
    gathered: Tensor = _Gather.apply(x) if world_size() > 1 else x
    return gathered


def all_mean(x: Tensor) -> Tensor:
    """The mean of a tensor over all processes, with gradients; `x` itself in a single process."""
    mean: Tensor = _AllMean.apply(x) if world_size() > 1 else x
    return mean


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)  # each process's loss depends on the rows of all
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


class _AllMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mean = x.contiguous().clone()
        dist.all_reduce(mean)
        return mean / world_size()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad / world_size()


class CpuSyncBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, where `torch.nn.SyncBatchNorm` refuses: on the CPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) to the same shape, each channel with the statistics of all processes."""
        x = self._normalized(input) if self.training and world_size() > 1 else super().forward(input)
        for fused in self.children():  # timm's drop and activation
            x = fused(x)
        return x

    def _normalized(self, input: Tensor) -> Tensor:
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean = all_mean(x.mean(axes))
        centred = x - mean.view(shape)
        var = all_mean(centred.square().mean(axes))
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            count = x.numel() // x.shape[1] * world_size()
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var * count / (count - 1), share)
        out = centred * (var + self.eps).rsqrt().view(shape)
        out = out if self.weight is None else out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


def synchronize_batch_norm(module: nn.Module) -> None:
    """Make every batch norm in `module` one over the batches of all processes, on the CPU; weights and names stay."""
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            synced = CpuSyncBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            for key in (*child._parameters, *child._buffers, *child._modules):
                setattr(synced, key, getattr(child, key))
            module.add_module(name, synced.train(child.training))
        else:
            synchronize_batch_norm(child)
