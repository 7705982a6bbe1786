"""Distillation without labels: the encoder learns to give what a larger or longer-trained one gives."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.augment import Views, pretext_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.distributed import all_mean
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder, names_weights, timm_weights
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig

if TYPE_CHECKING:
    AnyTeacher: TypeAlias = str | Encoder
else:  # of the command line, a word
    AnyTeacher = str


def load_teacher(given: AnyTeacher) -> Encoder:
    """The encoder of a run, of a file, or timm's with its weights; in eval mode and frozen.

    Raises:
        UsageError: If there is none of that name.
    """
    if isinstance(given, Encoder):
        teacher = copy.deepcopy(given)
    elif given and Path(given).exists():
        teacher = load_encoder(given)
    elif given and names_weights(given) and (weights := timm_weights(given)) is not None:
        teacher = Encoder(EncoderConfig(given, image_size=weights.image_size, load_size=weights.image_size))
    else:
        told = f"is {given}" if given else "is missing"
        raise UsageError(
            f"--method.teacher {told}: give a run folder, an encoder file, or a name of timm's weights, such as "
            "vit_small_patch14_dinov2.lvd142m"
        )
    return teacher.requires_grad_(False).eval()


class Distill(Method):
    """Distillation of features: of the whole image, and position by position.

    Student and teacher see the same view, the teacher at its own size. Each of the teacher's features is standardised
    by what it is over some images before the training, so that none counts more for its scale.

    Args:
        encoder: The student: what is trained and kept.
        views: Makes the views of a batch.
        optimizer: How the weights are moved.
        teacher: Run folder, encoder file, or name of timm's weights (in Python also an `Encoder`). It is not saved with
            the run: a run is resumed with the same one.
        local_weight: Weight of the features position by position beside those of the whole image; 0 leaves them out.

    Source: Beyer et al. 2022, Knowledge distillation: a good teacher is patient and consistent (the same view for
        both); Shang et al. 2024, Theia, section 3.2 (standardised features, whole and by patch).
    """

    default_views = staticmethod(pretext_views)

    mean: Tensor
    std: Tensor
    local_mean: Tensor
    local_std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        teacher: AnyTeacher = "",
        local_weight: float = 1.0,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        if not 0 <= local_weight < float("inf"):
            raise UsageError(f"--method.local-weight is {local_weight}: it must be at least 0")
        loaded = load_teacher(teacher)
        if loaded.config.channels != encoder.config.channels:
            raise UsageError(
                f"--method.teacher takes images of {loaded.config.channels} channels, the encoder of "
                f"{encoder.config.channels}: they must see the same"
            )
        self._teacher = [loaded]  # no submodule: what never changes is not saved with every checkpoint
        self.local_weight = local_weight
        self.head = nn.Linear(encoder.feature_dim, loaded.feature_dim)
        widths = {"": loaded.feature_dim}
        if local_weight:
            widths["local_"] = loaded.width_and_stride()[0]
            self.local_head = nn.Conv2d(encoder.width_and_stride()[0], widths["local_"], 1)
        for name, width in widths.items():
            self.register_buffer(f"{name}mean", torch.zeros(width))
            self.register_buffer(f"{name}std", torch.ones(width))

    @property
    def teacher(self) -> Encoder:
        """The teacher, where this module is and in its precision."""
        teacher = self._teacher[0]
        if (teacher.mean.device, teacher.mean.dtype) != (self.mean.device, self.mean.dtype):
            teacher.to(self.mean.device, self.mean.dtype)
        return teacher

    def compile_encoder(self, **options: Any) -> None:
        """Compile what is asked of the encoder."""
        if self.local_weight:
            both = torch.compile(self.encoder.features_and_map, **options)
            self.encoder.features_and_map = both  # type: ignore[method-assign]
        else:
            super().compile_encoder(**options)

    @torch.no_grad()
    def prepare(self, views: Iterator[list[Tensor]]) -> None:
        """Measure mean and standard deviation of each of the teacher's features."""
        names = ("", "local_")[: 1 + bool(self.local_weight)]
        sums = {name: torch.zeros(2, len(getattr(self, f"{name}mean")), dtype=torch.float64) for name in names}
        counts = dict.fromkeys(names, 0)
        for view in (view for each in views for view in each):  # maps of all images at once would not fit in memory
            for name, x in zip(names, self._outputs(self.teacher, self._at_its_size(view)), strict=True):
                rows = x.transpose(0, 1).flatten(1).cpu().double()  # (D, all positions)
                sums[name] += torch.stack([rows.sum(1), rows.square().sum(1)])
                counts[name] += rows.shape[1]
        for name, n in counts.items():
            mean, square = sums[name] / n
            std = ((square - mean.square()).clamp_min(0) * (n / (n - 1))).sqrt()
            getattr(self, f"{name}mean").copy_(mean)
            getattr(self, f"{name}std").copy_(std.maximum(0.1 * std.mean()))  # what hardly moved here may move later

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Squared distance of what the heads make of the student's features to the teacher's standardised ones."""
        whole, local = (torch.stack(each).mean() for each in zip(*map(self._distances, views), strict=True))
        return {"loss": whole + self.local_weight * local, "explained": 1 - whole.detach()}

    def _distances(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared distance of the features of the whole image, and of those by position; 0 where left out."""
        with torch.no_grad():
            taught = self._outputs(self.teacher, self._at_its_size(view))
        learned = self._outputs(self.encoder, view)
        target = (taught[0] - self.mean) / self.std
        whole = all_mean(F.mse_loss(self.head(learned[0]).to(target.dtype), target))
        if not self.local_weight:
            return whole, torch.zeros_like(whole)
        target = (taught[1] - self.local_mean[:, None, None]) / self.local_std[:, None, None]
        found = self.local_head(learned[1]).to(target.dtype)
        found = F.interpolate(found, target.shape[-2:], mode="bilinear", antialias=True)
        return whole, all_mean(F.mse_loss(found, target))

    def _outputs(self, encoder: Encoder, view: Tensor) -> list[Tensor]:
        """Features (N, D) and, where they are compared, feature map (N, D, h, w)."""
        return list(encoder.features_and_map(view)) if self.local_weight else [encoder(view)]

    def _at_its_size(self, view: Tensor) -> Tensor:
        size = self._teacher[0].config.image_size
        if view.shape[-2:] == (size, size):
            return view
        return F.interpolate(view, (size, size), mode="bicubic", antialias=True).clamp(0, 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which teacher it was."""
        checkpoint["teacher"] = self._teacher[0].sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another teacher.

        Raises:
            ToolkitError: If it is another one.
        """
        if checkpoint["teacher"] != self._teacher[0].sha256:
            raise ToolkitError("--method.teacher is not the one that this run began with: give that one to go on")
