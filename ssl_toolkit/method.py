"""`Method`: the base class of everything that trains an encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from ssl_toolkit.augment import Views
from ssl_toolkit.data.batch import Batch, as_batch
from ssl_toolkit.encoders import Colours, Encoder, Pool, TextTower
from ssl_toolkit.gradients import ClipMode, clip_gradients
from ssl_toolkit.logs import is_logged
from ssl_toolkit.optim import (
    OptimizerConfig,
    OptimizerFunction,
    batches_of_step,
    build_optimizer,
    own_optimizer,
    schedule_weight_decay,
    scheduled,
)
from ssl_toolkit.own_trainer import OwnTrainer
from ssl_toolkit.randomness import seed_device
from ssl_toolkit.sharding import shard


@dataclass(frozen=True)
class TaskPicture:
    """What a method's own task looks like.

    Attributes:
        about: What is seen, in a sentence.
        rows: Name of a row to images (n, C, h, w) in [0, 1].
        captions: Name of a row to what stands below each of its images; rows may be left out.
    """

    about: str
    rows: dict[str, Tensor]
    captions: dict[str, list[str]] = field(default_factory=dict)


class Method(pl.LightningModule, ABC):
    """An encoder, the views it is shown and the loss that trains it.

    A method implements `step`, names its recipe in `default_views`, and overrides `after_update` if it has state that
    follows the weights.

    Args:
        encoder: What is trained and kept.
        views: Makes the views of a batch, on the device.
        optimizer: How the weights are moved.

    Raises:
        UsageError: If the encoder sees what the method's task asks for.

    Examples:
        >>> from torch.nn import functional as F
        >>> from ssl_toolkit.augment import simclr_views
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> class Agree(Method):
        ...     default_views = staticmethod(simclr_views)
        ...     def step(self, views, batch):
        ...         z1, z2 = (F.normalize(self.encoder(view), dim=1) for view in views)
        ...         return {"loss": (z1 - z2).square().sum(1).mean() + (z1 @ z1.T).square().mean()}
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> method = Agree(encoder, Agree.default_views(32))
        >>> method(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 256])
    """

    # What takes the place of an encoder's batch norms if the user does not say; batch norm stays.
    encoder_norm: ClassVar[Literal["batch", "layer"]] = "batch"
    # What the encoder must see of RGB images; "rgb": the method does not mind.
    encoder_colours: ClassVar[Colours] = "rgb"
    # What the features of a ViT with a class token are if the user does not say: that, or the mean of its patches.
    encoder_pool: ClassVar[Pool] = "own"
    # The encoder if the user names none.
    default_encoder: ClassVar[str] = "resnet18"
    # Whether views may be clips: their frames one after another along the channels.
    takes_clips: ClassVar[bool] = False
    # The submodule whose output the loss compares, such as ``projector``: a collapse is seen there first. Its rows are
    # those of the first view, then those of the others. None: there are the encoder's features and no more.
    embedding: ClassVar[str | None] = None

    def __init__(self, encoder: Encoder, views: Views, optimizer: OptimizerConfig | None = None) -> None:
        super().__init__()
        encoder.config.require_colours(self.encoder_colours, type(self).__name__)
        # Views are checked where they are made, and a task may leave [0, 1]: noise, tiles normalised one by one.
        encoder.checks_range = False
        self.encoder, self.views, self.optimizer_config = encoder, views, optimizer or OptimizerConfig()
        # Set by whoever trains the method, before training starts: `fit`, or `OwnTrainer`, which then says so.
        self.seed, self.total_steps, self.images_per_step, self.own_trainer = 0, 0, 256, False
        # Of a run that was extended: how many steps it had at first.
        self.first_steps: int | None = None
        # Makes the optimiser in the place of the configured one, whose schedule stays.
        self.optimizer_function: OptimizerFunction | None = None
        # `accumulate` is for methods that optimise by hand (`automatic_optimization` is false); for others, Lightning
        # gathers gradients.
        self.accumulate, self.clip_gradient = 1, 0.0
        self.clip_mode: ClipMode = "norm"

    @staticmethod
    @abstractmethod
    def default_views(size: int, *, channels: int = 3) -> Views:
        """The method's recipe of views for images of `size` pixels; its keyword arguments are the user's options."""

    @abstractmethod
    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """The method itself: views, each (N, C, H, W) in [0, 1], to ``{"loss": scalar, ...}``; all of it is logged."""

    def task_picture(self, views: list[Tensor]) -> TaskPicture | None:
        """The task's own picture for the report, on the views of a few images; None for methods that have none."""
        return None

    def prepare(self, views: Iterator[list[Tensor]]) -> None:
        """Runs once before training, not when a run is resumed: the place to measure the data.

        Args:
            views: Those of some images, batch by batch, as `step` gets them; what is measured goes into buffers.
        """

    def compile_encoder(self, **options: Any) -> None:
        """Let ``torch.compile``, with `options`, make what the method asks of its encoder faster."""
        self.encoder.compile(**options)

    @property
    def kept_encoder(self) -> Encoder:
        """The encoder that is scored and saved: the trained one, unless the method's paper keeps its teacher."""
        return self.encoder

    @property
    def kept_text(self) -> TextTower | None:
        """What is saved beside the encoder by methods that learn from captions; None for all others."""
        return None

    @property
    def progress(self) -> float:
        """Share of the run's optimiser steps that are done, in [0, 1]; 0 outside training."""
        return min(1.0, self.global_step / max(1, self.total_steps))

    @property
    def first_progress(self) -> float:
        """`progress` of the run as it was before it was extended, for what warms up: it does so once."""
        return min(1.0, self.global_step / max(1, self.first_steps or self.total_steps))

    def lr_scales(self) -> dict[str, float]:
        """Share of the learning rate that a parameter takes, by its name; 1 for those that are not named."""
        return {}

    def constant_lr(self) -> set[str]:
        """Names of parameters that keep the peak learning rate, whatever the schedule; none."""
        return set()

    def chance_loss(self, batch_size: int) -> float | None:
        """The loss of a guess among the candidates of `batch_size` images; None where there is no such figure."""
        return None

    def before_update(self) -> None:
        """Runs before each optimiser step, when gradients are clipped: the place to leave some of them out."""

    def after_update(self) -> None:
        """Runs once after each optimiser step, and not in steps that only accumulate: the place of momentum updates."""

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to features (N, D): all that evaluation ever sees."""
        features: Tensor = self.kept_encoder(image)
        return features

    def configure_model(self) -> None:
        """Share the weights out over the processes, where Lightning's `ModelParallelStrategy` has a mesh of them."""
        if self.device_mesh is not None:
            shard(self, self.device_mesh["data_parallel"])

    def configure_callbacks(self) -> list[pl.Callback]:
        """What stands in for `fit` under a Trainer of the user's own."""
        return [OwnTrainer()]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Whatever a loader gives as a `Batch` (see `as_batch`)."""
        return as_batch(batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Views, then `step`; the draws of both depend on (seed, step, rank) alone."""
        seed_device(self.seed, self.trainer.fit_loop.epoch_loop.total_batch_idx, self.global_rank)
        with torch.no_grad():
            views = self.views(batch.image, batch.box)
        scalars = self.step(views, batch)
        if is_logged(self.trainer):  # even a metric that nobody reads is work for the host in every step
            self.log_dict({k: v.detach() for k, v in scalars.items()}, batch_size=len(batch.image), sync_dist=True)
        usual = self.trainer.accumulate_grad_batches  # what Lightning divides by, in the last step of an epoch too
        size = batches_of_step(batch_idx, self.trainer.num_training_batches, usual)
        return scalars["loss"] if size == usual else scalars["loss"] * (usual / size)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """What a Trainer of the user's own clips, then what `fit` was asked to, then `before_update`."""
        super().configure_gradient_clipping(*args, **kwargs)
        clip_gradients(self.parameters(), self.clip_gradient, self.clip_mode)
        self.before_update()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The weight decay of this step, Lightning's step, then `after_update`."""
        schedule_weight_decay(self.trainer.optimizers[0], self.optimizer_config, self.progress)
        super().optimizer_step(*args, **kwargs)
        self.after_update()

    def configure_optimizers(self) -> Any:
        """The configured optimiser or the user's own, with the configured schedule."""
        config, parts = self.optimizer_config, (self.lr_scales(), self.constant_lr())
        if self.optimizer_function is None:
            optimizer = build_optimizer(self, config, self.images_per_step, *parts)
        else:
            optimizer = own_optimizer(self, self.optimizer_function, *parts)
        return scheduled(optimizer, config, self.total_steps, self.first_steps)
