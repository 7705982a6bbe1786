"""Views: the float images that a method compares, made from a uint8 batch on its device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_toolkit.augment.base import DeviceAugmentation, Params, RangeGuard
from ssl_toolkit.augment.crop import ResizedCropFlip, boxes_of
from ssl_toolkit.augment.engine import Step, run_steps
from ssl_toolkit.augment.resample import Boxes, resample
from ssl_toolkit.errors import UsageError
from ssl_toolkit.randomness import derive_seed


class View(nn.Module):
    """One view: a crop and what follows it, run image by image where that keeps the cache warm.

    It does what the same augmentations do in `AugmentationSequential`, and faster: nothing between them is written to
    memory. Each operation draws from its own stream, so that one more operation leaves the others' draws as they were.

    Args:
        crop: The crop, with or without flip.
        steps: Our intensity augmentations (`ColourJitter`, `GaussianBlur`, `Solarize`, `RandomErasing`, `Cutout`).
        then: Any other modules for float images [0, 1] (N, C, h, w), Kornia's among them, applied to the whole batch.
    """

    def __init__(self, crop: ResizedCropFlip, steps: Sequence[nn.Module] = (), then: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.crop = crop
        self.steps = nn.ModuleList(steps)
        self.then = nn.Sequential(*then)
        self.unit = all(getattr(step, "mean", None) is None for step in steps)  # nothing normalises
        self._guard = RangeGuard()

    def draw(self, shape: tuple[int, ...], seed: int, box: Tensor | None = None) -> list[Params]:
        """The parameters of crop and steps for a batch of `shape` (N, C, H, W), from `seed` alone."""
        crop = self.crop.forward_parameters(shape, _stream(seed, self.crop, 0), box=box)
        cropped = (*shape[:2], *self.crop.flags["size"])
        return [
            crop,
            *(step.forward_parameters(cropped, _stream(seed, step, number)) for number, step in _numbered(self.steps)),
        ]

    def forward(self, image: Tensor, params: list[Params] | None = None, box: Tensor | None = None) -> Tensor:
        """Make the view.

        Args:
            image: uint8 in [0, 255] or float in [0, 1], (N, C, H, W).
            params: From `draw`, to repeat a view; drawn anew when None, with a seed from the global generator.
            box: (N, 2) heights and widths of the valid top left part of each image of a padded batch.

        Returns:
            (N, C, h, w): float32 for uint8, else the input's dtype.

        Raises:
            ValueError: Float images that leave [0, 1] (on an accelerator, only the first batch is looked at).
        """
        self._guard(image, "View")
        if params is None:
            params = self.draw(tuple(image.shape), new_seed(), box)
        boxes = boxes_of(params[0])

        def crop(sources: list[int]) -> Tensor:
            in_order = sources == list(range(sources[0], sources[-1] + 1))
            rows = slice(sources[0], sources[-1] + 1) if in_order else torch.tensor(sources)
            return self.crop.planes(image, boxes.pick(rows), sources=sources)

        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            pairs = list(zip(cast("Iterable[Step]", self.steps), params[1:], strict=True))
            view: Tensor = self.then(run_steps(image, pairs, crop, self.crop.flags["size"], self.unit))
        return view


class Views(nn.Module):
    """A list of independent augmentations of one batch, one output a view.

    Nothing here is ever differentiated, and autocast never reaches it: the parameters of an augmentation and the
    pixels of a view are float32 whatever the precision of the training.

    Args:
        transforms: One module a view, each uint8 or float [0, 1] (N, C, H, W) -> float (N, C, h, w).
    """

    def __init__(self, transforms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        self._guard = RangeGuard()

    @torch.no_grad()
    def forward(self, image: Tensor, box: Tensor | None = None) -> list[Tensor]:
        """Views of a batch.

        Args:
            image: uint8 in [0, 255] or float in [0, 1], (N, C, H, W).
            box: (N, 2) integer heights and widths: the valid top left part of each image of a padded batch. Crops are
                drawn inside it, and no pixel beyond it is read. None: all of every image.

        Returns:
            One float32 tensor in [0, 1] a view, (N, C, h, w).

        Raises:
            ValueError: Float images that leave [0, 1] (on an accelerator, only the first batch is looked at).
            UsageError: `box`, and a transform that is no `View`.
        """
        self._guard(image, "Views")
        strangers = [type(each).__name__ for each in self.transforms if not isinstance(each, View)]
        if box is not None and strangers:
            raise UsageError(
                f"{strangers[0]} cannot tell the images of a batch of unequal sizes from its padding: put it behind a "
                "crop, View(crop, then=[...])"
            )
        if image.is_floating_point():
            image = image.to(torch.float32)
        # A seed a view, drawn before any of them: what a view draws does not depend on the others.
        seeds = [new_seed() for _ in self.transforms]
        with torch.autocast(image.device.type, enabled=False):
            return [
                transform(image, transform.draw(tuple(image.shape), seed, box))
                if isinstance(transform, View)
                else transform(image)
                for transform, seed in zip(self.transforms, seeds, strict=True)
            ]

    def __len__(self) -> int:
        return len(self.transforms)


class EvalView(nn.Module):
    """Short side to `size` (antialiased), centre crop, float [0, 1].

    Args:
        size: Height and width of the output, pixels.
        resize: Length that the short side is resized to first; None: `size`. ImageNet's protocol is 256 for 224.
        mode: "bilinear" or "bicubic".

    Raises:
        UsageError: `resize` is smaller than `size`.
    """

    def __init__(self, size: int, resize: int | None = None, mode: Literal["bilinear", "bicubic"] = "bilinear") -> None:
        super().__init__()
        if resize is not None and resize < size:
            raise UsageError(f"a view of {size} px cannot be cut from images resized to {resize} px")
        self.size = size
        self.resize = size if resize is None else resize
        self.mode = mode

    @torch.no_grad()
    def forward(self, image: Tensor, box: Tensor | None = None) -> Tensor:
        """The evaluation's view.

        Args:
            image: uint8 in [0, 255] or float in [0, 1], (N, C, H, W).
            box: (N, 2) valid heights and widths of a padded batch; each image is then cut before it is resized, at
                whole pixels.

        Returns:
            float32 in [0, 1], (N, C, size, size).
        """
        with torch.autocast(image.device.type, enabled=False):
            if box is not None:
                return self._from_boxes(image, box)
            unit = 1.0 if image.is_floating_point() else 1 / 255
            height, width = image.shape[-2:]
            short = min(height, width)
            if short != self.resize:
                shape = (self.resize * height // short, self.resize * width // short)  # as torchvision rounds
                if image.dtype != torch.uint8 or image.device.type != "cpu":  # integers resize on a CPU only
                    image = image.to(torch.float32)
                image = F.interpolate(image, shape, mode=self.mode, antialias=True, align_corners=False)
            top, left = (round((side - self.size) / 2) for side in image.shape[-2:])
            image = image[..., top : top + self.size, left : left + self.size]
            return image.to(torch.float32).mul(unit).clamp_(0, 1)

    def _from_boxes(self, image: Tensor, box: Tensor) -> Tensor:
        valid = box.to("cpu", torch.float32)
        side = (valid.amin(dim=1) * (self.size / self.resize)).round()
        top, left = ((valid - side[:, None]) / 2).round().unbind(1)
        boxes = Boxes(top, left, side, side, torch.zeros(len(side), dtype=torch.bool))
        planes = resample(image, boxes, (self.size, self.size), self.mode)
        return planes.transpose(0, 1).clone(memory_format=torch.contiguous_format)  # planes are working memory


def new_seed() -> int:
    """A seed from the global CPU generator, which the training loop seeds at each step."""
    return int(torch.randint(2**62, (), device="cpu"))


def _stream(seed: int, step: DeviceAugmentation, number: int) -> Generator:
    """A generator for the `number`-th operation of its kind."""
    return torch.Generator().manual_seed(derive_seed(seed, type(step).__name__, number))


def _numbered(steps: nn.ModuleList) -> Iterator[tuple[int, DeviceAugmentation]]:
    """Each step with the number of earlier ones of its kind."""
    seen: dict[str, int] = {}
    for step in cast("Iterable[DeviceAugmentation]", steps):
        kind = type(step).__name__
        yield seen.setdefault(kind, 0), step
        seen[kind] += 1
