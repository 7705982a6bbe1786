"""Solarisation with a fixed threshold."""

from __future__ import annotations

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor

from ssl_toolkit.augment.base import DeviceAugmentation, Draws, Flags, Params, RangeGuard
from ssl_toolkit.augment.engine import only, run_steps
from ssl_toolkit.errors import UsageError


class NoDraws(Draws):
    """For operations that draw nothing but whether they happen."""

    def __repr__(self) -> str:
        return "nothing drawn"

    count = 0

    def from_uniforms(self, uniforms: Tensor, shape: tuple[int, ...], **place: object) -> Params:
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

    Examples:
        >>> import torch
        >>> Solarize(threshold=0.5, p=1.0)(torch.tensor([0.25, 0.5, 1.0]).view(1, 1, 1, 3)).flatten()
        tensor([0.2500, 0.5000, 0.0000])
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

    def sort_key(self, params: Params) -> Tensor | None:
        """The order makes no difference."""
        return None

    def plan(self, params: Params, channels: int) -> tuple[Tensor, ...]:
        """Which images are solarised, (N,) bool."""
        return (params["batch_prob"] > 0.5,)

    def run(self, planes: Tensor, on: Tensor) -> Tensor:
        """Solarise those of the planes' images (C, n, h, w) that were drawn."""
        only(on, solarize_, planes, threshold=self.threshold, neutral=False)
        return planes


def solarize_(x: Tensor, threshold: float) -> None:
    """Invert at and above the threshold, in place."""
    # Written as x + above (1 - 2x): three passes that vectorise, where `torch.where` on a CPU does not.
    above = torch.ge(x, threshold, out=torch.empty_like(x))
    x.add_(torch.rsub(x, 1, alpha=2).mul_(above))
