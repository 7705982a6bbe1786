"""Randomness as a function of where you are: equal keys give equal draws, whatever ran before.

Sample order comes from (seed, "order", epoch), a sample's own draws from (seed, "sample", epoch, index), the draws on
the device from (seed, "device", step, rank). Nothing depends on the number of workers or on how often a run was
stopped and resumed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import numpy as np
import torch


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key` and on nothing else.

    Examples:
        >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
        True
        >>> derive_seed(0, "order", 1) == derive_seed(0, "sample", 1)
        False
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_generator(*key: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `key` (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(*key))


def seed_device(seed: int, step: int, rank: int) -> None:
    """Seed PyTorch's global generators, CPU and accelerator, for one training step on one rank.

    Kornia and dropout draw from the global generators, so this is what makes a step's draws repeatable. The states are
    those of ``torch.manual_seed``, which also notes a stack trace for each kind of device that is not there: more work
    for the host than the rest of a step's bookkeeping.
    """
    value = derive_seed(seed, "device", step, rank)
    torch.default_generator.manual_seed(value)
    _seed_accelerator()(value)


@functools.cache
def _seed_accelerator() -> Callable[[int], object]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return lambda value: None
    module = torch.get_device_module(accelerator)
    seed: Callable[[int], object] = getattr(module, "manual_seed_all", module.manual_seed)
    return seed
