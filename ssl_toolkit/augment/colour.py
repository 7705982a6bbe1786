"""Colour jitter, greyscale and normalisation in one operation."""

from __future__ import annotations

import functools
import logging
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
            order = inverse(ranks(uniforms[4:8]))
        else:
            order = torch.stack([torch.full_like(uniforms[0], number, dtype=torch.int64) for number in self.order], 1)
        return {**factors, "order": order, "grey": (uniforms[8] < self.grey_p).to(torch.float32)}


def ranks(uniforms: Tensor) -> Tensor:
    """The places (N, 4) that four numbers (4, N) take when they are sorted; of equal ones the first comes first."""
    mine, other = uniforms[:, None], uniforms[None]
    number = torch.arange(4, device=uniforms.device)
    earlier = number[None, :, None] < number[:, None, None]
    return ((other < mine) | ((other == mine) & earlier)).sum(1).t()


def inverse(places: Tensor) -> Tensor:
    """Permutations (N, 4): from the place of each operation to the operation in each place, and back."""
    place = torch.arange(4, device=places.device)
    return ((places[:, None, :] == place[:, None]) * place).sum(-1)


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
        self._guard = RangeGuard()

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        """Change the colours of (N, C, H, W) by `params`."""
        self._guard(input, type(self).__name__)
        return run_steps(input, [(self, params)])

    def sort_key(self, params: Params) -> Tensor | None:
        """Images that most stages change together stand side by side."""
        hue_first, parts = _parts(inverse(params["order"].expand(len(params["batch_prob"]), 4)))
        key = 4 * hue_first + torch.where(hue_first, parts[0], -parts[0] % 3)
        return torch.where(params["batch_prob"] > 0.5, key, 8)

    def plan(self, params: Params, channels: int) -> tuple[Tensor, ...]:
        """What `run` takes, each (N, ...): of greyscale, then of the jitter.

        In exact mode an image goes through a fixed row of stages, all but its own four neutral: two for brightness and
        saturation in the image's order, contrast, again two, hue, two, contrast, two. Each of the 24 orders is a part
        of that row: contrast comes once before the hue and once after it, and both see what they must.
        """
        active = self._active(channels)
        count = len(params["batch_prob"])
        jitter = params["batch_prob"] > 0.5
        order = params["order"].expand(count, 4)
        factor = [params[f"{name}_factor"] for name in _NAMES]
        grey = params["grey"] if channels == 3 else torch.zeros_like(params["grey"])
        if channels == 3 and self.linear:
            return (grey, 1 - grey, *jitter_matrices(torch.stack(factor, 1), order, active, jitter))
        one, zero = torch.ones_like(factor[0]), torch.zeros_like(factor[0])
        brightness, contrast, saturation = (
            torch.where(jitter, factor[number], one) if number in active else one for number in range(HUE)
        )
        at = inverse(order).unbind(1)
        hue_first, part = _parts(inverse(order))
        bright_first = at[BRIGHTNESS] < at[SATURATION]
        keep = (torch.where(bright_first, brightness, saturation), torch.where(bright_first, saturation, brightness))
        to_luma = (torch.where(bright_first, zero, 1 - saturation), torch.where(bright_first, 1 - saturation, zero))
        number = torch.arange(4, device=order.device)
        here = torch.stack([p[:, None] == number for p in part], dim=-1).flatten(1)  # (N, 8)
        keep_here = torch.where(here, torch.stack(keep, 1).repeat(1, 4), one[:, None])
        twice = torch.stack([torch.where(hue_first, one, contrast), torch.where(hue_first, contrast, one)], 1)
        return (
            grey,
            1 - grey,
            keep_here != 1,
            keep_here,
            torch.where(here, torch.stack(to_luma, 1).repeat(1, 4), zero[:, None]),
            twice != 1,
            twice,
            jitter,
            torch.where(jitter, factor[HUE], zero),
        )

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

    def _exact(
        self,
        x: ops.Planes,
        blends: Tensor,
        keep: Tensor,
        to_luma: Tensor,
        contrasts: Tensor,
        contrast: Tensor,
        jitter: Tensor,
        turns: Tensor,
    ) -> None:
        active = self._active(len(x))
        for part in range(4):
            if active & {BRIGHTNESS, SATURATION}:
                for stage in (2 * part, 2 * part + 1):
                    if len(x) == 3:
                        only(blends, ops.blend_, x, keep, to_luma, column=stage)
                    else:
                        only(blends, ops.scale_, x, keep, column=stage)
            if part in (0, 2) and CONTRAST in active:
                only(contrasts, ops.contrast_, x, contrast, column=part // 2)
            if part == 1 and HUE in active:
                only(jitter, ops.turn_hue_, x, turns, neutral=False)

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


def _parts(places: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Whether the hue comes before the contrast, and where the first and the second of brightness and saturation stand.

    0: before the first contrast, 1: between it and the hue, 2: between the hue and the second contrast, 3: after that.

    Args:
        places: (N, 4), the place of each operation.
    """
    brightness, contrast, saturation, hue = places.unbind(1)
    hue_first = hue < contrast
    first, second = (
        (contrast < place).long() + (hue < place).long() + hue_first.long()
        for place in (torch.minimum(brightness, saturation), torch.maximum(brightness, saturation))
    )
    return hue_first, (first, second)


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
