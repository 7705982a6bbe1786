"""Label propagation: what the first frame of a clip has, colours or masks, is carried on by an encoder's features.

Source: Wang, Jabri & Efros 2019; Jabri et al. 2020, section 4; Caron et al. 2021, section 4.2.1, whose settings are the
defaults.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.colours import lab_to_rgb, rgb_to_lab
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

Frame = NDArray[np.uint8]  # (3, H, W)
Mask = NDArray[np.int64]  # (H, W): 0 or the number of an object


@dataclasses.dataclass(frozen=True)
class Rules:
    """How labels are carried to a frame.

    Attributes:
        context: Frames before it that lend, beside the first one.
        radius: Farthest place that lends, in positions of the feature map, along each axis.
        topk: Places that lend: those with the most similar features.
        temperature: Of the softmax over their cosines.
    """

    context: int = 7
    radius: int = 12
    topk: int = 5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name, low in (("context", 0), ("radius", 0), ("topk", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"--{name} is {getattr(self, name)}: it must be at least {low}")
        if not self.temperature > 0:
            raise UsageError(f"--temperature is {self.temperature}: it must be above 0")


def carry(target: Tensor, context: Tensor, labels: Tensor, rules: Rules) -> Tensor:
    """What each place of a frame gets from the most similar places near it in other frames.

    Args:
        target: Unit features of the frame, (h, w, D).
        context: Of T other frames, (T, h, w, D).
        labels: Of their places, (T, h, w, K).
        rules: See `Rules`.

    Returns:
        (h, w, K): weighted means of the labels.

    Examples:
        >>> frame = torch.eye(4).view(2, 2, 4)  # four places, all different
        >>> label = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(2, 2, 1)
        >>> carry(frame.flip(1), frame[None], label[None], Rules(topk=1)).flatten()  # all has moved to the other side
        tensor([0., 1., 1., 0.])
    """
    height, width, _ = target.shape
    x = torch.arange(width, device=target.device)
    near = (x[:, None] - x).abs() <= rules.radius  # (w, w)
    carried = []
    for y in range(height):
        rows = slice(max(0, y - rules.radius), y + rules.radius + 1)
        lenders = context[:, rows]  # (T, R, w, D)
        scores = target[y] @ lenders.flatten(1, 2).transpose(1, 2)  # (T, w, R w)
        scores = scores.masked_fill(~near.repeat(1, lenders.shape[1]), -torch.inf)
        scores = scores.transpose(0, 1).flatten(1)  # (w, T R w)
        score, place = scores.topk(min(rules.topk, scores.shape[1]), dim=1)
        weight = (score / rules.temperature).softmax(dim=1)  # (w, k)
        lent = labels[:, rows].flatten(0, 2)[place]  # (w, k, K)
        carried.append((weight[..., None] * lent).sum(dim=1))
    return torch.stack(carried)


def propagate(features: Iterable[Tensor], first: Tensor, rules: Rules) -> Iterator[Tensor]:
    """Labels of frame after frame, each carried from the first frame and from the last ones before it.

    Args:
        features: Unit features of the frames, the first one first, (h, w, D) each.
        first: Labels of the first frame, (h, w, K).
        rules: See `Rules`.

    Yields:
        (h, w, K) a frame; for the first one its own.
    """
    frames = iter(features)
    root = (next(frames), first)
    yield first
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=rules.context)
    for target in frames:
        context, labels = (torch.stack(each) for each in zip(root, *recent, strict=True))
        carried = carry(target, context, labels, rules)
        recent.append((target, carried))
        yield carried


def iou(found: Mask, truth: Mask, objects: Sequence[int]) -> float:
    """Intersection over union (J) of the masks of some objects, the mean over them; 1 where both have none."""
    scores = []
    for number in objects:
        one, other = found == number, truth == number
        union = (one | other).sum()
        scores.append((one & other).sum() / union if union else 1.0)
    return float(np.mean(scores))


# --- frames and labels -----------------------------------------------------------------------------------------------


def whole_positions(image: NDArray[Any], stride: int) -> NDArray[Any]:
    """The middle of an image (..., H, W) whose sides are multiples of `stride`: positions then are whole."""
    height, width = image.shape[-2:]
    h, w = height // stride * stride, width // stride * stride
    if not h or not w:
        raise UsageError(f"--size: frames of {height}x{width} px are smaller than {stride} px, a position: give more")
    top, left = (height - h) // 2, (width - w) // 2
    return image[..., top : top + h, left : left + w]


def lab_of(frame: Frame, device: torch.device) -> Tensor:
    """(1, 3, H, W): L, a, b."""
    return rgb_to_lab(torch.from_numpy(frame)[None].to(device).float() / 255)


def grey(image: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] without their colours: the same lightness, no a and no b."""
    lab = rgb_to_lab(image)
    return lab_to_rgb(lab * lab.new_tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))


