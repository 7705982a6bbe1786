"""What speaks for a class: the one that the probe names, or the one that was asked for."""

from __future__ import annotations

import pytest

from ssl_toolkit.eval.pictures.class_plots import draw_explanation
from ssl_toolkit.eval.pictures.subject import Subject
from tests.eval.pictures.conftest import texts


def test_explained_class_is_the_one_that_the_probe_names_or_the_one_asked_for(convnet: Subject) -> None:
    pytest.importorskip("captum")
    probe, classes = convnet.probe, convnet.data.images.classes
    assert classes is not None
    named = probe.softmax.logits(convnet.data.features.x[probe.held_out]).argmax(1)
    said = [text.split(":")[0] for text in texts(draw_explanation("saliency", convnet)) if text.endswith("%")]
    assert len(said) == 3
    assert set(said) <= {classes[probe.softmax.classes[column]] for column in named}
    asked = Subject(convnet.encoder, convnet.data, 3, target="lamp")
    said = [text.split(":")[0] for text in texts(draw_explanation("saliency", asked)) if text.endswith("%")]
    assert said == ["lamp"] * 3
