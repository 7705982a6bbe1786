"""Solarisation with a fixed threshold."""

from __future__ import annotations

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Generator, Tensor

from ssl_toolkit.augment.base import DeviceAugmentation, Draws, Flags, Params, RangeGuard, rows
from ssl_toolkit.augment.engine import run_steps
from ssl_toolkit.errors import UsageError


class NoDraws(Draws):
    """For operations that draw nothing but whether they happen."""

    def __repr__(self) -> str:
        return "nothing drawn"

    def forward(
        self, batch_shape: tuple[int, ...], same_on_batch: bool = False, generator: Generator | None = None
    ) -> Params:
        """No parameters."""
        return {}


class Solarize(DeviceAugmentation, IntensityAugmentationBase2D):
    """Invert all pixels at or above a threshold.

    The threshold is fixed, as in BYOL and torchvision. (Kornia's `RandomSolarize(.5)` draws one from about 0 to 1.)

    Args:
        threshold: Least value that is inverted, in [0, 1]; 0.5 is Pillow's 128.
        p: Probability.
        same_on_batch: One draw for the whole batch.
        keepdim: Return the rank of the input.

    Source: Grill et al. 2020, Bootstrap Your Own Latent, appendix B.
    """

    _compute_matrix_lazily = False

    def __init__(
        self, threshold: float = 0.5, p: float = 0.2, same_on_batch: bool = False, keepdim: bool = False
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        if not 0 <= threshold <= 1:
            raise UsageError(f"solarize threshold {threshold}: a value in [0, 1] is needed (128 of 255 is 0.5)")
        self._param_generator = NoDraws()
        self.threshold = threshold
        self._guard = RangeGuard()

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        """Solarise (N, C, H, W) by `params`."""
        self._guard(input, type(self).__name__)
        return run_steps(input, [(self, params)])

    def sort_key(self, params: Params) -> list[int] | None:
        """The order makes no difference."""
        return None

    def plan(self, params: Params, channels: int, device: torch.device) -> list[int]:
        """Which images are solarised."""
        return rows(params["batch_prob"])

    def run(self, planes: Tensor, plan: list[int], first: int, last: int) -> Tensor:
        """Solarise those of the planes' images that were drawn, in place."""
        chosen = [row - first for row in plan if first <= row < last]
        if len(chosen) == last - first:
            planes.copy_(_solarized(planes, self.threshold))
        elif chosen:
            index = torch.tensor(chosen).to(planes.device, non_blocking=True)
            planes.index_copy_(1, index, _solarized(planes.index_select(1, index), self.threshold))
        return planes


def _solarized(x: Tensor, threshold: float) -> Tensor:
    # Written as x + above (1 - 2x): three passes that vectorise, where `torch.where` on a CPU does not.
    above = torch.ge(x, threshold, out=torch.empty_like(x))
    return torch.rsub(x, 1, alpha=2).mul_(above).add_(x)
