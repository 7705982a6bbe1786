"""The pictures of an encoder by name: each is drawn of every kind of encoder that it suits."""

from __future__ import annotations

import re

import pytest

from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures.class_plots import EXPLANATIONS
from ssl_toolkit.eval.pictures.plots import PLOTS
from ssl_toolkit.eval.pictures.subject import Subject
from ssl_toolkit.tasks.plotting import plot
from tests.conftest import pixels


@pytest.mark.parametrize("name", [name for name in PLOTS if name not in ("umap", "tsne", "attention")])
def test_every_picture_of_a_convolutional_network(convnet: Subject, quick: None, name: str) -> None:
    if name in EXPLANATIONS:
        pytest.importorskip("captum")
    PLOTS[name].suits(convnet.encoder)
    assert pixels(PLOTS[name].draw(convnet)).std() > 10


@pytest.mark.parametrize("name", ["filters", "features", "patches", "smoothgrad", "attention", "ascent"])
def test_pictures_of_a_vision_transformer(vit: Subject, quick: None, name: str) -> None:
    if name in EXPLANATIONS:
        pytest.importorskip("captum")
    PLOTS[name].suits(vit.encoder)
    assert pixels(PLOTS[name].draw(vit)).std() > 10


def test_pictures_that_do_not_suit_an_encoder(convnet: Subject, vit: Subject) -> None:
    with pytest.raises(UsageError, match="convnet has no attention maps"):
        PLOTS["attention"].suits(convnet.encoder)
    with pytest.raises(UsageError, match=r"test_vit has no ReLU.*smoothgrad"):
        PLOTS["guided"].suits(vit.encoder)


def test_every_picture_is_named_in_the_commands_help() -> None:
    assert set(PLOTS) <= set(re.findall(r"\w+", plot.__doc__ or ""))
