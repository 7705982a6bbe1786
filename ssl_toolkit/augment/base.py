"""What all augmentations of the toolkit share: float32 draws, integer or float input, replay, nothing differentiated.

They are Kornia augmentations, so they stand beside any other in `AugmentationSequential`, and differ in this:

- Parameters are functions of uniforms that are drawn on the CPU in float32, wherever the images are and whatever
  ``module.to(bfloat16)`` says. Equal seeds give equal parameters on every device, and nothing waits for one.
- What an operation does to an image is a pure function of planes and of per-image tensors, without a branch that
  depends on them: a compiler makes one function of a whole view, and `engine` runs it in pieces on a CPU.
- `generator` draws from a generator of your own; without it the global one is used, as everywhere in Kornia.
- uint8 and uint16 are taken as [0, 1] by their type. uint16 becomes float at once, for torch computes hardly anything
  in it. Floats outside [0, 1] are refused where the arithmetic would be wrong: in every batch on the CPU, in the first
  one on an accelerator, which would have to be waited for.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from kornia.augmentation.random_generator import RandomGeneratorBase
from torch import Generator, Tensor

from ssl_toolkit.augment.workspace import take

Params = dict[str, Tensor]
Flags = dict[str, Any]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FULL = {torch.uint8: 255, torch.uint16: 65535}
_RANGE_SLACK = 1e-3  # what resampling and blur may overshoot


class Draws(RandomGeneratorBase):
    """A Kornia parameter generator: a pure function of a block of uniforms, on whatever device they are.

    Drawn on the CPU and in float32, wherever the module is moved: in bfloat16 a brightness factor takes 153 values.

    Attributes:
        count: Uniforms that an image takes.
    """

    count: int

    def make_samplers(self, device: torch.device, dtype: torch.dtype) -> None:
        """Nothing to make: parameters are computed from uniforms."""

    @abstractmethod
    def from_uniforms(self, uniforms: Tensor, shape: tuple[int, ...], **place: Any) -> Params:
        """The parameters of N images, without a branch.

        Args:
            uniforms: (count, N) in [0, 1).
            shape: (N, C, H, W) of the images.
            place: What an operation needs besides (the crop's `box`).
        """

    def forward(
        self,
        batch_shape: tuple[int, ...],
        same_on_batch: bool = False,
        generator: Generator | None = None,
        **place: Any,
    ) -> Params:
        """Draw, for images (N, C, H, W); one draw for all of them with `same_on_batch`."""
        return self.from_uniforms(
            uniform_block(self.count, batch_shape[0], same_on_batch, generator), tuple(batch_shape), **place
        )


class DeviceAugmentation:
    """Mix-in before a Kornia 2D base class. A subclass implements `apply_transform` for (N, C, H, W) images.

    `apply_transform` sees the probabilities itself (``params["batch_prob"]``), so that what is not applied is not
    computed either.
    """

    p: float
    same_on_batch: bool
    keepdim: bool
    flags: Flags
    _params: Params
    _param_generator: Draws

    def set_rng_device_and_dtype(self, device: torch.device, dtype: torch.dtype) -> None:
        """Keep CPU and float32; both arguments are ignored."""
        super().set_rng_device_and_dtype(torch.device("cpu"), torch.float32)  # type: ignore[misc]

    def forward_parameters(
        self, batch_shape: tuple[int, ...], generator: Generator | None = None, **place: Any
    ) -> Params:
        """Draw the parameters for a batch.

        Args:
            batch_shape: (N, C, H, W).
            generator: CPU generator to draw from; the global one when None.
            place: What the parameter generator needs besides (the crop's `box`).
        """
        uniforms = uniform_block(self.draws, batch_shape[0], self.same_on_batch, generator)
        params = self.from_uniforms(uniforms, tuple(batch_shape), **place)
        params["forward_input_shape"] = torch.tensor(tuple(batch_shape))
        return params

    @property
    def draws(self) -> int:
        """Uniforms that an image takes: one for the probability, the rest for the parameters."""
        return 1 + self._param_generator.count

    def from_uniforms(self, uniforms: Tensor, shape: tuple[int, ...], **place: Any) -> Params:
        """The parameters for a batch: a pure function of uniforms (draws, N), on their device."""
        params = dict(self._param_generator.from_uniforms(uniforms[1:], shape, **place))
        params["batch_prob"] = (uniforms[0] < self.p).to(torch.float32)
        return params

    def forward(
        self, input: Tensor, params: Params | None = None, generator: Generator | None = None, **kwargs: Any
    ) -> Tensor:
        """Augment a batch.

        Args:
            input: uint8, uint16 or float in [0, 1]; (N, C, H, W), (C, H, W) or (H, W).
            params: Parameters of an earlier call, to repeat it (``augmentation._params``).
            generator: CPU generator to draw the parameters from; the global one when None.
            kwargs: Overrides of parameters and flags, as Kornia's containers pass them.

        Returns:
            (N, C, h, w), or the rank of the input with `keepdim`; the input's dtype, float32 for integers.

        Raises:
            ValueError: `params` without ``batch_prob``: it does not come from a draw of this augmentation.
        """
        if params is None:
            params = self.forward_parameters(tuple(self.transform_tensor(input).shape), generator)
        elif "batch_prob" not in params:
            name = type(self).__name__
            raise ValueError(
                f"{name}: `params` holds no 'batch_prob' (which images to change); "
                f"take the parameters from {name}.forward_parameters(image.shape) or from ._params of a call"
            )
        output: Tensor = super().forward(input, params=params, **kwargs)  # type: ignore[misc]
        return output

    def transform_tensor(self, input: Tensor, *, shape: Tensor | None = None, match_channel: bool = True) -> Tensor:
        """(H, W) and (C, H, W) become (N, C, H, W); `shape` is Kornia's way to place masks."""
        if shape is not None:
            input = input.to(output_dtype(input))  # labels; the container gives masks the image's type
            placed: Tensor = super().transform_tensor(input, shape=shape, match_channel=match_channel)  # type: ignore[misc]
            return placed
        input = widened(input)
        if input.dtype != torch.uint8 and input.dtype not in _FLOATS:
            raise TypeError(f"{type(self).__name__} takes uint8, uint16 or floating images, not {input.dtype}")
        if not 2 <= input.dim() <= 4:
            raise ValueError(f"{type(self).__name__} takes (N, C, H, W), (C, H, W) or (H, W), not {tuple(input.shape)}")
        return input[(None,) * (4 - input.dim())]

    def validate_tensor(self, input: Tensor) -> None:
        """Nothing more to check: `transform_tensor` did."""

    def identity_matrix(self, input: Tensor) -> Tensor:
        """(N, 3, 3) identity; float also for uint8 images."""
        dtype = output_dtype(input)
        return torch.eye(3, device=input.device, dtype=dtype).expand(input.shape[0], 3, 3)

    def generate_transformation_matrix(self, input: Tensor, params: Params, flags: Flags) -> Tensor:
        """The matrix, in float also under autocast: Kornia would give it the type of a uint8 image there."""
        with torch.autocast(input.device.type, enabled=False):
            matrix: Tensor = super().generate_transformation_matrix(input, params, flags)  # type: ignore[misc]
        return matrix

    @torch.no_grad()
    def transform_inputs(
        self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Apply to images, in float32 under autocast too, and without a gradient."""
        params, flags = self._process_kwargs_to_params_and_flags(  # type: ignore[attr-defined]
            self._params if params is None else params, flags, **kwargs
        )
        image = self.transform_tensor(input)
        with torch.autocast(image.device.type, enabled=False):
            output = self.apply_transform(image, params, flags, transform)
        if self.keepdim:
            output = self.transform_output_tensor(output, tuple(input.shape))  # type: ignore[attr-defined]
        return output

    def apply_transform(self, input: Tensor, params: Params, flags: Flags, transform: Tensor | None = None) -> Tensor:
        """Augment (N, C, H, W) images by `params`."""
        raise NotImplementedError


def uniform_block(count: int, images: int, same: bool = False, generator: Generator | None = None) -> Tensor:
    """(count, images) float32 uniforms of [0, 1), drawn on the CPU in one call; equal for all images when `same`."""
    block = torch.rand((count, 1 if same else images), generator=generator, dtype=torch.float32, device="cpu")
    return block.expand(count, images)


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Uniforms of [0, 1) to [low, high)."""
    return uniform * (high - low) + low


def first_that_fits(candidates: Tensor, fits: Tensor, otherwise: Tensor) -> Tensor:
    """Of T candidates an image, the first that fits.

    Args:
        candidates: (T, ..., N).
        fits: (T, ..., N) bool.
        otherwise: (..., N), where none does.
    """
    chosen = (candidates * (fits & (fits.cumsum(0) == 1))).sum(0)
    return torch.where(fits.any(0), chosen, otherwise)


def in_unit_range(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images of any depth in [0, 1]: integers by their type, as `dtype`, floats as they are.

    Raises:
        TypeError: They are of a type that says nothing of 0 and 1.
    """
    if image.is_floating_point():
        return image
    if image.dtype not in _FULL:
        raise TypeError(f"images are uint8, uint16 or floats in [0, 1], not {image.dtype}")
    return image.to(dtype) / _FULL[image.dtype]


def widened(image: Tensor) -> Tensor:
    """uint16 as float32 in [0, 1], all else as it is: what operations work on."""
    return in_unit_range(image) if image.dtype == torch.uint16 else image


def output_dtype(image: Tensor) -> torch.dtype:
    """Floats keep their type, uint8 becomes float32."""
    return image.dtype if image.is_floating_point() else torch.float32


_NORMALISED = "normalise after the augmentations"


def unit_range_error(image: Tensor, name: str, normalised: str = _NORMALISED) -> ValueError | None:
    """The error for a float image that leaves [0, 1], or None. Reads the image: on an accelerator this waits.

    Args:
        image: Of any shape.
        name: What it was given to.
        normalised: What to do with images that were normalised before.
    """
    if not image.is_floating_point() or image.numel() == 0:
        return None
    low, high = (float(bound) for bound in image.aminmax())
    if low >= -_RANGE_SLACK and high <= 1 + _RANGE_SLACK:
        return None
    return ValueError(
        f"{name} takes uint8 or uint16 images or floats in [0, 1]; these range over [{low:.4g}, {high:.4g}]. "
        f"Pass uint8, divide by 255, or {normalised}"
    )


class RangeGuard:
    """Refuses floats outside [0, 1]: every batch on the CPU, the first one on an accelerator.

    A look at every batch would make the host wait for the device at each step.
    """

    def __init__(self) -> None:
        self.trusted: set[torch.device] = set()

    def __call__(self, image: Tensor, name: str, normalised: str = _NORMALISED) -> None:
        """Raise the ValueError of `unit_range_error` if `image` leaves [0, 1]."""
        if image.device in self.trusted:
            return
        if error := unit_range_error(image, name, normalised):
            raise error
        if image.device.type != "cpu" and image.is_floating_point():
            self.trusted.add(image.device)


def to_planes(image: Tensor) -> Tensor:
    """(N, C, H, W) uint8 or float -> the working layout: float32 (C, N, H, W) in [0, 1], in working memory."""
    planes = take("planes", (image.shape[1], image.shape[0], *image.shape[2:]), image.device)
    planes.copy_(image.transpose(0, 1))
    return planes if image.is_floating_point() else planes.mul_(1 / 255)


def like(planes: Tensor, image: Tensor) -> Tensor:
    """(C, N, h, w) planes -> (N, C, h, w) in the dtype and memory format that `image` asks for."""
    channels, count, height, width = planes.shape
    shape = (count, channels, height, width)
    output = torch.empty(shape, dtype=output_dtype(image), device=planes.device, memory_format=memory_format(image))
    return output.copy_(planes.transpose(0, 1))


def memory_format(image: Tensor) -> torch.memory_format:
    """channels_last for images that lie so in memory, else contiguous."""
    if image.dim() == 4 and not image.is_contiguous() and image.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format
