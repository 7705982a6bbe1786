"""What fine-tuning keeps: an encoder and a linear layer that knows the names of its classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import five_crop

from ssl_toolkit.augment import eval_view
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, check_weights
from ssl_toolkit.encoders.config import config_of
from ssl_toolkit.encoders.weights_file import load_weights, plain_state, save_weights
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.features.extraction import Features, evaluating, extract
from ssl_toolkit.eval.scores.metrics import accuracies, calibration_error, rank_of

FORMAT = "ssl-toolkit-classifier-1"
BACKBONE = "encoder.backbone."  # what the names of its weights begin with


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
    return save_weights(plain_state(classifier), described, path, FORMAT, "FineTuning")


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
    backbone = {name: tensor for name, tensor in weights.items() if name.startswith(BACKBONE)}
    check_weights(encoder, {name.removeprefix(BACKBONE): tensor for name, tensor in backbone.items()}, str(file))
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        raise ToolkitError(f"{file}: the weights are not those of a classifier: {error}") from error
    return classifier.eval()


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
