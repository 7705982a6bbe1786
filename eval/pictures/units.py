"""What units of a network compute: first filters, feature maps, and the patches of images that excite a unit most."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.eval.features.extraction import evaluating

SHARPEST = 12
"""A layer to look at is, if none is asked for, the last whose maps have this many positions along each side."""

# --- filters ---------------------------------------------------------------------------------------------------------


def first_filters(encoder: Encoder) -> NDArray[np.float32]:
    """The kernels of the first convolution, those with the largest norm first; of a split encoder's, over lightness.

    Returns:
        (K, C, kh, kw) float32.

    Raises:
        UsageError: The encoder has no convolution over the image.
    """
    for module in encoder.backbone.modules():
        if isinstance(module, nn.Conv2d) and module.weight.shape[1] == encoder.config.seen_channels:
            weight: NDArray[np.float32] = module.weight.detach().float().cpu().numpy()
            return weight[np.argsort(-np.square(weight).sum(axis=(1, 2, 3)), kind="stable")]
    raise UsageError(f"{encoder.config.name} has no convolution over the image, so it has no filters to show")


def filter_components(filters: NDArray[np.float32]) -> NDArray[np.float32]:
    """The directions in which filters differ most, as pictures; how a patch embedding of many filters is shown.

    Args:
        filters: (K, C, kh, kw).

    Returns:
        (min(K, C * kh * kw), C, kh, kw) float32, each of unit length, its largest value positive, the first ones first.

    Source: Dosovitskiy et al. 2021, figure 7 (left).
    """
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    _, _, rows = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    largest = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
    rows *= np.where(largest < 0, -1, 1)[:, None]
    components: NDArray[np.float32] = rows.astype(np.float32).reshape(-1, *filters.shape[1:])
    return components


def has_patch_embedding(encoder: Encoder) -> bool:
    """Whether the first filters are those of a vision transformer, one a patch."""
    return isinstance(getattr(getattr(encoder.backbone, "patch_embed", None), "proj", None), nn.Conv2d)


# --- layers ----------------------------------------------------------------------------------------------------------


def map_layers(encoder: Encoder) -> dict[str, tuple[int, int, int]]:
    """Layers whose output is a feature map or a token a patch, in the order in which they are done.

    Returns:
        Name of each module of the backbone to units and positions, (K, h, w), for images of the encoder's own size.
    """
    size = encoder.config.image_size
    image = encoder.mean.new_zeros(2, encoder.config.channels, size, size)
    names = [name for name, _ in encoder.backbone.named_modules() if name]
    with torch.no_grad():
        found = _outputs(encoder, names, image)
    shapes = {}
    for name, output in found.items():
        maps = _as_map(encoder, name, output, image)
        if maps is not None:
            shapes[name] = (maps.shape[1], maps.shape[2], maps.shape[3])
    return shapes


def pick_layer(encoder: Encoder, layer: str | None = None) -> tuple[str, int]:
    """A layer and how many units it has; None picks the last one with maps of at least 12 positions a side.

    Raises:
        UsageError: There is no such layer, or none of the encoder's makes maps.
    """
    layers = map_layers(encoder)
    if not layers:
        raise UsageError(f"{encoder.config.name} has no layer with a feature map or a token a patch")
    if layer is None:
        sharp = [name for name, (_, height, width) in layers.items() if min(height, width) >= SHARPEST]
        layer = sharp[-1] if sharp else list(layers)[-1]
    if layer not in layers:
        raise unknown_name(f"layer of {encoder.config.name}", layer, layers)
    return layer, layers[layer][0]


def feature_maps(encoder: Encoder, layer: str, image: Tensor) -> Tensor:
    """What the units of a layer answer at each position; with gradient where the caller has not turned it off.

    Args:
        encoder: Is in eval mode meanwhile.
        layer: A name of `map_layers`.
        image: (N, C, H, W) float in [0, 1], on the encoder's device.

    Returns:
        (N, K, h, w): tokens lie where their patches do, class and register tokens are left out.
    """
    maps = _as_map(encoder, layer, _outputs(encoder, [layer], image)[layer], image)
    assert maps is not None, layer
    return maps


def _outputs(encoder: Encoder, names: Sequence[str], image: Tensor) -> dict[str, Tensor]:
    """Outputs of modules by name, in the order in which they are done; those that are tensors."""
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                caught[name] = output.clone()  # the next module may work in place

        return hook

    modules = dict(encoder.backbone.named_modules())
    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        with evaluating(encoder):
            encoder(image)
    finally:
        for handle in handles:
            handle.remove()
    return caught


def _as_map(encoder: Encoder, name: str, output: Tensor, image: Tensor) -> Tensor | None:
    """The output of a module as (N, K, h, w), if it has a value for each position."""
    backbone = encoder.backbone
    if len(output) != len(image):  # windows of attention
        return None
    grid = token_grid(encoder, image)
    if grid is None:
        if output.ndim != 4:
            return None
        last = getattr(backbone, "output_fmt", "NCHW") == "NHWC" and not isinstance(
            backbone.get_submodule(name), nn.Conv2d
        )
        maps = output.permute(0, 3, 1, 2) if last else output
        return maps if min(maps.shape[2:]) > 1 else None
    if output.ndim == 4:  # before it is flattened; the attention's own parts, (N, heads, T, d), are no maps
        if output.shape[2:] == grid:
            return output
        return output.permute(0, 3, 1, 2) if output.shape[1:3] == grid else None
    prefix = output.shape[1] - grid[0] * grid[1]
    if output.ndim != 3 or prefix not in (0, backbone.num_prefix_tokens):
        return None
    return output[:, prefix:].transpose(1, 2).reshape(len(output), -1, *grid)


def token_grid(encoder: Encoder, image: Tensor) -> tuple[int, int] | None:
    """Rows and columns of a vision transformer's patches, which it keeps from end to end; None for other networks."""
    patches = getattr(encoder.backbone, "patch_embed", None)
    if not hasattr(encoder.backbone, "num_prefix_tokens") or not hasattr(patches, "dynamic_feat_size"):
        return None
    rows, columns = encoder.backbone.patch_embed.dynamic_feat_size(image.shape[-2:])
    return int(rows), int(columns)


