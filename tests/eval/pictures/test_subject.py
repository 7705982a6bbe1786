"""What pictures are of: a probe that is honest, and images that have labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.sample import Sample
from ssl_toolkit.eval.pictures.class_plots import draw_explanation
from ssl_toolkit.eval.pictures.subject import Probe, Subject
from tests.eval.pictures.conftest import texts


def test_probe_is_scored_on_images_that_it_has_not_seen(convnet: Subject) -> None:
    probe = convnet.probe
    assert convnet.probe is probe
    assert probe.train + len(probe.held_out) == 60
    held = convnet.data.features.select(probe.held_out)
    assert probe.top1 == (probe.softmax.ranks(held) == 0).mean()
    shown = draw_explanation("saliency", convnet)
    labels = [convnet.data.labels[row] for row in probe.held_out]
    assert {text.removeprefix("is ") for text in texts(shown) if text.startswith("is ")} <= set(labels)
    assert any(f"names {100 * probe.top1:.0f} % of {len(held)} others right" in text for text in texts(shown))


def test_images_without_labels_cannot_be_explained(small_encoder: Encoder, noise_images: Any) -> None:
    images = noise_images(12)
    sample = Sample.take(small_encoder, images, 12)
    for classes, label in ((None, sample.features.label), (["a"], np.zeros(12, np.int64))):
        sample.images.classes = classes
        sample.features.label[:] = label
        with pytest.raises(UsageError, match="no labels of two classes"):
            Probe.fit(sample)
