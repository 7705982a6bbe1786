"""Colour jitter, greyscale and normalisation in one operation."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.augmentation import random_generator as rg
from torch import Generator, Tensor

from ssl_toolkit.augment import channels as ops
from ssl_toolkit.augment.base import (
    DeviceAugmentation,
    Draws,
    Flags,
    Params,
    RangeGuard,
    chance,
    uniform,
)
from ssl_toolkit.augment.engine import run_steps
from ssl_toolkit.augment.workspace import take
from ssl_toolkit.errors import UsageError

_log = logging.getLogger(__name__)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # as Kornia and torchvision number them
_NAMES = ("brightness", "contrast", "saturation", "hue")


class ColourDraws(Draws, rg.ColorJitterGenerator):
    """Jitter factors under Kornia's names, and for each image its own order and greyscale.

    Args:
        strength: Brightness, contrast, saturation: factors from max(0, 1 - s) to 1 + s; hue: turns from -s to s.
        grey_p: Probability of greyscale.
        order: "random" for a new order of the four an image, or their numbers 0 to 3 in the order to apply.
    """

    def __init__(
        self, strength: tuple[float, float, float, float], grey_p: float, order: Literal["random"] | tuple[int, ...]
    ) -> None:
        if min(strength) < 0 or strength[HUE] > 0.5:
            raise UsageError(f"jitter strength {strength}: each at least 0, hue at most 0.5 turns")
        if order != "random" and sorted(order) != [0, 1, 2, 3]:
            raise UsageError(f"jitter order {order}: 'random', or each of 0, 1, 2, 3 once")
        super().__init__(*strength)
        self.strength = strength
        self.grey_p = grey_p
        self.order = order

    def forward(
        self, batch_shape: tuple[int, ...], same_on_batch: bool = False, generator: Generator | None = None
    ) -> Params:
        """(N,) factors as Kornia names them, ``order`` (N, 4) int64 and ``grey`` (N,), 1 where the image turns grey."""
        count = batch_shape[0]
        factors = {}
        for name, strength in zip(_NAMES, self.strength, strict=True):
            low, high = (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)
            factors[f"{name}_factor"] = uniform((count,), low, high, same_on_batch, generator)
        ranks = uniform((count, 4), 0.0, 1.0, same_on_batch, generator)
        order = ranks.argsort(dim=1) if self.order == "random" else torch.tensor(self.order).expand(count, 4)
        return {**factors, "order": order, "grey": chance(count, self.grey_p, same_on_batch, generator)}


@dataclass
class _Plan:
    """The batch's parameters as the arithmetic takes them; the lists are what the host needs to know."""

    grey: list[int]  # 1 where the image turns grey
    order: list[list[int]]  # (N, 4)
    place: list[int]  # where in the order the hue stands, -1 without jitter
    factor: Tensor  # (N, 4) of the operation in that place, for `channels.blend_`
    to_mean: Tensor
    to_grey: Tensor
    turns: Tensor  # (N, 1)
    matrix: Tensor  # (N, 3, 3), linear mode
    mean_matrix: Tensor  # (N, 3, 3), linear mode
    mean: Tensor  # (C, 1, 1), or no elements without normalisation
    std: Tensor


