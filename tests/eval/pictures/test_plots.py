"""The pictures of an encoder by name: each is drawn of every kind of encoder that it suits, and shows what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.sample import Sample
from ssl_toolkit.eval.pictures import ascent, plots
from ssl_toolkit.eval.pictures.plots import PLOTS, Probe, Subject
from tests.conftest import pixels


def subject_of(name: str, size: int, count: int = 60, **options: Any) -> Subject:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name, image_size=size, load_size=size))
    sample = Sample.take(encoder, open_images(f"shapes:test:{count}"), count)
    return Subject(encoder, sample, **{"images": 3, **options})


@pytest.fixture(scope="module")
def convnet() -> Subject:
    return subject_of("convnet", 32)


@pytest.fixture(scope="module")
def vit() -> Subject:
    return subject_of("test_vit", 64, 30)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "ascend", lambda *args, **options: ascent.ascend(*args, steps=2, **options))
    monkeypatch.setattr(
        plots.explain, "shapley",
        lambda *args, grid, shapley=plots.explain.shapley: shapley(*args, grid=(2, 2), samples=1),
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in PLOTS if name not in ("umap", "tsne", "attention")])
def test_every_picture_of_a_convolutional_network(convnet: Subject, quick: None, name: str) -> None:
    if name in plots.EXPLANATIONS:
        pytest.importorskip("captum")
    PLOTS[name].suits(convnet.encoder)
    assert pixels(PLOTS[name].draw(convnet)).std() > 10


@pytest.mark.parametrize("name", ["filters", "features", "patches", "smoothgrad", "attention", "ascent"])
def test_pictures_of_a_vision_transformer(vit: Subject, quick: None, name: str) -> None:
    if name in plots.EXPLANATIONS:
        pytest.importorskip("captum")
    PLOTS[name].suits(vit.encoder)
    assert pixels(PLOTS[name].draw(vit)).std() > 10


def test_pictures_that_do_not_suit_an_encoder(convnet: Subject, vit: Subject) -> None:
    with pytest.raises(UsageError, match="convnet has no attention maps"):
        PLOTS["attention"].suits(convnet.encoder)
    with pytest.raises(UsageError, match=r"test_vit has no ReLU.*smoothgrad"):
        PLOTS["guided"].suits(vit.encoder)


def test_probe_is_scored_on_images_that_it_has_not_seen(convnet: Subject) -> None:
    probe = convnet.probe
    assert convnet.probe is probe
    assert probe.train + len(probe.held_out) == 60
    held = convnet.data.features.select(probe.held_out)
    assert probe.top1 == (probe.softmax.ranks(held) == 0).mean()
    shown = plots.draw_explanation("saliency", convnet)
    labels = [convnet.data.labels[row] for row in probe.held_out]
    assert {text.removeprefix("is ") for text in texts(shown) if text.startswith("is ")} <= set(labels)
    assert any(f"names {100 * probe.top1:.0f} % of {len(held)} others right" in text for text in texts(shown))


def test_explained_class_is_the_one_that_the_probe_names_or_the_one_asked_for(convnet: Subject) -> None:
    pytest.importorskip("captum")
    probe, classes = convnet.probe, convnet.data.images.classes
    assert classes is not None
    named = probe.softmax.logits(convnet.data.features.x[probe.held_out]).argmax(1)
    said = [text.split(":")[0] for text in texts(plots.draw_explanation("saliency", convnet)) if text.endswith("%")]
    assert len(said) == 3
    assert set(said) <= {classes[probe.softmax.classes[column]] for column in named}
    asked = Subject(convnet.encoder, convnet.data, 3, target="lamp")
    said = [text.split(":")[0] for text in texts(plots.draw_explanation("saliency", asked)) if text.endswith("%")]
    assert said == ["lamp"] * 3


def test_images_without_labels_cannot_be_explained(small_encoder: Encoder, noise_images: Any) -> None:
    images = noise_images(12)
    sample = Sample.take(small_encoder, images, 12)
    for classes, label in ((None, sample.features.label), (["a"], np.zeros(12, np.int64))):
        sample.images.classes = classes
        sample.features.label[:] = label
        with pytest.raises(UsageError, match="no labels of two classes"):
            Probe.fit(sample)


def test_filters_are_on_one_scale(convnet: Subject) -> None:
    tiles = [np.asarray(tile.get_array()).astype(float) for tile in plots.draw_filters(convnet).axes[0].images]
    assert len(tiles) == 32
    spread = [np.abs(tile - 127.5).max() for tile in tiles]
    assert max(spread) == pytest.approx(127.5, abs=1)
    assert min(spread) < 120


def test_feature_maps_share_a_units_scale(convnet: Subject) -> None:
    wanted = Subject(convnet.encoder, convnet.data, 3, layer="features.2", unit=7)
    figure = plots.draw_feature_maps(wanted)
    assert "unit 7" in texts(figure)
    maps = figure.axes[0].images[1:6:2]
    with torch.no_grad():
        image = convnet.data.views(convnet.encoder, wanted.rows)
        convnet.encoder.eval()
        expected = convnet.encoder.backbone.features[:3](convnet.encoder.normalize(image))[:, 7].numpy()
    for drawn, one in zip(maps, expected, strict=True):
        assert np.asarray(drawn.get_array()) == pytest.approx(one, abs=1e-4)
        assert drawn.get_clim() == pytest.approx((expected.min(), expected.max()), abs=1e-4)


def test_patches_that_the_edge_cuts_keep_their_scale() -> None:
    image = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)
    corner = plots._cut(image, (0, 2, 5, 8), (4, 4), plots.LIGHT)
    assert (corner[:, 2:, :3] == image[:, :2, 5:]).all()
    assert corner.shape == (3, 4, 4)
    beyond = np.concatenate([corner[:, :2].ravel(), corner[:, :, 3].ravel()])
    assert (beyond == beyond[0]).all()
    assert (plots._cut(image, (1, 5, 2, 6), (4, 4), plots.LIGHT) == image[:, 1:5, 2:6]).all()


def test_ascent_of_a_unit_needs_no_images(convnet: Subject, quick: None) -> None:
    alone = Subject(convnet.encoder, None, 2)
    words = texts(plots.draw_ascent(alone))
    assert [word.split(":")[0] for word in words[:2]] == ["unit 0", "unit 1"]
    of_class = Subject(convnet.encoder, convnet.data, 2, target="lamp")
    assert texts(plots.draw_ascent(of_class))[0].startswith("lamp: ")
