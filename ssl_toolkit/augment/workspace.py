"""Memory to work in, kept between calls.

On a CPU the arithmetic of an augmentation is cheaper than the fresh pages that its temporaries would touch, so the
buffers of a piece are taken from here again and again. In a `View` they hold a few pieces, a few MiB a thread in all;
augmentations outside of one take a batch at once, and each buffer may keep up to 16 MiB then. On an accelerator
PyTorch's own allocator does this already, and a compiler needs no memory at all.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

# Larger buffers are left to the allocator.
_LIMIT = 4 * 1024 * 1024  # elements


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}


_buffers = _Buffers()


def take(name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A contiguous float32 buffer with arbitrary contents, valid until the next `take` of the same name.

    Args:
        name: What it is for. Two buffers in use at the same time need two names.
        shape: Its shape.
        device: Its device.
    """
    count = math.prod(shape)
    if device.type != "cpu" or count > _LIMIT or torch.compiler.is_compiling():
        return torch.empty(shape, dtype=torch.float32, device=device)
    held = _buffers.named.get(name)
    if held is None or held.numel() < count:
        with torch.inference_mode(False):  # a tensor born in inference mode cannot be written outside of it
            held = _buffers.named[name] = torch.empty(count, dtype=torch.float32)
    return held[:count].view(shape)
