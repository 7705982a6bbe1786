"""Fine-tuning: encoder and linear classifier trained together on labels, and what is kept of it, a `Classifier`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchvision.transforms.v2.functional import five_crop

from ssl_toolkit.augment import CutMix, Mixup, Views, eval_view, finetune_views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, check_weights
from ssl_toolkit.encoders.config import config_of
from ssl_toolkit.encoders.weights_file import load_weights, plain_state, save_weights
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.features.extraction import Features, evaluating, extract
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.metrics import accuracies, calibration_error, rank_of
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig

FORMAT = "ssl-toolkit-classifier-1"
_BACKBONE = "encoder.backbone."


class Classifier(nn.Module):
    """An encoder and a linear layer on its features.

    Args:
        encoder: Images in [0, 1] to features (N, D).
        head: Features to logits (N, K).
        classes: The K names of the classes, in the order of the logits.

    Examples:
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> classifier = Classifier(encoder, nn.Linear(encoder.feature_dim, 2), ["cat", "dog"]).eval()
        >>> classifier.probabilities(torch.rand(3, 3, 40, 32)).shape
        torch.Size([3, 2])
    """

    def __init__(self, encoder: Encoder, head: nn.Linear, classes: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.head, self.classes = encoder, head, list(classes)

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8, uint16 or float in [0, 1], to logits (N, K)."""
        logits: Tensor = self.head(self.encoder(image))
        return logits

    def probabilities(self, image: Tensor, augment: bool = False) -> Tensor:
        """Probabilities of the classes, (N, K), of images as they are read.

        Args:
            image: uint8, uint16 or float in [0, 1], (N, C, H, W) of any size.
            augment: Test-time augmentation: the mean over the centre, the four corners and their mirror images. Where
                the encoder sees the whole image, and crops would not differ, over the image and its mirror image.

        Source: Krizhevsky et al. 2012, section 4.1.
        """
        views = ten_crop(image, self.encoder) if augment else [self.encoder.eval_view()(image)]
        return torch.stack([self(view).float().softmax(dim=1) for view in views]).mean(dim=0)


def ten_crop(image: Tensor, encoder: Encoder) -> list[Tensor]:
    """Views for test-time augmentation.

    Args:
        image: uint8, uint16 or float in [0, 1], (N, C, H, W).
        encoder: What sees them.

    Returns:
        Ten views (N, C, size, size) in [0, 1], cut from the central square of `load_size`: four corners, the centre,
        and all of them mirrored. Two where the square is not larger than a view.
    """
    size, load_size = encoder.config.image_size, encoder.config.load_size
    square = eval_view(load_size)(image)
    crops = five_crop(square, [size, size]) if load_size > size else [square]
    return [*crops, *(crop.flip(-1) for crop in crops)]


def save_classifier(classifier: Classifier, path: str | Path) -> str:
    """Write a classifier to one safetensors file, its classes in the metadata.

    Returns:
        The sha256 of all that is in it.

    Raises:
        ToolkitError: If a weight is not finite.
    """
    described = {"encoder": asdict(classifier.encoder.config), "classes": classifier.classes}
    return save_weights(plain_state(classifier), described, path, FORMAT, FineTuning.__name__)


def load_classifier(path: str | Path) -> Classifier:
    """Rebuild a classifier from the run folder of ``ssl-toolkit finetune`` or its file, in eval mode.

    Raises:
        UsageError: If there is no such file.
        ToolkitError: If it is no classifier, or damaged.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> classifier = Classifier(encoder, nn.Linear(encoder.feature_dim, 2), ["cat", "dog"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_classifier(classifier, f"{folder}/classifier.safetensors")
        ...     load_classifier(f"{folder}/classifier.safetensors").classes
        ['cat', 'dog']
    """
    file = Path(path) / "classifier.safetensors" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UsageError(f"no classifier at {path}: give a folder that ssl-toolkit finetune made, or a file in one")
    weights, described = load_weights(file, FORMAT, "a classifier")
    encoder = Encoder(config_of(described["encoder"]))
    classifier = Classifier(encoder, nn.Linear(encoder.feature_dim, len(described["classes"])), described["classes"])
    backbone = {name: tensor for name, tensor in weights.items() if name.startswith(_BACKBONE)}
    check_weights(encoder, {name.removeprefix(_BACKBONE): tensor for name, tensor in backbone.items()}, str(file))
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        raise ToolkitError(f"{file}: the weights are not those of a classifier: {error}") from error
    return classifier.eval()


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
        return {_BACKBONE + name: self.layer_decay ** (top - depth) for name, depth in depths.items()}

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


def classify(
    classifier: Classifier,
    loader: Iterable[Batch],
    augment: bool = False,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Features:
    """Probabilities of the classes, ``x`` (N, K), for all images of a loader; see `Classifier.probabilities`."""
    with evaluating(classifier):
        return extract(partial(classifier.probabilities, augment=augment), loader, device=device, progress=progress)


def score(found: Features, classes: int) -> dict[str, Any]:
    """Accuracies of what `classify` gave (see `accuracies`), and its `calibration_error`, ``ece``."""
    scores = accuracies(rank_of(found.x, found.label), found.x.argmax(axis=1), found.label, classes)
    return scores | {"ece": calibration_error(found.x, found.label)}


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