def without_colour(frames: Sequence[Frame]) -> list[Frame]:
    """`grey` of frames (3, H, W) uint8."""
    shown = (grey(torch.from_numpy(frame)[None].float() / 255)[0] for frame in frames)
    return [(255 * image).round().to(torch.uint8).numpy() for image in shown]


@torch.no_grad()
def frame_features(encoder: Encoder, frames: Iterable[Frame], colour: bool, at_once: int = 8) -> Iterator[Tensor]:
    """The encoder's feature map of frame after frame, unit length at each place: (h, w, D).

    Args:
        encoder: In eval mode.
        frames: (3, H, W) uint8 each.
        colour: Whether it may see the colours; else it is shown grey frames.
        at_once: Frames a batch.

    Raises:
        UsageError: It cannot encode images of this size or of three channels.
    """
    for batch in _batches(frames, at_once):
        image = torch.from_numpy(np.stack(batch)).to(encoder.mean.device).float() / 255
        seen = image if colour and encoder.config.channels == 3 else grey(image)
        try:
            features = encoder.feature_map(seen[:, : encoder.config.channels])
        except (AssertionError, RuntimeError, ValueError) as error:
            height, width = image.shape[-2:]
            raise UsageError(
                f"{encoder.config.name} cannot encode frames of {height}x{width} px: {str(error).splitlines()[0]}"
            ) from error
        yield from F.normalize(features.float(), dim=1).permute(0, 2, 3, 1).contiguous()


def _batches(items: Iterable[Frame], count: int) -> Iterator[list[Frame]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, count)):
        yield batch


