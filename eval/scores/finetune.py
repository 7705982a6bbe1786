"""Fine-tuning: encoder and linear classifier trained together on labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ssl_toolkit.augment import CutMix, Mixup, Views, finetune_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.encoders.weights_file import plain_state
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.scores.classifier import BACKBONE, Classifier, classify
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.metrics import rank_of
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig


def layer_depths(encoder: Encoder) -> dict[str, int]:
    """How deep each weight of the backbone lies, by its name: 0 for the stem, one more for each block.

    Raises:
        UsageError: If timm does not know the depths of this architecture.

    Source: Bao et al. 2022 (BEiT), ``optim_factory.py``; the grouping is timm's.
    """
    matcher = getattr(encoder.backbone, "group_matcher", None)
    if matcher is None:
        raise UsageError(f"timm knows no layers of {encoder.config.name}: give --layer-decay 1")
    depths: dict[str, int] = group_parameters(encoder.backbone, matcher(coarse=False), reverse=True)
    return depths


class FineTuning(Method):
    """Supervised training of an encoder with a linear classifier.

    Args:
        encoder: Where it starts.
        views: Makes one view of a batch.
        optimizer: How the weights are moved.
        classes: Names of the classes.
        layer_decay: Factor of the learning rate from one layer to the one below it, in (0, 1]; the classifier has
            the full rate, the stem the smallest.
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1).
        mixup: Parameter alpha of mixup; 0 for none.
        cutmix: Parameter alpha of CutMix; 0 for none. With both, each batch draws one of them.
        ema: Decay of the moving average of the weights, which is what is scored and kept; 0 for none. It warms up, as
            ``1 - step^(-2/3)``, so that short runs forget where they began.
        probe: What the classifier starts as: a linear probe of the encoder's features, which its first steps then
            need not tear apart. None: at random.

    Source: the recipe of He et al. 2022 (MAE), appendix A.1, table 9; layer decay: Bao et al. 2022 (BEiT); label
        smoothing: Szegedy et al. 2016; starting as a probe: Kumar et al. 2022 (LP-FT).
    """

    default_views = staticmethod(finetune_views)

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        *,
        classes: Sequence[str],
        layer_decay: float = 0.75,
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        ema: float = 0.99,
        probe: LinearClassifier | None = None,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        self.classes, self.layer_decay, self.label_smoothing = list(classes), layer_decay, label_smoothing
        if probe is None:
            self.head = nn.Linear(encoder.feature_dim, len(classes))
            nn.init.trunc_normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)
        else:
            self.head = probe.layer(len(classes))
        self.mixes = nn.ModuleList(
            kind(len(classes), alpha) for kind, alpha in ((Mixup, mixup), (CutMix, cutmix)) if alpha
        )
        self.average = ModelEmaV3(self._trained(), decay=ema, use_warmup=True).requires_grad_(False) if ema else None

    def _trained(self) -> Classifier:
        """The trained weights as a classifier; nothing is copied."""
        return Classifier(self.encoder, self.head, self.classes)

    @property
    def classifier(self) -> Classifier:
        """What is scored and kept: the moving average, if there is one, or the trained weights."""
        if self.average is None:
            return self._trained()
        averaged: Classifier = self.average.module
        return averaged

    @property
    def kept_encoder(self) -> Encoder:
        """The encoder of what is kept."""
        return self.classifier.encoder

    def lr_scales(self) -> dict[str, float]:
        """``layer_decay`` to the power of the number of layers between a weight and the classifier, that included."""
        if self.layer_decay == 1:
            return {}
        depths = layer_depths(self.encoder)
        top = max(depths.values()) + 1
        return {BACKBONE + name: self.layer_decay ** (top - depth) for name, depth in depths.items()}

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Mix, classify, compare."""
        image, target = views[0], batch.label
        if len(self.mixes):
            image, target = self.mixes[int(torch.randint(len(self.mixes), ()))](image, target)
        logits = self.head(self.encoder(image))  # (N, K)
        loss = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        if target.ndim == 2:
            return {"loss": loss}
        return {"loss": loss, "accuracy": (logits.argmax(1) == target).float().mean()}

    def after_update(self) -> None:
        """The moving average follows."""
        if self.average is not None:
            self.average.update(self._trained(), step=self.global_step + 1)  # this one is not counted yet


class BestEpoch(pl.Callback):
    """Scores a `FineTuning` on held-out images after each epoch, keeps the best weights and stops when they are old.

    The best epoch has the highest top-1, of equals the lowest cross-entropy. All of it is saved with checkpoints.

    Args:
        loader: The held-out images.
        patience: Epochs without a better one after which training stops; 0 never stops it.
    """

    def __init__(self, loader: Iterable[Batch], patience: int = 0) -> None:
        self.loader, self.patience = loader, patience
        self.epoch = self.best_epoch = 0  # counted from 1
        self.best = {"val_top1": -1.0, "val_loss": 0.0}
        self.weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that had stopped is not to go on when it is resumed."""
        trainer.should_stop |= self._old()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Score after the last batch: the hook of the epoch's end is left out where a run is resumed in between."""
        if not trainer.is_last_batch:
            return
        assert isinstance(pl_module, FineTuning)
        found = classify(pl_module.classifier, self.loader, device=pl_module.device)
        p = torch.from_numpy(found.x).gather(1, torch.from_numpy(found.label)[:, None])
        self.epoch = trainer.current_epoch + 1
        scores = {
            "val_top1": float((rank_of(found.x, found.label) < 1).mean()),
            "val_loss": float(-p.clamp(min=1e-12).log().mean()),
        }
        for logger in trainer.loggers:
            logger.log_metrics({**scores, "epoch": trainer.current_epoch}, step=trainer.global_step - 1)
        if self._key(scores) > self._key(self.best):
            self.best, self.best_epoch = scores, self.epoch
            self.weights = {name: tensor.clone() for name, tensor in plain_state(pl_module.classifier).items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if the best is old."""
        trainer.should_stop |= self._old()

    def restore(self, method: FineTuning) -> None:
        """Put the best weights in the place of the last ones."""
        method.classifier.load_state_dict(self.weights)

    def _old(self) -> bool:
        return 0 < self.patience <= self.epoch - self.best_epoch

    @staticmethod
    def _key(scores: dict[str, float]) -> tuple[float, float]:
        return scores["val_top1"], -scores["val_loss"]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        names = ("epoch", "best_epoch", "best", "weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        vars(self).update(state_dict)
