"""The literature's linear evaluation: a linear layer trained by SGD on crops and flips, behind a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ssl_toolkit.augment import Views, pretext_views
from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Encode, Features, check_labelled, evaluating
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.optim import OptimizerConfig, build_optimizer, scaled_lr, schedule_factor
from ssl_toolkit.progress import progress_bar
from ssl_toolkit.randomness import seed_device


def sgd_probe(
    encode: Encode,
    train: ImageSet,
    test: Features,
    *,
    size: int,
    load_size: int,
    epochs: int = 100,
    batch_size: int = 256,
    lr: float = 0.1,
    schedule: Literal["cosine", "step"] = "cosine",
    seed: int = 0,
    workers: int = 0,
    max_bad_rate: float = 0.01,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Accuracy of a linear layer that is trained as papers train it, to be put beside theirs.

    The encoder is frozen and in eval mode: neither weights nor the statistics of batch norms move. Every image is
    encoded anew at each epoch, as a random resized crop that is flipped half of the time. Features are not
    standardised. Nothing is chosen, and the test set is read once, behind the last epoch.

    Args:
        encode: Images in [0, 1], (N, C, H, W), to features (N, D); on `device`.
        train: Labelled images.
        test: Labelled features, (M, D), of classes that `train` knows, by the same `encode`, of central crops.
        size: Side of the crops, pixels.
        load_size: Short side to which images are resized when read, pixels.
        epochs: Passes over the images, at least 1.
        batch_size: Images a step; all of them if there are fewer. What is left of an epoch is left out.
        lr: Learning rate for a batch of 256; for others in proportion.
        schedule: Its course: ``cosine`` to zero, or ``step``, a tenth from 60 % and again from 80 % of training on.
        seed: Decides order, crops and the layer's first weights.
        workers: Processes that read images.
        max_bad_rate: Share of images that may be unreadable, in [0, 1].
        device: Where to compute.
        progress: Shows a progress bar.

    Returns:
        What `accuracies` says of the test set, such as `top1` in [0, 1]; and the `epochs`, `batch_size` and `lr` (as
        scaled to the batch) that it was trained with.

    Raises:
        UsageError: A label is missing, a class is in `test` only, or a number is out of range.

    Source: Chen et al. 2020 (SimCLR), appendix B.6: crops, flips, SGD without regularisation, 0.1 for a batch of 256;
        Zbontar et al. 2021 (Barlow Twins), appendix A: 100 epochs with a cosine. He et al. 2020 (MoCo), section 4.1:
        100 epochs, lr 30, divided by ten at epochs 60 and 80 (``schedule="step"``).
    """
    from pytorch_lightning.utilities.seed import isolate_rng  # half of the time that importing the scores would take

    if epochs < 1 or not lr > 0:
        raise UsageError(f"epochs must be at least 1 and the learning rate above 0, got {epochs} and {lr}")
    check_labelled(_labels_of(train, test.x.shape[1]), test)
    classes = np.unique(train.labels)
    bad = BadImages(train, max_rate=max_bad_rate)
    batch_size = min(batch_size, len(train))
    loader = ImageLoader(train, load_size, batch_size=batch_size, shuffle=True, seed=seed, workers=workers, bad=bad)
    optimizer = OptimizerConfig("sgd", lr, weight_decay=0.0, schedule=schedule, warmup=0.0, lr_scaling="linear")
    with isolate_rng(), evaluating(encode), progress_bar(epochs * len(loader), "linear layer", "step", progress) as bar:
        torch.manual_seed(seed)
        head = nn.Linear(test.x.shape[1], len(classes))
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        views = pretext_views(size, channels=train.channels, crop_scale=(0.08, 1.0))
        _train(head.to(device), encode, loader, views, classes, optimizer, epochs, seed, bar.update)
    weight, bias = head.weight.detach().T, head.bias.detach()
    plain = LinearClassifier(weight, bias, torch.zeros_like(weight[:, 0]), torch.ones_like(weight[:, 0]), classes)
    rate = scaled_lr(optimizer, batch_size)
    return {**plain.accuracies(test), "epochs": epochs, "batch_size": batch_size, "lr": rate}


def _train(
    head: nn.Linear,
    encode: Encode,
    loader: ImageLoader,
    views: Views,
    classes: NDArray[np.int64],
    optimizer: OptimizerConfig,
    epochs: int,
    seed: int,
    done: Callable[[], object],
) -> None:
    """Train `head` on crops by cross-entropy; `done` is called behind each step."""
    device, steps = head.weight.device, epochs * len(loader)
    update = build_optimizer(head, optimizer, loader.batch_size)
    peak = scaled_lr(optimizer, loader.batch_size)
    for step, batch in enumerate(batch for _ in range(epochs) for batch in loader):
        seed_device(seed, step, rank=0)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            (image,) = views(batch.image.to(device, non_blocking=True), batch.box)
            features = encode(image).float()
        target = torch.from_numpy(np.searchsorted(classes, batch.label.numpy())).to(device)
        for group in update.param_groups:
            group["lr"] = peak * schedule_factor(optimizer.schedule, step, steps, optimizer.warmup)
        update.zero_grad()
        torch.autograd.backward(F.cross_entropy(head(features), target))
        update.step()
        done()


def _labels_of(images: ImageSet, width: int) -> Features:
    """The images' labels in the form of features, for `check_labelled`."""
    return Features(np.broadcast_to(np.float32(0), (len(images), width)), images.labels, np.arange(len(images)))
