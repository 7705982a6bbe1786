"""Jigsaw: in which order have the tiles of this image been put?"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_toolkit.augment import Views, jigsaw_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method, TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.tiles import cut_tiles, encode_apart, standardized, tile_and_gap

LARGEST_GRID = 3  # 16 tiles have more orders than can be listed


@functools.cache
def permutation_set(tiles: int, count: int) -> NDArray[np.int64]:
    """Orders of the tiles that differ from one another in as many places as possible.

    Greedy, from the identity on: always the order whose nearest chosen one is farthest by Hamming distance; of equals
    the one whose distances to all chosen ones sum to most, of these the first in lexicographic order. Nothing is drawn.

    Args:
        tiles: Number of tiles, at most 9.
        count: Number of orders, at most ``tiles!``.

    Returns:
        (count, tiles), each row the tiles' numbers in their new order.

    Source: Noroozi & Favaro 2016, algorithm 1, which takes the sum of the distances alone.

    Examples:
        >>> permutation_set(4, 3).tolist()
        [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]]
    """
    orders = np.array(list(itertools.permutations(range(tiles))), dtype=np.uint8).T.copy()  # (tiles, tiles!)
    nearest = np.full(orders.shape[1], tiles, dtype=np.uint8)
    total = np.zeros(orders.shape[1], dtype=np.int32)
    chosen = [0]
    while len(chosen) < count:
        distance = (orders != orders[:, chosen[-1], None]).sum(axis=0, dtype=np.uint8)
        np.minimum(nearest, distance, out=nearest)
        total += distance
        chosen.append(int(np.where(nearest == nearest.max(), total, -1).argmax()))
    found: NDArray[np.int64] = orders.T[chosen].astype(np.int64)
    found.setflags(write=False)  # it is cached
    return found


def reorder(tiles: Tensor, permutations: Tensor) -> tuple[Tensor, Tensor]:
    """Put the tiles of each image into an order drawn from a set.

    Args:
        tiles: (N, G, ...).
        permutations: (P, G) int64.

    Returns:
        Reordered tiles (N, G, ...); which order each image got, (N,) int64.
    """
    n = len(tiles)
    which = torch.randint(len(permutations), (n,), device=tiles.device)
    return tiles[torch.arange(n, device=tiles.device)[:, None], permutations[which]], which


class Jigsaw(Method):
    """Unsupervised learning of visual representations by solving jigsaw puzzles.

    Args:
        encoder: What is trained and kept; it sees the tiles apart.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        permutations: Orders that are told apart, 2 to 2,000; the paper has 100 to 1,000. They are kept with the
            checkpoint.
        grid: Tiles a side, 2 or 3.
        hidden_dim: Width of the head.

    Source: Noroozi & Favaro 2016. Chance is 1 / permutations.
    """

    default_views = staticmethod(jigsaw_views)
    permutation: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        permutations: int = 100,
        grid: int = 3,
        hidden_dim: int = 1024,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(hidden_dim=hidden_dim)
        if not 2 <= grid <= LARGEST_GRID:
            raise UsageError(f"--method.grid is {grid}: it must be 2 or 3")
        most = min(2000, math.factorial(grid * grid))
        if not 2 <= permutations <= most:
            raise UsageError(f"--method.permutations is {permutations}: with a grid of {grid} it is from 2 to {most}")
        self.grid = grid
        self.register_buffer("permutation", torch.from_numpy(permutation_set(grid * grid, permutations).copy()))
        self.head = mlp(grid * grid * encoder.feature_dim, hidden_dim, permutations)

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(permutations)``."""
        return math.log(len(self.permutation))

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Cut the image up, put the tiles into another order, encode each, name the order."""
        tiles, which = reorder(self._tiles(views[0]), self.permutation)
        logits = self._logits(tiles)
        return {"loss": F.cross_entropy(logits, which), "accuracy": (logits.argmax(1) == which).float().mean()}

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """The tiles in their new order, and put back by the head's answer."""
        tiles, which = reorder(self._tiles(views[0]), self.permutation)
        share, said = self._logits(tiles).softmax(dim=1).max(dim=1)
        back = self.permutation[said].argsort(dim=1)
        solved = tiles[torch.arange(len(tiles), device=tiles.device)[:, None], back]
        right = (said == which).tolist()
        words = [f"{'right' if r else 'wrong'}, {100 * p:.0f} %" for r, p in zip(right, share.tolist(), strict=True)]
        return TaskPicture(
            f"Views, their tiles in one of {len(self.permutation)} orders, and put back as the network says; "
            f"{100 * sum(right) / len(right):.0f} % of these are right.",
            {"view": views[0], "given": self._assembled(tiles), "solved": self._assembled(solved)},
            {"solved": words},
        )

    def _tiles(self, image: Tensor) -> Tensor:
        return cut_tiles(image, self.grid, *tile_and_gap(min(image.shape[-2:]), self.grid, 64 / 75, 1 / 75))

    def _logits(self, tiles: Tensor) -> Tensor:
        """Tiles (N, G, C, h, w) in [0, 1] to logits (N, permutations)."""
        # In the units of images: the encoder's own normalisation then leaves mean 0 and standard deviation 1.
        seen = standardized(tiles) * self.encoder.std + self.encoder.mean
        logits: Tensor = self.head(encode_apart(self.encoder, seen).flatten(1))
        return logits

    def _assembled(self, tiles: Tensor) -> Tensor:
        """Tiles (N, G, C, h, w) as images, a white line between them."""
        n, _, c, h, w = tiles.shape
        lined = F.pad(tiles, (1, 1, 1, 1), value=1.0).view(n, self.grid, self.grid, c, h + 2, w + 2)
        return lined.permute(0, 3, 1, 4, 2, 5).reshape(n, c, self.grid * (h + 2), self.grid * (w + 2))
