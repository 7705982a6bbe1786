"""Relative patch: on which of eight sides of one patch does another one lie?"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import Views, pretext_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method, TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.tiles import cut_tiles, encode_apart, tile_and_gap

SIDES = 8
NAMES = ("above left", "above", "above right", "left", "right", "below left", "below", "below right")
GRID = 3
CENTRE = 4  # of the 3 x 3 places, row by row


def patch_and_neighbours(image: Tensor, tile: int, gap: int, count: int) -> tuple[Tensor, Tensor]:
    """The central patch of a 3 x 3 grid, some of its eight neighbours in a random order, and on which sides they lie.

    Args:
        image: (N, C, S, S).
        tile: Side of a patch, pixels.
        gap: Least distance of two patches, pixels.
        count: Number of neighbours K, 1 to 8; no side comes twice.

    Returns:
        Patches (N, 1 + K, C, tile, tile), the central one first; sides (N, K) int64, the places around the centre row
        by row.

    Source: Doersch et al. 2015, section 3.
    """
    tiles = cut_tiles(image, GRID, tile, gap)
    side = torch.rand(len(image), SIDES, device=image.device).argsort(dim=1)[:, :count]
    place = F.pad(side + (side >= CENTRE), (1, 0), value=CENTRE)  # (N, 1 + K)
    return tiles[torch.arange(len(image), device=image.device)[:, None], place], side


def drop_colours(patch: Tensor, mean: Tensor) -> Tensor:
    """Keep one channel of each patch, drawn by itself, and put weak noise in the place of the others.

    A lens bends colours apart, more so far from its axis: from the fringes a network learns where in the photograph a
    patch was, and needs nothing else.

    Args:
        patch: RGB, (N, 3, h, w).
        mean: Of each channel over the data, (1, 3, 1, 1): what the noise lies around. Its standard deviation is a
            hundredth of the kept channel's.

    Source: Doersch et al. 2015, section 3.1.
    """
    channel = torch.randint(3, (len(patch), 1, 1, 1), device=patch.device)
    kept = torch.arange(3, device=patch.device).view(1, 3, 1, 1) == channel
    std = patch.gather(1, channel.expand(-1, 1, *patch.shape[2:])).std(dim=(1, 2, 3), keepdim=True, correction=0)
    return torch.where(kept, patch, mean + std / 100 * torch.randn_like(patch))


def project_colours(patch: Tensor, mean: Tensor) -> Tensor:
    """Take the direction from green to magenta out of the colours, where lenses bend them apart most.

    Args:
        patch: RGB, (N, 3, h, w).
        mean: Of each channel over the data, (1, 3, 1, 1).

    Source: Doersch et al. 2015, section 3.1: ``B = I - a'a / (aa')`` with ``a = [-1, 2, -1]``.
    """
    a = patch.new_tensor([-1.0, 2.0, -1.0])
    b = torch.eye(3, dtype=patch.dtype, device=patch.device) - torch.outer(a, a) / a.dot(a)
    with torch.autocast(patch.device.type, enabled=False):  # rounded, a trace of the direction would stay
        return torch.einsum("dc,nchw->ndhw", b, patch - mean) + mean


class RelativePatch(Method):
    """Unsupervised visual representation learning by context prediction.

    The paper also blurs some patches down to 10 x 10 pixels; small views have about that many.

    Args:
        encoder: What is trained and kept; it sees the patches apart.
        views: Makes one view of a batch, whose sides hold three patches and the gaps between them.
        optimizer: How the weights are moved.
        colour: Against colour fringes: ``drop`` all channels but one, ``project`` green against magenta out, or
            ``keep``. Images with other numbers of channels than 3 are left as they are.
        neighbours: Patches around the central one that are asked for, each by itself, 1 to 8. The paper's pairs are 1;
            with 8, nine encodings make eight pairs, which is far more to learn from at the same cost.
        hidden_dim: Width of the head.

    Source: Doersch et al. 2015. Chance is 12.5 %.
    """

    default_views = staticmethod(pretext_views)

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        colour: Literal["drop", "project", "keep"] = "drop",
        neighbours: int = 8,
        hidden_dim: int = 512,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(hidden_dim=hidden_dim)
        if not 1 <= neighbours <= SIDES:
            raise UsageError(f"--method.neighbours is {neighbours}: it must be from 1 to {SIDES}")
        self.colour = colour if encoder.config.channels == 3 else "keep"
        self.neighbours = neighbours
        self.head = mlp(2 * encoder.feature_dim, hidden_dim, SIDES)

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(8)``: eight sides."""
        return math.log(SIDES)

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Cut out a patch and its neighbours, encode each, name the sides."""
        patches, side = self._patches(views[0])
        logits = self._logits(patches)
        accuracy = (logits.argmax(2) == side).float().mean()
        return {"loss": F.cross_entropy(logits.flatten(0, 1), side.flatten()), "accuracy": accuracy}

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """Two patches as the network sees them, where the second one lies, and where the head puts it."""
        patches, side = self._patches(views[0])
        share, said = self._logits(patches)[:, 0].softmax(dim=1).max(dim=1)
        words = [f"{NAMES[k]}, {100 * p:.0f} %" for k, p in zip(said.tolist(), share.tolist(), strict=True)]
        right = 100 * (said == side[:, 0]).float().mean().item()
        return TaskPicture(
            "Views, their central patch and another one: where it lies, and below it where the network says that it "
            f"does; {right:.0f} % of these are right.",
            {"view": views[0], "centre": patches[:, 0], "where?": patches[:, 1]},
            {"centre": [f"is {NAMES[k]}" for k in side[:, 0].tolist()], "where?": words},
        )

    def _patches(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tile, gap = tile_and_gap(min(image.shape[-2:]), GRID, 2 / 3, 34 / 144)
        patches, side = patch_and_neighbours(image, tile, gap, self.neighbours)
        return self._without_fringes(patches), side

    def _logits(self, patches: Tensor) -> Tensor:
        """Patches (N, 1 + K, C, h, w) to logits (N, K, 8)."""
        code = encode_apart(self.encoder, patches)  # (N, 1 + K, D)
        neighbour = code[:, 1:]
        logits: Tensor = self.head(torch.cat([code[:, :1].expand_as(neighbour), neighbour], dim=2).flatten(0, 1))
        return logits.view(*neighbour.shape[:2], SIDES)

    def _without_fringes(self, patches: Tensor) -> Tensor:
        if self.colour == "keep":
            return patches
        without = drop_colours if self.colour == "drop" else project_colours
        return without(patches.flatten(0, 1), self.encoder.mean).view_as(patches)