class ColourJitter(DeviceAugmentation, IntensityAugmentationBase2D):
    """Brightness, contrast, saturation and hue in any order, then greyscale, then normalisation.

    The arithmetic is torchvision's (and that of Kornia's `ColorJitter`, not of its `ColorJiggle`).

    Args:
        strength: Strength of brightness, contrast, saturation (factors from 1 - s to 1 + s) and hue (turns, up to 0.5).
        p: Probability of the jitter.
        grey_p: Probability of greyscale, drawn apart from the jitter.
        grey_first: Greyscale before the jitter, as MoCo v1 has it.
        order: "random" draws an order an image, as torchvision does; or the numbers of brightness (0), contrast (1),
            saturation (2), hue (3) in the order to apply.
        hue: "exact" is HSV, with a clamp to [0, 1] after each operation; "linear" rotates RGB about
            the grey axis and clamps once: one 3x4 matrix a sample, cheaper, with the error that
            `docs/augmentations.md` states.
        mean: Subtracted at the end, one value a channel; None for no normalisation.
        std: Divided by at the end, one value a channel; None for no normalisation.
        compile: Fuse the exact hue with torch.compile: "auto" on CUDA only, "always", "never". Where it fails, a
            warning, and the plain arithmetic goes on.
        same_on_batch: One draw for the whole batch.
        keepdim: Return the rank of the input.

    Images of other than three channels get brightness and contrast only; a message says so once.

    Source: Chen et al. 2020, A Simple Framework for Contrastive Learning, appendix A; torchvision `ColorJitter`.
    """

    _compute_matrix_lazily = False

    def __init__(
        self,
        strength: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
        p: float = 0.8,
        grey_p: float = 0.2,
        grey_first: bool = False,
        order: Literal["random"] | tuple[int, ...] = "random",
        hue: Literal["exact", "linear"] = "exact",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        compile: Literal["auto", "always", "never"] = "auto",
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        if hue not in ("exact", "linear"):
            raise UsageError(f"hue '{hue}': 'exact' or 'linear'")
        if (mean is None) != (std is None):
            raise UsageError("normalisation needs both mean and std")
        self._param_generator = ColourDraws(strength, grey_p, order)
        self.active = {number for number, value in enumerate(strength) if value > 0}
        self.linear = hue == "linear"
        self.grey_first = grey_first
        self.mean, self.std = mean, std
        self.compile_hue = compile
        self._guard = RangeGuard()

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        """Change the colours of (N, C, H, W) by `params`."""
        self._guard(input, type(self).__name__)
        return run_steps(input, [(self, params)])

    def sort_key(self, params: Params) -> list[int] | None:
        """Images whose hue stands at the same place in the order turn it together, and grey ones stand together."""
        grey = (params["grey"] > 0.5).tolist()
        return [2 * place + on for place, on in zip(self._places(params), grey, strict=True)]

    def plan(self, params: Params, channels: int, device: torch.device) -> _Plan:
        """Factors by place in the order, and in linear mode the matrices."""
        active = self._active(channels)
        count = len(params["batch_prob"])
        jitter = params["batch_prob"] > 0.5
        order = params["order"].expand(count, 4)
        factors = torch.stack([params[f"{name}_factor"] for name in _NAMES], dim=1)  # (N, 4) by operation
        rest = 1 - factors
        keep = torch.tensor([number in active for number in range(4)])[order] & (order != HUE)
        zero = torch.zeros(())
        exact_only = channels != 3 or not self.linear
        matrix, mean_matrix = (zero, zero) if exact_only else jitter_matrices(factors, order, active, jitter)
        placed = (
            torch.where(keep, factors.gather(1, order), torch.ones(())),
            torch.where(keep & (order == CONTRAST), rest.gather(1, order), zero),
            torch.where(keep & (order == SATURATION), rest.gather(1, order), zero),
            factors[:, HUE:],
            matrix,
            mean_matrix,
            torch.tensor(self.mean or ())[:, None, None],
            torch.tensor(self.std or ())[:, None, None],
        )
        return _Plan(
            (params["grey"] > 0.5).long().tolist() if channels == 3 else [0] * count,
            order.tolist(),
            self._places(params),
            *(tensor.to(device, non_blocking=True) for tensor in placed),
        )

    def run(self, planes: Tensor, plan: _Plan, first: int, last: int) -> Tensor:
        """Jitter, grey and normalise the planes of images `first` to `last`, in place."""
        x = planes.flatten(2)  # (C, n, P)
        scratch = take("scratch", (ops.SCRATCH_PLANES, *x.shape[1:]), x.device)
        if self.grey_first:
            _grey_(x, plan.grey, first, last, scratch)
        active = self._active(len(x))
        if active and self.linear and len(x) == 3:
            _linear_(x, plan, first, last)
        elif active:
            self._exact_(x, plan, first, last, active, scratch)
        if not self.grey_first:
            _grey_(x, plan.grey, first, last, scratch)
        if self.mean is not None:
            x.sub_(plan.mean).div_(plan.std)
        return planes

    def _exact_(self, x: Tensor, plan: _Plan, first: int, last: int, active: set[int], scratch: Tensor) -> None:
        for start, stop in _runs(plan.place, first, last):
            if plan.place[start] < 0:
                continue
            part = x[:, start - first : stop - first]
            work = scratch[:, start - first : stop - first]
            for place in range(4):
                kinds = {plan.order[row][place] for row in range(start, stop)}
                self._place_(part, plan, start, stop, place, kinds, active, work)

    def _place_(
        self, x: Tensor, plan: _Plan, start: int, stop: int, place: int, kinds: set[int], active: set[int], work: Tensor
    ) -> None:
        """One place of the order: its operation where all images share it, else each image its own."""
        if not kinds & active:
            return
        factor = plan.factor[start:stop, place, None]
        if kinds == {HUE}:
            self._hue_(x, plan.turns[start:stop], work)
        elif kinds == {BRIGHTNESS}:
            ops.brightness_(x, factor)
        elif kinds == {CONTRAST}:
            ops.contrast_(x, factor)
        elif kinds == {SATURATION}:
            ops.saturation_(x, factor, work)
        else:
            to_mean, to_grey = plan.to_mean[start:stop, place, None], plan.to_grey[start:stop, place, None]
            ops.blend_(x, factor, to_mean, to_grey, work)

    def _hue_(self, x: Tensor, turns: Tensor, scratch: Tensor) -> None:
        wanted = self.compile_hue == "always" or (self.compile_hue == "auto" and x.device.type == "cuda")
        turned = _compiled_turn(x, turns) if wanted else None
        if turned is None:
            ops.turn_hue_(x, turns, scratch)
        else:
            x.copy_(turned)

    def _places(self, params: Params) -> list[int]:
        """Where in its order each image turns its hue, 0 where hues are not turned; -1 for images without jitter."""
        jitter = params["batch_prob"] > 0.5
        hue = (params["order"].expand(len(jitter), 4) == HUE).long().argmax(dim=1)
        place = hue if HUE in self.active and not self.linear else torch.zeros_like(hue)
        places: list[int] = torch.where(jitter, place, -1).tolist()
        return places

    def _active(self, channels: int) -> set[int]:
        """The operations that change an image of so many channels."""
        if channels == 3:
            return self.active
        if self.active & {SATURATION, HUE} or self._param_generator.grey_p > 0:
            say_rgb_only(channels)
        return self.active & {BRIGHTNESS, CONTRAST}


def jitter_matrices(factors: Tensor, order: Tensor, active: set[int], jitter: Tensor) -> tuple[Tensor, Tensor]:
    """The whole jitter as ``A x + B mean(x)``, mean(x) being the image's three channel means.

    Args:
        factors: (N, 4) of brightness, contrast, saturation, hue (turns).
        order: (N, 4), which operation comes at which place.
        active: Operations that do something.
        jitter: (N,) bool, which images are jittered at all.

    Returns:
        A and B, (N, 3, 3). Contrast adds its share of the mean luma of what came before it, and so a term in mean(x).
    """
    count = len(factors)
    eye, luma = torch.eye(3), torch.tensor(ops.LUMA)
    to_luma = torch.ones(3, 1) * luma  # each channel becomes the luma
    factor = factors[:, :, None, None]
    single = torch.stack(
        [
            factor[:, BRIGHTNESS] * eye,
            factor[:, CONTRAST] * eye,
            factor[:, SATURATION] * eye + (1 - factor[:, SATURATION]) * to_luma,
            ops.hue_matrix(factors[:, HUE]),
        ],
        dim=1,
    )  # (N, 4, 3, 3)
    on = torch.tensor([number in active for number in range(4)]) & jitter[:, None]  # (N, 4)
    single = torch.where(on[:, :, None, None], single, eye)
    rest = torch.where(on[:, CONTRAST], 1 - factors[:, CONTRAST], torch.zeros(()))[:, None, None]
    sample = torch.arange(count)
    on_image, on_mean = eye.expand(count, 3, 3), torch.zeros(count, 3, 3)
    for place in range(4):
        step = single[sample, order[:, place]]
        mean_step = torch.where((order[:, place] == CONTRAST)[:, None, None], rest * to_luma, torch.zeros(()))
        on_mean = step @ on_mean + mean_step @ on_image  # there is one contrast: before it, nothing in the mean
        on_image = step @ on_image
    return on_image, on_mean


def _linear_(x: Tensor, plan: _Plan, first: int, last: int) -> None:
    mean = x.mean(dim=-1).t()[:, :, None]  # (n, 3, 1)
    offset = torch.bmm(plan.mean_matrix[first:last], mean)
    images = x.transpose(0, 1)  # (n, 3, P)
    turned = take("narrow", (images.shape[0], 3, images.shape[2]), x.device)
    torch.baddbmm(offset, plan.matrix[first:last], images, out=turned)
    torch.clamp(turned, 0, 1, out=images)


def _grey_(x: Tensor, grey: list[int], first: int, last: int, scratch: Tensor) -> None:
    for start, stop in _runs(grey, first, last):
        if grey[start]:
            ops.greyscale_(x[:, start - first : stop - first], scratch[:, start - first : stop - first])


def _runs(key: list[int], first: int, last: int) -> list[tuple[int, int]]:
    """Neighbours with equal keys, as (start, stop)."""
    edges = [row for row in range(first + 1, last) if key[row] != key[row - 1]]
    return list(zip([first, *edges], [*edges, last], strict=True))


@functools.cache
def say_rgb_only(channels: int) -> None:
    """Say, once for each number of channels, which operations do not happen."""
    _log.warning(
        "images of %d channels: saturation, hue and greyscale need RGB and are left out; brightness and contrast stay",
        channels,
    )


_compile_failed = False


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(ops.turn_hue, dynamic=True)


def _compiled_turn(x: Tensor, turns: Tensor) -> Tensor | None:
    """The fused hue turn, or None where torch.compile does not work (with one warning)."""
    global _compile_failed
    if _compile_failed:
        return None
    try:
        return _compiled()(x, turns)
    except Exception as error:  # whatever a compiler on the user's machine may raise
        _compile_failed = True
        reason = str(error).strip().split("\n")[0][:200]
        warnings.warn(f"torch.compile failed, the hue goes on uncompiled: {reason}", RuntimeWarning, stacklevel=2)
        return None
