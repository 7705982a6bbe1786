"""Views: the float images that a method compares, made from a batch on its device."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_toolkit.augment.base import DeviceAugmentation, Params, RangeGuard, uniform_block, widened
from ssl_toolkit.augment.crop import ResizedCropFlip
from ssl_toolkit.augment.engine import Step, run_steps
from ssl_toolkit.augment.resample import Boxes, boxes_of, resample
from ssl_toolkit.errors import UsageError


class View(nn.Module):
    """One view: a crop and what follows it, a pure function of (images, uniforms).

    It does what the same augmentations do in `AugmentationSequential`, and faster: nothing between them is written to
    memory. On a CPU it goes through the batch in pieces, on CUDA it is compiled (see `Views.compiled`).

    Args:
        crop: The crop, with or without flip.
        steps: Our intensity augmentations (`ColourJitter`, `GaussianBlur`, `Solarize`, `RandomErasing`, `Cutout`).
        then: Any other modules for float images [0, 1] (N, C, h, w), Kornia's among them, applied to the whole batch.

    Examples:
        >>> from ssl_toolkit.augment import ColourJitter, Solarize
        >>> view = View(ResizedCropFlip((32, 32)), [ColourJitter(), Solarize()])
        >>> view(torch.rand(4, 3, 40, 48)).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(self, crop: ResizedCropFlip, steps: Sequence[nn.Module] = (), then: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.crop = crop
        self.steps = nn.ModuleList(steps)
        self.then = nn.Sequential(*then)
        self.unit = all(getattr(step, "mean", None) is None for step in steps)  # nothing normalises
        self._guard = RangeGuard()
        self._compiled: Callable[..., Tensor] | None = None

    @property
    def draws(self) -> int:
        """Uniforms that an image takes."""
        return sum(operation.draws for operation in self._operations())

    def from_uniforms(self, uniforms: Tensor, shape: tuple[int, ...], box: Tensor | None = None) -> list[Params]:
        """The parameters of crop and steps.

        Args:
            uniforms: (draws, N) in [0, 1), on any device.
            shape: (N, C, H, W) of the images.
            box: (N, 2) heights and widths of the valid top left part of each image of a padded batch.
        """
        own, *parts = self._split(uniforms)
        return [self.crop.from_uniforms(own, shape, box=box), *self._of_steps(parts, shape)]

    def _split(self, uniforms: Tensor) -> tuple[Tensor, ...]:
        return torch.split(uniforms, [operation.draws for operation in self._operations()])

    def _of_steps(self, parts: Sequence[Tensor], shape: tuple[int, ...]) -> list[Params]:
        cropped = (*shape[:2], *self.crop.flags["size"])
        return [step.from_uniforms(part, cropped) for step, part in zip(self._operations()[1:], parts, strict=True)]

    def place(self, uniforms: Tensor, shape: tuple[int, ...], box: Tensor | None = None) -> Tensor:
        """Where the view lies in its image; arguments as of `from_uniforms`.

        Returns:
            (N, 4) float32, pixels of the image: y and x of the view's top left corner, y and x of its bottom right one;
            where it is flipped, the first x is the larger one.
        """
        (top, left), (height, width), flip = self.crop.boxes(self._split(uniforms)[0], shape, box)
        right = left + width
        first, last = torch.where(flip, right, left), torch.where(flip, left, right)
        return torch.stack([top, first, top + height, last], dim=1)

    def make(self, image: Tensor, params: list[Params]) -> Tensor:
        """Crop and steps by given parameters; neither waits for a device nor asks it anything."""
        return self._make(image, boxes_of(params[0]).to(image.device), params[1:])

    def _make(self, image: Tensor, boxes: Boxes, params: list[Params]) -> Tensor:
        def crop(sources: Tensor | None) -> Tensor:
            return self.crop.planes(image, boxes if sources is None else boxes.pick(sources), sources=sources)

        pairs = list(zip(cast("Iterable[Step]", self.steps), params, strict=True))
        return run_steps(image, pairs, crop, self.crop.flags["size"], self.unit)

    def forward(
        self,
        image: Tensor,
        params: list[Params] | None = None,
        box: Tensor | None = None,
        uniforms: Tensor | None = None,
        compiled: bool = True,
    ) -> Tensor:
        """Make the view.

        Args:
            image: uint8, uint16 or float in [0, 1], (N, C, H, W).
            params: From `from_uniforms`, to repeat a view; None: from `uniforms`.
            box: (N, 2) heights and widths of the valid top left part of each image of a padded batch.
            uniforms: (draws, N) that decide everything; drawn from the global CPU generator when None.
            compiled: Whether a compiler may make one function of it on CUDA.

        Returns:
            (N, C, h, w): float32 for integers, else the input's dtype.

        Raises:
            ValueError: Float images that leave [0, 1] (on an accelerator, only the first batch is looked at).
        """
        self._guard(image, "View")
        image = widened(image)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            if params is not None:
                view = self.make(image, params)
            else:
                if uniforms is None:
                    uniforms = to_device(uniform_block(self.draws, len(image)), image.device)
                use = self._fused if compiled and image.device.type == "cuda" and len(image) else self._made
                view = use(image, uniforms, None if box is None else box.to(image.device, non_blocking=True))
            made: Tensor = self.then(view)
        return made

    def is_like(self, other: object) -> bool:
        """Whether another view draws and does the same."""
        return isinstance(other, View) and not len(self.then) and not len(other.then) and self._name == other._name

    @cached_property
    def _name(self) -> str:
        plain = (bool, int, float, str, tuple, set, type(None))
        return repr(
            [
                (type(part), sorted((k, v) for k, v in vars(part).items() if isinstance(v, plain) and k != "training"))
                for operation in self._operations()
                for part in (operation, operation._param_generator)
            ]
            + [operation.flags for operation in self._operations()]
        )

    def _operations(self) -> list[DeviceAugmentation]:
        return [self.crop, *cast("Iterable[DeviceAugmentation]", self.steps)]

    def _made(self, image: Tensor, uniforms: Tensor, box: Tensor | None) -> Tensor:
        own, *parts = self._split(uniforms)
        shape = tuple(image.shape)
        return self._make(image, self.crop.boxes(own, shape, box), self._of_steps(parts, shape))

    def _fused(self, image: Tensor, uniforms: Tensor, box: Tensor | None) -> Tensor:
        """The view as one compiled function, or as it is where there is no compiler (with one warning)."""
        if not Views.compiler_works:
            return self._made(image, uniforms, box)
        if self._compiled is None:
            self._compiled = compiled_function(self._made)
        torch._dynamo.maybe_mark_dynamic(image, 0 if box is None else (0, 2, 3))
        torch._dynamo.maybe_mark_dynamic(uniforms, 1)
        try:
            return self._compiled(image, uniforms, box)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler on the user's machine may raise
            Views.compiler_works = False
            reason = str(error).strip().split("\n")[0][:200]
            warnings.warn(f"torch.compile failed, views go on uncompiled: {reason}", RuntimeWarning, stacklevel=2)
            return self._made(image, uniforms, box)

    def __getstate__(self) -> dict[str, Any]:
        # A compiled function belongs to the module that it was made of, and a copy makes its own.
        return {**self.__dict__, "_compiled": None}


def compiled_function(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A bound method compiled as one graph, with compilations of its own.

    The compiler counts how often it compiles a piece of code, and gives up after eight: ten views of one class must not
    share that count.
    """
    method = cast(types.MethodType, function)
    plain = cast(types.FunctionType, method.__func__)
    own = types.FunctionType(plain.__code__.replace(), plain.__globals__, plain.__name__)
    return cast("Callable[..., Tensor]", torch.compile(types.MethodType(own, method.__self__), fullgraph=True))


def to_device(uniforms: Tensor, device: torch.device) -> Tensor:
    """To a device without waiting for it."""
    if device.type != "cuda":
        return uniforms.to(device)
    return uniforms.pin_memory().to(device, non_blocking=True)


class Views(nn.Module):
    """A list of independent augmentations of one batch, one output a view.

    All that is random in a batch is one block of uniforms, drawn on the CPU in one call and sent in one copy; every
    view computes its parameters from its rows of it, where the images are. Nothing here is ever differentiated, and
    autocast never reaches it: the parameters of an augmentation and the pixels of a view are float32 whatever the
    precision of the training.

    Args:
        transforms: One module a view, each uint8 or float in [0, 1] (N, C, H, W) -> float (N, C, h, w).
        places: Whether the views are followed by where each of them lies, see `View.place`.

    Attributes:
        compiled: Whether each `View` is compiled into one function on CUDA; the first batch then takes seconds.

    Examples:
        >>> large, small = View(ResizedCropFlip((32, 32))), View(ResizedCropFlip((16, 16)))
        >>> [tuple(view.shape) for view in Views([large, small])(torch.rand(4, 3, 40, 48))]
        [(4, 3, 32, 32), (4, 3, 16, 16)]
    """

    compiler_works = True  # until it fails once, in any view

    def __init__(self, transforms: Sequence[nn.Module], places: bool = False) -> None:
        super().__init__()
        self.transforms, self.places = nn.ModuleList(transforms), places
        self.compiled = True
        self._guard = RangeGuard()

    @torch.no_grad()
    def forward(self, image: Tensor, box: Tensor | None = None) -> list[Tensor]:
        """Views of a batch.

        Args:
            image: uint8, uint16 or float in [0, 1], (N, C, H, W).
            box: (N, 2) integer heights and widths: the valid top left part of each image of a padded batch. Crops are
                drawn inside it, and no pixel beyond it is read. None: all of every image.

        Returns:
            One float32 tensor in [0, 1] a view, (N, C, h, w); with `places`, then one a view, (N, 4).

        Raises:
            ValueError: Float images that leave [0, 1] (on an accelerator, only the first batch is looked at).
            UsageError: `box` or `places`, and a transform that is no `View`.
        """
        self._guard(image, "Views")
        image = widened(image)
        strangers = [type(each).__name__ for each in self.transforms if not isinstance(each, View)]
        if self.places and strangers:
            raise UsageError(f"{strangers[0]} does not say where its view lies: give views of type View")
        if box is not None and strangers:
            raise UsageError(
                f"{strangers[0]} cannot tell the images of a batch of unequal sizes from its padding: put it behind a "
                "crop, View(crop, then=[...])"
            )
        if image.is_floating_point():
            image = image.to(torch.float32)
        counts = [transform.draws if isinstance(transform, View) else 0 for transform in self.transforms]
        block = to_device(uniform_block(sum(counts), len(image)), image.device)
        if box is not None:
            box = box.to(image.device, non_blocking=True)
        made: list[Tensor] = []
        uniforms = torch.split(block, counts)
        for group in self._groups(image.device):
            first = self.transforms[group[0]]
            if not isinstance(first, View):
                with torch.autocast(image.device.type, enabled=False):
                    made.append(first(image))
                continue
            parts = torch.cat([uniforms[number] for number in group], dim=1) if len(group) > 1 else uniforms[group[0]]
            boxes = box if box is None or len(group) == 1 else box.repeat(len(group), 1)
            images = image if len(group) == 1 else image.repeat(len(group), 1, 1, 1)
            made += first(images, None, boxes, parts, self.compiled).chunk(len(group))
        if self.places:
            pairs = zip(cast("Iterable[View]", self.transforms), uniforms, strict=True)
            made += [view.place(part, tuple(image.shape), box) for view, part in pairs]
        return made

    def _groups(self, device: torch.device) -> list[list[int]]:
        """Positions of neighbours that are alike: on an accelerator, one batch and one launch for all of them."""
        alike: list[list[int]] = []
        for number, transform in enumerate(self.transforms):
            last = self.transforms[alike[-1][0]] if alike else None
            if device.type != "cpu" and isinstance(transform, View) and transform.is_like(last):
                alike[-1].append(number)
            else:
                alike.append([number])
        return alike

    def __len__(self) -> int:
        return len(self.transforms)


class OwnViews(Views):
    """Views by a function of the user's own, applied once a view.

    The function gets the central squares of the images as they were read; crops, jitter and all else are its own. What
    it draws from torch's global generator is as reproducible as all other draws.

    Args:
        function: Float images in [0, 1] (N, C, size, size) to such images (N, C, h, w).
        count: How many views.
        size: Side of the squares, pixels.

    Examples:
        >>> views = OwnViews(lambda image: image.flip(-1), count=2, size=32)
        >>> [tuple(view.shape) for view in views(torch.rand(4, 3, 40, 48))]
        [(4, 3, 32, 32), (4, 3, 32, 32)]
    """

    def __init__(self, function: Callable[[Tensor], Tensor], count: int, size: int) -> None:
        super().__init__([])
        self.function, self.count, self.square = function, count, EvalView(size)

    @torch.no_grad()
    def forward(self, image: Tensor, box: Tensor | None = None) -> list[Tensor]:
        """As `Views.forward`.

        Raises:
            UsageError: The function gives something else than such images.
            ValueError: Its images leave [0, 1] (on an accelerator, only the first batch is looked at).
        """
        square = self.square(image, box)
        with torch.autocast(image.device.type, enabled=False):
            return [self._checked(self.function(square.clone()), square) for _ in range(self.count)]

    def _checked(self, view: Tensor, square: Tensor) -> Tensor:
        form = f"{tuple(view.shape)} {view.dtype}" if isinstance(view, Tensor) else f"a {type(view).__name__}"
        if not isinstance(view, Tensor) or view.ndim != 4 or view.shape[:2] != square.shape[:2]:
            raise UsageError(f"views makes {form} of images {tuple(square.shape)}: it must give images (N, C, h, w)")
        if not view.is_floating_point():
            raise UsageError(f"views makes {form}: it must give floats in [0, 1]")
        self._guard(view, "an encoder, after views,")
        return view

    def __len__(self) -> int:
        return self.count


class EvalView(nn.Module):
    """Short side to `size` (antialiased), centre crop, float [0, 1].

    Args:
        size: Height and width of the output, pixels.
        resize: Length that the short side is resized to first; None: `size`. ImageNet's protocol is 256 for 224.
        mode: "bilinear" or "bicubic".

    Raises:
        UsageError: `resize` is smaller than `size`.

    Examples:
        >>> EvalView(32, resize=36)(torch.randint(256, (4, 3, 40, 48), dtype=torch.uint8)).shape
        torch.Size([4, 3, 32, 32])
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
            image: uint8, uint16 or float in [0, 1], (N, C, H, W).
            box: (N, 2) valid heights and widths of a padded batch; each image is then cut before it is resized, at
                whole pixels.

        Returns:
            float32 in [0, 1], (N, C, size, size).
        """
        with torch.autocast(image.device.type, enabled=False):
            image = widened(image)
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
        valid = box.to(image.device, torch.float32).t()
        side = (valid.amin(dim=0) * (self.size / self.resize)).round()
        start = ((valid - side) / 2).round()
        boxes = Boxes(start, side.expand(2, -1), torch.zeros_like(side, dtype=torch.bool))
        planes = resample(image, boxes, (self.size, self.size), self.mode)
        return planes.transpose(0, 1).clone(memory_format=torch.contiguous_format)  # planes are working memory
