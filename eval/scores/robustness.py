"""Robustness: a linear probe that has learnt from clean features is asked about images that are spoilt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ssl_toolkit.augment import EvalView
from ssl_toolkit.augment.base import in_unit_range
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.eval.features.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ssl_toolkit.eval.features.extraction import Encode, evaluating
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.metrics import interval
from ssl_toolkit.progress import progress_bar

IMAGES = 2000
"""Test images that are spoilt, at most: each is encoded sixty times."""


@torch.no_grad()
def corruptions(
    encode: Encode,
    probe: LinearClassifier,
    batches: Iterable[Batch],
    *,
    count: int,
    view: EvalView | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Accuracy of a linear probe on test images that are spoilt in twelve ways, each in five strengths.

    Args:
        encode: Images in [0, 1], (N, C, H, W), to features (N, D); on `device`.
        probe: Fitted on clean features of `encode`.
        batches: Labelled test images of one channel or three, of classes that `probe` knows.
        count: How many there are, for the progress bar.
        view: See `extract`; what it gives is spoilt.
        device: Where to compute.
        progress: Shows a progress bar.

    Returns:
        ``top1``, in [0, 1], the mean over corruptions and strengths, with the ``interval`` of as many answers as there
        are images; ``clean``, of the same images as they are; ``by_corruption`` and ``by_severity``, means; ``images``.
    """
    right = {(name, severity): 0 for name in CORRUPTIONS for severity in SEVERITIES}
    clean = images = 0
    with evaluating(encode), progress_bar(count, "spoiling", "image", progress) as bar:
        for number, batch in enumerate(batches):
            image = (view or in_unit_range)(batch.image.to(device))
            target = np.searchsorted(probe.classes, batch.label.numpy())
            clean += _right(encode, probe, image, target)
            for name, severity in right:
                right[name, severity] += _right(encode, probe, corrupt(image, name, severity, number), target)
            images += len(target)
            bar.update(len(target))
    share = {key: value / images for key, value in right.items()}
    top1 = float(np.mean(list(share.values())))
    return {
        "top1": top1,
        "interval": interval(top1, images),
        "clean": clean / images,
        "by_corruption": {name: float(np.mean([share[name, s] for s in SEVERITIES])) for name in CORRUPTIONS},
        "by_severity": [float(np.mean([share[name, s] for name in CORRUPTIONS])) for s in SEVERITIES],
        "images": images,
    }


def _right(encode: Encode, probe: LinearClassifier, image: torch.Tensor, target: np.ndarray[Any, Any]) -> int:
    features = encode(image).float().cpu().numpy()
    return int((probe.logits(features).argmax(axis=1) == target).sum())
