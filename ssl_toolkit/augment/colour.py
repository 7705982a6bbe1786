"""Colour jitter, greyscale and normalisation in one operation."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Sequence
from typing import Literal

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.augmentation import random_generator as rg
from torch import Tensor

from ssl_toolkit.augment import channels as ops
from ssl_toolkit.augment.base import DeviceAugmentation, Draws, Flags, Params, RangeGuard, between
from ssl_toolkit.augment.engine import only, run_steps
from ssl_toolkit.errors import UsageError

_log = logging.getLogger(__name__)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # as Kornia and torchvision number them
_NAMES = ("brightness", "contrast", "saturation", "hue")

# A row of stages of which each of the 24 orders is a part: an image goes through all of them, all but its own neutral.
_BLEND = {BRIGHTNESS, SATURATION}
_ROW = (_BLEND, _BLEND, {CONTRAST}, _BLEND, _BLEND, {HUE}, _BLEND, _BLEND, {CONTRAST}, _BLEND, _BLEND)
_PLACE_VALUE = (64, 16, 4, 1)  # an order read as a number to the base of 4


def stages_of(order: Sequence[int]) -> list[int]:
    """Which blend or contrast each stage of `_ROW` is for an image with this order; `HUE` where it is none."""
    stages = [HUE] * len(_ROW)
    # Where the hue comes before the contrast, nothing stands before the first contrast: on a CPU, where images that use
    # the same stages are put side by side, more of them then do.
    at = 3 if order.index(HUE) < order.index(CONTRAST) else 0
    for operation in order:
        at = next(stage for stage in range(at, len(_ROW)) if operation in _ROW[stage])
        stages[at] = operation
        at += 1
    return stages


def neighbours_key(order: Sequence[int]) -> int:
    """Orders with equal or close keys share stages."""
    first_blend = next(at for at, operation in enumerate(stages_of(order)) if operation in _BLEND)
    part = sum(first_blend > at for at, kinds in enumerate(_ROW) if kinds != _BLEND)
    return 4 + part if order.index(HUE) < order.index(CONTRAST) else -part % 3


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

    count = 9

    def from_uniforms(self, uniforms: Tensor, shape: tuple[int, ...], **place: object) -> Params:
        """(N,) factors as Kornia names them, ``order`` (N, 4) int64 and ``grey`` (N,), 1 where the image turns grey."""
        ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in self.strength[:HUE]]
        ranges.append((-self.strength[HUE], self.strength[HUE]))
        factors = {
            f"{name}_factor": between(uniform, low, high)
            for name, uniform, (low, high) in zip(_NAMES, uniforms, ranges, strict=False)
        }
        if self.order == "random":
            order = uniforms[4:8].argsort(dim=0, stable=True).t()
        else:
            order = torch.stack([torch.full_like(uniforms[0], number, dtype=torch.int64) for number in self.order], 1)
        return {**factors, "order": order, "grey": (uniforms[8] < self.grey_p).to(torch.float32)}


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
        same_on_batch: One draw for the whole batch.
        keepdim: Return the rank of the input.

    Images of other than three channels get brightness and contrast only; a message says so once.

    Source: Chen et al. 2020, A Simple Framework for Contrastive Learning, appendix A; torchvision `ColorJitter`.

    Examples:
        >>> import torch
        >>> jitter = ColourJitter((0.4, 0.4, 0.4, 0.1), p=1.0)
        >>> image = torch.rand(4, 3, 8, 8)
        >>> once = jitter(image)
        >>> torch.equal(jitter(image, params=jitter._params), once)
        True
    """

    _compute_matrix_lazily = False
    _stages: Tensor
    _keys: Tensor
    _place_value: Tensor

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
        stages = torch.full((4**4, len(_ROW)), HUE)
        keys = torch.zeros(4**4, dtype=torch.int64)
        for each in itertools.permutations(range(4)):
            code = sum(number * value for number, value in zip(each, _PLACE_VALUE, strict=True))
            stages[code], keys[code] = torch.tensor(stages_of(each)), neighbours_key(each)
        for name, table in (("_stages", stages), ("_keys", keys), ("_place_value", torch.tensor(_PLACE_VALUE))):
            self.register_buffer(name, table, persistent=False)
        self._guard = RangeGuard()

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        """Change the colours of (N, C, H, W) by `params`."""
        self._guard(input, type(self).__name__)
        return run_steps(input, [(self, params)])

    def sort_key(self, params: Params) -> Tensor | None:
        """Images that most stages change together stand side by side."""
        key = self._keys.to(params["order"].device)[self._code(params)]
        return torch.where(params["batch_prob"] > 0.5, key, 8)

    def _code(self, params: Params) -> Tensor:
        order = params["order"].expand(len(params["batch_prob"]), 4)
        return (order * self._place_value.to(order.device)).sum(1)

    def plan(self, params: Params, channels: int) -> tuple[Tensor, ...]:
        """What `run` takes, each (N, ...): of greyscale, then of the jitter; see `_exact` and `_linear`."""
        active = self._active(channels)
        jitter = params["batch_prob"] > 0.5
        factor = [params[f"{name}_factor"] for name in _NAMES]
        grey = params["grey"].view(-1, 1, 1)  # of other than three channels nothing turns grey
        if channels == 3 and self.linear:
            order = params["order"].expand(len(jitter), 4)
            return (grey, 1 - grey, *jitter_matrices(torch.stack(factor, 1), order, active, jitter))
        one = torch.ones_like(factor[0])
        by_operation = [factor[number] if number in active else one for number in range(HUE)]
        factors = torch.where(jitter, torch.stack([*by_operation, one]), one).t()
        stages = self._stages.to(factors.device)[self._code(params)]
        keep = factors.gather(1, stages)
        to_luma = (1 - keep) * (stages == SATURATION)
        turns = (factor[HUE] * jitter).view(-1, 1, 1)
        keep_rows, luma_rows = (each.view(*stages.shape, 1, 1) for each in (keep, to_luma))
        return grey, 1 - grey, keep != 1, keep_rows, luma_rows, jitter, turns

    def run(self, planes: Tensor, grey: Tensor, keep: Tensor, *jitter: Tensor) -> Tensor:
        """Jitter, grey and normalise planes (C, n, h, w)."""
        # Apart, the planes of a stage are one pass for a compiler.
        x: ops.Planes = tuple(p.clone() for p in planes) if torch.compiler.is_compiling() else planes
        turns_grey = len(planes) == 3 and self._param_generator.grey_p > 0
        if turns_grey and self.grey_first:
            only(grey > 0, ops.blend_, x, keep, grey)
        if self._active(len(planes)):
            self._linear(x, *jitter) if self.linear and len(planes) == 3 else self._exact(x, *jitter)
        if turns_grey and not self.grey_first:
            only(grey > 0, ops.blend_, x, keep, grey)
        if self.mean is not None and self.std is not None:
            for plane, mean, std in zip(x, self.mean, self.std, strict=True):
                plane.sub_(mean).div_(std)
        return x if isinstance(x, Tensor) else torch.stack(x)

    def _exact(self, x: ops.Planes, on: Tensor, keep: Tensor, to_luma: Tensor, jitter: Tensor, turns: Tensor) -> None:
        """Every stage of the row on the images that it changes: `on`, `keep` and `to_luma` are (n, stages, ...)."""
        active = self._active(len(x))
        columns = (each.unbind(1) for each in (on, keep, to_luma))
        for kinds, its_on, its_keep, its_luma in zip(_ROW, *columns, strict=True):
            if not kinds & active:
                continue
            if kinds == {HUE}:
                only(jitter, ops.turn_hue_, x, turns, neutral=False)
            elif kinds == {CONTRAST}:
                only(its_on, ops.contrast_, x, its_keep)
            elif len(x) == 3:
                only(its_on, ops.blend_, x, its_keep, its_luma)
            else:
                only(its_on, ops.scale_, x, its_keep)

    def _linear(self, x: ops.Planes, matrix: Tensor, mean_matrix: Tensor) -> None:
        mean = torch.stack([plane.mean((-2, -1)) for plane in x], dim=1)  # (n, 3)
        ops.mix_channels_(x, matrix, (mean_matrix @ mean[:, :, None])[:, :, 0])

    def _active(self, channels: int) -> set[int]:
        """The operations that change an image of so many channels."""
        if channels == 3:
            return self.active
        needs_rgb = self.active & {SATURATION, HUE} or self._param_generator.grey_p > 0
        if needs_rgb and not torch.compiler.is_compiling():
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
    eye = torch.eye(3, device=factors.device)
    # Each channel becomes the luma. Written by rows, so that no constant is copied from the host.
    to_luma = torch.stack([torch.full_like(eye[0], weight) for weight in ops.LUMA], dim=1)
    factor = factors[:, :, None, None]
    single = [
        factor[:, BRIGHTNESS] * eye,
        factor[:, CONTRAST] * eye,
        factor[:, SATURATION] * eye + (1 - factor[:, SATURATION]) * to_luma,
        ops.hue_matrix(factors[:, HUE]),
    ]
    on = [(jitter if number in active else torch.zeros_like(jitter))[:, None, None] for number in range(4)]
    rest = torch.where(on[CONTRAST], (1 - factor[:, CONTRAST]) * to_luma, torch.zeros_like(to_luma))
    on_image = eye.expand(len(factors), 3, 3)
    on_mean = torch.zeros_like(on_image)
    for place in range(4):
        step = eye.expand_as(on_image)
        for number in range(4):
            step = torch.where((order[:, place] == number)[:, None, None] & on[number], single[number], step)
        mean_step = torch.where((order[:, place] == CONTRAST)[:, None, None], rest, torch.zeros_like(rest))
        on_mean = step @ on_mean + mean_step @ on_image  # there is one contrast: before it, nothing in the mean
        on_image = step @ on_image
    return on_image, on_mean


@functools.cache
def say_rgb_only(channels: int) -> None:
    """Say, once for each number of channels, which operations do not happen."""
    _log.warning(
        "images of %d channels: saturation, hue and greyscale need RGB and are left out; brightness and contrast stay",
        channels,
    )