# --- exciting patches ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Patch:
    """A part of an image that excites a unit.

    Attributes:
        image: Number of the image.
        value: The unit's answer.
        box: Top, bottom, left and right, pixels: what the unit can see there.
    """

    image: int
    value: float
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Peaks:
    """The strongest answer of every unit to every image, and where.

    Attributes:
        layer: Of the units.
        value: (N, K) float32.
        place: (N, K) int64: row * w + column.
        grid: Height and width of the maps.
        size: Height and width of the images, pixels.
    """

    layer: str
    value: NDArray[np.float32]
    place: NDArray[np.int64]
    grid: tuple[int, int]
    size: tuple[int, int]

    def choosiest(self, count: int, top: int) -> list[int]:
        """Units whose `top` strongest images stand out most from the others, in standard deviations; those first."""
        strongest = np.sort(self.value, axis=0)[-top:].mean(axis=0)
        score = (strongest - self.value.mean(axis=0)) / (self.value.std(axis=0) + 1e-6)
        return [int(unit) for unit in np.argsort(-score, kind="stable")[:count]]


def peaks(encoder: Encoder, layer: str, batches: Iterable[Tensor]) -> Peaks:
    """Where each unit of a layer answers most, in each of many images of one size.

    Args:
        encoder: Is in eval mode meanwhile.
        layer: A name of `map_layers`.
        batches: Images (N, C, H, W) float in [0, 1].
    """
    values, places, grid, size = [], [], (0, 0), (0, 0)
    for image in batches:
        with torch.no_grad():
            maps = feature_maps(encoder, layer, image)
        value, place = maps.flatten(2).max(dim=2)
        values.append(value.float().cpu().numpy())
        places.append(place.cpu().numpy())
        grid, size = (maps.shape[2], maps.shape[3]), (image.shape[2], image.shape[3])
    return Peaks(layer, np.concatenate(values), np.concatenate(places), grid, size)


def exciting_patches(encoder: Encoder, found: Peaks, unit: int, count: int = 9) -> list[Patch]:
    """The patches that excite a unit most, at most one an image, the strongest first.

    Args:
        encoder: Whose unit it is.
        found: What `peaks` says of the unit's layer.
        unit: Its number.
        count: How many.

    Source: Zeiler and Fergus 2014, section 4; Girshick et al. 2014, section 3.1.
    """
    order = np.argsort(-found.value[:, unit], kind="stable")[:count]
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for place in {int(place) for place in found.place[order, unit]}:
        boxes[place] = receptive_field(encoder, found.layer, divmod(place, found.grid[1]), found.size)
    return [Patch(int(n), float(found.value[n, unit]), boxes[int(found.place[n, unit])]) for n in order]


def receptive_field(
    encoder: Encoder, layer: str, position: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The part of the image that a position of a layer depends on; of a transformer's tokens, their own patch.

    Where the answer has a gradient on images of noise, it depends on the pixel.

    Args:
        encoder: Whose layer it is.
        layer: A name of `map_layers`.
        position: Row and column.
        size: Height and width of the image, pixels.

    Returns:
        Top, bottom, left and right, pixels.
    """
    row, column = position
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(4, encoder.config.channels, *size, generator=generator).to(encoder.mean.device)
    if token_grid(encoder, noise) is not None:
        height, width = encoder.backbone.patch_embed.patch_size
        return (row * height, (row + 1) * height, column * width, (column + 1) * width)
    noise.requires_grad_()
    answer = feature_maps(encoder, layer, noise)[:, :, row, column].sum()
    (slope,) = torch.autograd.grad(answer, noise)
    seen = (slope != 0).any(dim=0).any(dim=0).cpu().numpy()
    if not seen.any():
        return (0, size[0], 0, size[1])
    down, across = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return (int(down[0]), int(down[-1]) + 1, int(across[0]), int(across[-1]) + 1)
