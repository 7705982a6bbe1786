"""Video colorization: where in the past frames of a clip does the colour of each place of a grey frame come from?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views
from ssl_toolkit.colours import lab_to_rgb, rgb_to_lab
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Colours, Encoder
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.method import TaskPicture
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.clusters import k_means, nearest_cluster
from ssl_toolkit.pretext.map_task import MapTask

GREY = 2.0  # root mean square distance of ab from their mean: below, there is no colour to carry
ABSENT = math.log(1e-6)  # log-probability of a colour that no reference has, which costs this and teaches nothing


def point(reference: Tensor, target: Tensor, temperature: float) -> Tensor:
    """From each place of the target to all places of the references: log-softmax over inner products.

    Args:
        reference: Embeddings f_i of all places of all references, (N, I, D).
        target: Embeddings f_j of the places of the target, (N, J, D).
        temperature: The lower, the fewer places are pointed to.

    Returns:
        log A, (N, J, I), at least float32; each row of A sums to 1.

    Source: Vondrick et al. 2018, eq. 2.
    """
    wide = torch.promote_types(target.dtype, torch.float32)
    with torch.autocast(target.device.type, enabled=False):
        scores = target.to(wide) @ reference.to(wide).transpose(1, 2)
        return (scores / temperature).log_softmax(dim=2)


def copy_labels(pointers: Tensor, labels: Tensor) -> Tensor:
    """What the places of the target get from where they point to.

    Args:
        pointers: log A of `point`, (N, J, I).
        labels: Of the places of the references, (N, I, K): one-hot colours, or whatever else can be mixed.

    Returns:
        (N, J, K).

    Source: Vondrick et al. 2018, eq. 1.
    """
    with torch.autocast(labels.device.type, enabled=False):
        return pointers.exp() @ labels


def log_share(pointers: Tensor, lent: Tensor, answer: Tensor) -> Tensor:
    """How likely the right colours are lent: the logarithm of `copy_labels`, exact where they are very unlikely.

    Args:
        pointers: log A of `point`, (N, J, I).
        lent: Colours of the places of the references, (N, I) int64.
        answer: Colours of the places of the target, (N, J) int64.

    Returns:
        (N, J); `ABSENT`, without a gradient, where no reference has the colour.

    Source: Vondrick et al. 2018, eq. 3.
    """
    right = lent[:, None] == answer[..., None]  # (N, J, I)
    present = right.any(dim=2)
    found = pointers.masked_fill(~right & present[..., None], -torch.inf).logsumexp(dim=2)
    return torch.where(present, found, ABSENT)


def colours_at(frame: Tensor, size: Sequence[int]) -> Tensor:
    """Mean ab of the area of each position of a feature map: RGB (N, 3, H, W) in [0, 1] to (N, h, w, 2)."""
    return F.adaptive_avg_pool2d(rgb_to_lab(frame)[:, 1:], (size[0], size[1])).permute(0, 2, 3, 1)


def grid_of_colours(count: int) -> Tensor:
    """Centroids (count, 2) on a square grid of ab from -30 to 30, before any colour was measured."""
    side = int(np.ceil(np.sqrt(count)))
    along = torch.linspace(-30, 30, side)
    return torch.cartesian_prod(along, along)[:count].clone()


class VideoColorization(MapTask):
    """Tracking emerges by colorizing videos: the last frame of a clip is grey, the others lend it their colours.

    Args:
        encoder: What is trained and kept; it sees the lightness of all frames.
        views: Makes one view of a clip, the same of all its frames.
        optimizer: How the weights are moved.
        clusters: Colours that are told apart; their centroids are measured before training and kept with the
            checkpoint.
        embedding_dim: Dimension in which places are compared.
        temperature: Of the pointers; the paper has 1 for training.

    Source: Vondrick et al. 2018.
    """

    embedding: ClassVar[str | None] = "embed"
    encoder_colours: ClassVar[Colours] = "lightness"
    takes_clips: ClassVar[bool] = True
    min_frames: ClassVar[int] = 2  # one that lends its colours to another
    centroid: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        clusters: int = 16,
        embedding_dim: int = 64,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(embedding_dim=embedding_dim, temperature=temperature)
        if not 2 <= clusters <= 256:
            raise UsageError(f"--method.clusters is {clusters}: it must be from 2 to 256")
        self.temperature = temperature
        self.embed = nn.Linear(self.width, embedding_dim)  # a 1x1 convolution, on tokens
        self.register_buffer("centroid", grid_of_colours(clusters))

    @torch.no_grad()
    def prepare(self, views: Iterator[list[Tensor]]) -> None:
        """Measure the colours: k-means over ab at the resolution of the feature map.

        Raises:
            UsageError: There is no colour in them, or there are fewer of them than clusters.
        """
        found = []
        for clip in views:
            frame = self._frames(clip[0]).flatten(0, 1)
            height, width = (max(1, side // self.stride) for side in frame.shape[-2:])
            found.append(colours_at(frame, (height, width)).flatten(0, 2).cpu())
        ab = torch.cat(found)
        if (ab - ab.mean(dim=0)).square().sum(dim=1).mean().sqrt() < GREY:
            raise UsageError("video_colorization learns from colours, and these clips have none: give colour video")
        if len(ab) < len(self.centroid):
            raise UsageError(
                f"--method.clusters is {len(self.centroid)}, but only {len(ab)} places were measured: "
                "give more clips, larger views or fewer clusters"
            )
        self.centroid.copy_(torch.from_numpy(k_means(ab.numpy(), len(self.centroid), self.seed)))

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Embed the grey frames, point from the last one into the others, copy their colours."""
        pointers, colour = self._pointers(self._frames(views[0]))  # (N, J, I), (N, T, h, w)
        predicted = self._carried(pointers.detach(), colour)
        before, answer = colour[:, -2], colour[:, -1]
        return {
            "loss": -log_share(pointers, colour[:, :-1].flatten(1), answer.flatten(1)).mean(),
            "accuracy": (predicted.argmax(dim=1) == answer).float().mean(),
            "copy_accuracy": (before == answer).float().mean(),
        }

    def task_picture(self, views: list[Tensor]) -> TaskPicture:
        """The last reference, the grey target, the colours that it was lent, and its own."""
        frame = self._frames(views[0])
        pointers, colour = self._pointers(frame)
        predicted = self._carried(pointers, colour)
        before, answer = colour[:, -2], colour[:, -1]
        right, copied = (
            (100 * (said == answer).float().mean(dim=(1, 2))).tolist() for said in (predicted.argmax(dim=1), before)
        )
        ab = torch.einsum("nkhw, kc -> nchw", predicted, self.centroid)  # the mean colour
        ab = F.interpolate(ab, frame.shape[-2:], mode="bilinear", align_corners=False)
        lightness = rgb_to_lab(frame[:, -1])[:, :1]
        return TaskPicture(
            "The last frame of a clip is shown grey, and takes the colours of the places in the frames before it that "
            f"it points to. Of its places, {np.mean(right):.0f} % get the right one of {len(self.centroid)} colours; "
            f"where the frame before is copied as it is, {np.mean(copied):.0f} %.",
            {
                "before": frame[:, -2],
                "target": lab_to_rgb(torch.cat([lightness, torch.zeros_like(ab)], dim=1)),
                "carried": lab_to_rgb(torch.cat([lightness, ab], dim=1)),
                "truth": frame[:, -1],
            },
            {
                "before": [f"copied: {one:.0f} % right" for one in copied],
                "carried": [f"{one:.0f} % right" for one in right],
            },
        )

    def _frames(self, clip: Tensor) -> Tensor:
        """A clip (N, T C, H, W) as frames (N, T, C, H, W)."""
        frame = clip.reshape(len(clip), -1, self.encoder.config.channels, *clip.shape[2:])
        if frame.shape[1] < self.min_frames:
            raise UsageError(
                f"video_colorization takes clips of at least {self.min_frames} frames, "
                f"not {'single images' if frame.shape[1] == 1 else frame.shape[1]}: give --data clips:PATH:4"
            )
        return frame

    def _pointers(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, T, C, H, W) to log A of `point` (N, J, I), and to colours (N, T, h, w) of all places."""
        n, count = frame.shape[:2]
        features = self.encoder.feature_map(frame.flatten(0, 1))  # (N T, C, h, w)
        h, w = features.shape[-2:]
        colour = nearest_cluster(colours_at(frame.flatten(0, 1), (h, w)), self.centroid).view(n, count, h, w)
        f = self.embed(features.flatten(2).transpose(1, 2)).view(n, count, h * w, -1)
        return point(f[:, :-1].flatten(1, 2), f[:, -1], self.temperature), colour

    def _carried(self, pointers: Tensor, colour: Tensor) -> Tensor:
        """Shares of the target's colours, (N, K, h, w)."""
        lent = F.one_hot(colour[:, :-1].flatten(1), len(self.centroid)).to(pointers.dtype)  # (N, I, K)
        return copy_labels(pointers, lent).transpose(1, 2).reshape(len(lent), -1, *colour.shape[2:])