def shrunk(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (1, K, H, W) as means over the area of each position: (h, w, K)."""
    return F.adaptive_avg_pool2d(labels, (size[0], size[1]))[0].permute(1, 2, 0)


def enlarged(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Labels (h, w, K) of positions for pixels: (1, K, H, W)."""
    return F.interpolate(labels.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)


def one_hot(mask: Mask, numbers: Sequence[int], device: torch.device) -> Tensor:
    """Where a mask has each of some numbers: (1, K, H, W) float32."""
    return torch.stack([torch.from_numpy(mask).to(device) == number for number in numbers])[None].float()


# --- a clip ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Carried:
    """What was carried through a clip.

    Attributes:
        scores: By who lent: means over the frames behind the first.
        frames: Frames with carried colours, or masks; the first is the given one.
    """

    scores: dict[str, float]
    frames: list[Any]


def recolour(
    frames: Sequence[Frame], colours: Iterable[Tensor], device: torch.device, tick: Callable[[], object]
) -> Carried:
    """Frames with other colours and their own lightness, and how far they are from the true ones.

    Args:
        frames: True ones, (3, H, W) uint8 each.
        colours: ab of each frame's positions, (h, w, 2).
        device: Where to compute.
        tick: Called for each frame.

    Returns:
        ``ab_error``: distance of ab, mean over pixels and frames; ``psnr``: in RGB, decibels, mean over frames.
    """
    painted, errors, ratios = [], [], []
    for number, (frame, ab) in enumerate(zip(frames, colours, strict=True)):
        lab = lab_of(frame, device)
        own = torch.cat([lab[:, :1], enlarged(ab, frame.shape[-2:])], dim=1) if number else lab
        image = lab_to_rgb(own)[0]
        painted.append((255 * image).round().to(torch.uint8).cpu().numpy())
        if number:
            errors.append((own - lab).square().sum(dim=1).sqrt().mean().item())
            squared = (image - torch.from_numpy(frame).to(device) / 255).square().mean().clamp(min=1e-10)
            ratios.append(-10 * squared.log10().item())
        tick()
    return Carried({"ab_error": float(np.mean(errors)), "psnr": float(np.mean(ratios))}, painted)


def carry_colours(
    encoders: Mapping[str, Encoder], frames: Sequence[Frame], rules: Rules, tick: Callable[[], object] = lambda: None
) -> dict[str, Carried]:
    """Carry the first frame's colours through a clip with the features of grey frames.

    Args:
        encoders: By name, in eval mode, of one architecture.
        frames: (3, H, W) uint8 each, at least two; sides are multiples of the encoder's stride.
        rules: See `Rules`.
        tick: Called for each frame of each.

    Returns:
        See `recolour`; by encoder, and ``copied``: the first frame's colours where they are, and ``own``: each frame's
        own colours. All are at the resolution of the feature map, so that only where colours come from differs.
    """
    device = next(iter(encoders.values())).mean.device
    size = next(frame_features(next(iter(encoders.values())), frames[:1], colour=False)).shape[:2]
    first = shrunk(lab_of(frames[0], device)[:, 1:], size)
    found = {}
    for name, encoder in encoders.items():
        features = frame_features(encoder, frames, colour=False)
        found[name] = recolour(frames, propagate(features, first, rules), device, tick)
    found["copied"] = recolour(frames, itertools.repeat(first, len(frames)), device, tick)
    own = (shrunk(lab_of(frame, device)[:, 1:], size) for frame in frames)
    return {**found, "own": recolour(frames, own, device, tick)}


def carry_masks(
    encoders: Mapping[str, Encoder],
    frames: Sequence[Frame],
    masks: Mapping[int, Mask],
    rules: Rules,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, Carried]:
    """Carry the first frame's mask through a clip.

    Args:
        encoders: By name, in eval mode, of one architecture; they see the frames in colour.
        frames: As of `carry_colours`.
        masks: By the frame's number, (H, W): 0 or the number of an object; that of frame 0 is carried, and only its
            objects are scored.
        rules: See `Rules`.
        tick: Called for each frame of each.

    Returns:
        By encoder, ``iou``: J on the frames behind the first that have a mask, with ``copied`` for the first mask where
        it is. Where only the first frame has one, ``back_and_forth``: J of the first mask with itself after it was
        carried to the last frame and back.
    """
    objects = _objects(masks[0])
    scored = sorted(set(masks) - {0})
    found = {}
    for name, encoder in encoders.items():
        carried, last = carry_mask(encoder, frames, masks[0], rules, tick=tick)
        if scored:
            scores = {"iou": float(np.mean([iou(carried[n], masks[n], objects) for n in scored]))}
        else:
            *_, back = propagate(frame_features(encoder, frames[::-1], colour=True), last, rules)
            scores = {"back_and_forth": iou(_decided(back, objects, masks[0].shape), masks[0], objects)}
        found[name] = Carried(scores, carried)
    if scored:
        copied = float(np.mean([iou(masks[0], masks[n], objects) for n in scored]))
        found["copied"] = Carried({"iou": copied}, [masks[0]] * len(frames))
    return found


def carry_mask(
    encoder: Encoder, frames: Sequence[Frame], mask: Mask, rules: Rules, tick: Callable[[], object] = lambda: None
) -> tuple[list[Mask], Tensor]:
    """Carry a mask of the first frame through a clip.

    Args:
        encoder: In eval mode; it sees the frames in colour.
        frames: (3, H, W) uint8 each; sides are multiples of the encoder's stride.
        mask: Of the first frame, of any size, (h, w): 0 or the number of an object.
        rules: See `Rules`.
        tick: Called for each frame.

    Returns:
        A mask a frame, of the size of the first one, which comes back as it is; and the objects' shares of the last
        frame's positions, (h, w, 1 + K).
    """
    objects = _objects(mask)
    size = next(frame_features(encoder, frames[:1], colour=True)).shape[:2]
    shares = first = shrunk(one_hot(mask, [0, *objects], encoder.mean.device), size)
    carried: list[Mask] = []
    for shares in propagate(frame_features(encoder, frames, colour=True), first, rules):
        carried.append(_decided(shares, objects, mask.shape) if carried else mask)
        tick()
    return carried, shares


def _objects(mask: Mask) -> list[int]:
    """Numbers of the objects in a mask."""
    return [number for number in np.unique(mask).tolist() if number]


def _decided(shares: Tensor, objects: Sequence[int], size: tuple[int, ...]) -> Mask:
    """Shares (h, w, 1 + K) of positions, 0 first, to the number with the largest share at each pixel."""
    largest = enlarged(shares, size)[0].argmax(dim=0).cpu().numpy()
    mask: Mask = np.array([0, *objects])[largest]
    return mask
