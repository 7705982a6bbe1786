"""PixPro: positions of two views that lie at the same place of the image agree, once like ones have been mixed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, pixpro_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.momentum import momentum_copy, momentum_update
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive, require_share, require_two_views
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.schedules import cosine


@torch.no_grad()
def near(place: Tensor, other: Tensor, height: int, width: int, distance: float = 0.7) -> Tensor:
    """Which positions of two views' feature maps lie close together in the image.

    Args:
        place: Where the first view lies, (N, 4): y and x of its first corner, y and x of the opposite one, pixels (see
            `View.place`).
        other: Where the second view lies, (N, 4).
        height: Of both feature maps, T = height x width positions, row by row.
        width: Of both feature maps.
        distance: At which the centres of two positions are close, as a share of the larger one's diagonal.

    Returns:
        (N, T, T) bool.

    Source: Xie et al. 2021 (PixPro), equation 1.

    Examples:
        >>> whole, half = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[0.0, 0.0, 4.0, 8.0]])
        >>> near(whole, half, 2, 1, distance=0.3).tolist()  # centres at 2 and 6, at 1 and 3; a diagonal is 8.9
        [[[True, True], [False, False]]]
    """
    rows, columns = (torch.arange(side, device=place.device, dtype=place.dtype) + 0.5 for side in (height, width))
    centres, diagonals = [], []
    for top, left, bottom, right in (each.unbind(1) for each in (place, other)):
        y, x = (bottom - top) / height, (right - left) / width  # of a position; x is negative in a flipped view
        across = left[:, None] + x[:, None] * columns  # (N, width)
        down = top[:, None] + y[:, None] * rows  # (N, height)
        centres.append(torch.stack([down.repeat_interleave(width, 1), across.repeat(1, height)], dim=-1))  # (N, T, 2)
        diagonals.append(torch.hypot(y, x))
    apart: Tensor = (centres[0][:, :, None] - centres[1][:, None]).norm(dim=-1)  # (N, T, T)
    return apart < distance * torch.maximum(*diagonals)[:, None, None]


class PixPro(Method):
    """Propagate yourself: pixel-to-propagation consistency, for detection and segmentation, without negatives.

    Args:
        encoder: What is trained and kept; of its weights those in front of the feature map are trained.
        views: Makes two views of a batch, and says where they lie.
        optimizer: How the weights are moved.
        distance: At which two positions are pulled together, as a share of the larger one's diagonal, above 0.
        sharpness: Power of the similarity by which positions of one view are mixed, above 0 (gamma in the paper).
        momentum: Share of the momentum network that stays at the first step, in [0, 1]; it rises to 1.
        hidden_dim: Width of the projection head's hidden layer (4,096 for ImageNet).
        projection_dim: Dimension in which positions are compared.

    Source: Xie et al. 2021, equations 1 to 4; the authors' ``PixPro.py``, whose value is normalised. Views are BYOL's.
    """

    default_views = staticmethod(pixpro_views)

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        distance: float = 0.7,
        sharpness: float = 2.0,
        momentum: float = 0.99,
        hidden_dim: int = 1024,
        projection_dim: int = 256,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(distance=distance, sharpness=sharpness, hidden_dim=hidden_dim, projection_dim=projection_dim)
        require_share(momentum=momentum)
        require_two_views(len(views))
        if not views.places:
            raise UsageError("pixpro must know where its views lie: take its own recipe, or Views(..., places=True)")
        encoder.freeze_behind_map()
        self.projector = mlp(encoder.width_and_stride()[0], hidden_dim, projection_dim)
        self.value = nn.Linear(projection_dim, projection_dim)
        self.key_encoder, self.key_projector = momentum_copy(encoder), momentum_copy(self.projector)
        self.distance, self.sharpness, self.momentum = distance, sharpness, momentum

    def compile_encoder(self, **options: Any) -> None:
        """Compile the way to the feature map, which is all that is asked of the encoder."""
        self.encoder.feature_map = torch.compile(self.encoder.feature_map, **options)  # type: ignore[method-assign]

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Each view's positions, like ones mixed, against those of the other view that lie near."""
        image1, image2, place1, place2 = views
        with torch.no_grad():
            k1, k2 = (self._positions(self.key_encoder, self.key_projector, image)[0] for image in (image1, image2))
        (x1, shape), (x2, _) = (self._positions(self.encoder, self.projector, image) for image in (image1, image2))
        close = near(place1, place2, *shape, self.distance)
        loss = losses.pixpro(self._propagated(x1), k2, close) + losses.pixpro(self._propagated(x2), k1, close.mT)
        return {"loss": loss, "near": close.any(2).float().mean()}

    @staticmethod
    def _positions(encoder: Encoder, projector: nn.Module, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Projections (N, T, D) of the feature map, and its height and width."""
        feature_map = encoder.feature_map(image)
        n, _, height, width = feature_map.shape
        tokens = feature_map.flatten(2).mT.flatten(0, 1)  # (N T, C): a batch norm over all positions
        return projector(tokens).view(n, height * width, -1), (height, width)

    def _propagated(self, x: Tensor) -> Tensor:
        """Positions (N, T, D), each the sum of the values of all positions of its view, by their likeness to it."""
        unit = F.normalize(x, dim=-1)
        alike = (unit @ unit.mT).clamp_min(0) ** self.sharpness  # (N, T, T)
        return alike @ F.normalize(self.value(x), dim=-1)

    def after_update(self) -> None:
        """The momentum network follows, ever more slowly."""
        momentum = cosine(self.momentum, 1.0, self.progress)
        momentum_update(self.key_encoder, self.encoder, momentum)
        momentum_update(self.key_projector, self.projector, momentum)
