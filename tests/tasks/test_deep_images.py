"""Thirteen channels of 16 bits, from the file to the page: trained on, embedded, indexed, searched, shown."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.callbacks import LambdaCallback

from ssl_toolkit import Run, draw_views, duplicates, embed, evaluate, index, open_images, pretrain, search
from ssl_toolkit.encoders import Encoder, EncoderConfig, load_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.explore.explorer import Explorer
from ssl_toolkit.eval.features.sample import draw_from
from ssl_toolkit.eval.search.index import EmbeddingIndex
from ssl_toolkit.tasks.settings import Weights

COUNT, CHANNELS, SIDE = 64, 13, 24


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered shapes in thirteen bands of 12 bits, most of them dark, with a hot pixel; labelled."""
    shapes = open_images(f"shapes:train:{COUNT}")
    weights = np.random.default_rng(0).dirichlet((1, 1, 1), CHANNELS)
    scenes = [np.tensordot(weights, shapes.load(row, SIDE) / 255, 1) for row in range(COUNT)]
    images = (300 + 3000 * np.stack(scenes)).round().astype(np.uint16)
    images[0, 0, 0, 0] = 65535
    file = tmp_path_factory.mktemp("bands") / "bands.npz"
    np.savez(file, images=images, labels=shapes.labels)
    return file


def trained(data: Any, out: Path, **given: Any) -> Run:
    options = {"encoder": "convnet", "epochs": 2, "batch_size": 16, "workers": 0, "progress": False, "doctor": False}
    options |= {"logger": "csv", "accelerator": "cpu", "range": "auto"}
    return pretrain("simclr", data, out, **{**options, **given})


@pytest.fixture(scope="module")
def run(bands: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(bands, tmp_path_factory.mktemp("run") / "a")


def test_the_range_is_measured_once_and_kept(run: Run, bands: Path) -> None:
    low, high = load_encoder(run).config.range
    assert 299 <= low <= 330
    assert 3000 < high <= 3300  # without the hot pixel
    assert run.config["range"] == [low, high]
    images = open_images(bands, range=(low, high))
    assert images.dtype == np.uint16
    assert images.load(0, None).max() == 65535


@pytest.mark.parametrize("given", [{"cache": "none"}, {"cache": "none", "workers": 2}, {"cache": "device"}])
def test_neither_workers_nor_caches_change_the_weights(run: Run, bands: Path, tmp_path: Path, given: Any) -> None:
    assert trained(bands, tmp_path / "b", **given).encoder.sha256 == run.encoder.sha256


def test_a_run_that_was_stopped_resumes_to_the_same_weights(run: Run, bands: Path, tmp_path: Path) -> None:
    def stop(trainer: Any, *_: Any) -> None:
        if trainer.global_step == 6:
            raise ValueError("stopped")

    out, often = tmp_path / "a", {"checkpoint_every": 1}
    with pytest.raises(ValueError, match="stopped"):
        trained(bands, out, callbacks=[LambdaCallback(on_train_batch_end=stop)], **often)
    assert load_encoder(out).sha256 != run.encoder.sha256
    assert trained(bands, out, resume=True, callbacks=[LambdaCallback()], **often).encoder.sha256 == run.encoder.sha256


def test_from_features_to_pictures(run: Run, bands: Path, tmp_path: Path) -> None:
    features = np.load(embed(run, bands, tmp_path / "features", progress=False) / "features.npy")
    assert features.shape == (COUNT, run.encoder.feature_dim)
    seen = torch.from_numpy(open_images(bands, range=run.encoder.config.range).load(5, None))[None]
    with torch.no_grad():
        torch.testing.assert_close(run.encoder(seen)[0], torch.from_numpy(features[5].copy()), atol=1e-5, rtol=1e-4)
    folder = index(run, bands, tmp_path / "index", progress=False)
    found = search(folder, [f"{bands}#3"], k=3, grid=tmp_path / "grid.png", picture_channels="5,3,1")
    assert len(found[0]["hits"]) == 3
    shutil.copy(bands, copy := tmp_path / "copy.npz")
    for query in (f"{copy}#3", str(copy)):  # one image, a set of them
        (first, *_) = [one for one in search(folder, query, k=1, progress=False) if one["query"].endswith("#3")]
        assert first["hits"][0]["score"] > 0.99999
        assert first["hits"][0]["path"] == f"{bands}#3"
    search(folder, [f"{bands}#3"], k=3, grid=tmp_path / "plain.png")
    chosen, plain = (np.asarray(Image.open(tmp_path / name)) for name in ("grid.png", "plain.png"))
    assert len(np.unique(chosen)) > 100
    assert (chosen != plain).any()
    assert not duplicates(folder, threshold=0.99, progress=False)
    explorer = Explorer.of(EmbeddingIndex.load(folder), points=20, picture_channels=(8,))
    thumbnail = np.asarray(Image.open(io.BytesIO(explorer.thumbnail(3, SIDE))))
    assert np.ptp(thumbnail, axis=2).max() == 0  # grey
    assert np.ptp(thumbnail) > 200
    assert evaluate(run, bands, protocol="knn", baselines=False, progress=False)["encoder"]["sha256"]


def test_the_report_shows_them(run: Run, tmp_path: Path) -> None:
    page = run.report(images=32, picture_channels=(5, 3, 1), progress=False, out=str(tmp_path / "a.html")).read_text()
    for title in ("What the method sees", "Nearest neighbours", "Map of the features", "What the layers respond to"):
        assert f"{title}</h2>" in page
    assert draw_from(run.config["data"], run.encoder).range == run.encoder.config.range
    with pytest.raises(UsageError, match="--picture-channels is 5,3"):
        run.report(picture_channels="5,3")


def test_views_are_drawn(bands: Path, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(draw_views(bands, "simclr", tmp_path / "v.png", picture_channels="13")))[..., :3]
    assert (picture.std(axis=(0, 1)) > 30).all()


def test_one_value_of_sixteen_bits_reaches_the_encoder(run: Run, bands: Path) -> None:
    images = open_images(bands, range=run.encoder.config.range)
    image = torch.from_numpy(images.load(5, None))[None]
    other = image.clone()
    other[0, 0, 3, 3] = int(image[0, 0, 3, 3]) ^ 1
    one, two = (run.encoder.normalize(each) for each in (image, other))
    assert (one != two).sum() == 1


def test_contradictions_are_one_line(run: Run, bands: Path, tmp_path: Path) -> None:
    low, high = run.encoder.config.range
    other = Weights(run, range="0,4095")
    stated = rf"--range 0,4095: the encoder .* was trained with the range {low:g},{high:g}: leave --range out"
    with pytest.raises(UsageError, match=stated):
        embed(other, bands, tmp_path / "features")
    with pytest.raises(UsageError, match=stated):
        trained(bands, tmp_path / "b", encoder=str(run), range="0,4095")
    assert embed(Weights(run, range=(low, high)), bands, tmp_path / "same", progress=False)
    with pytest.raises(UsageError, match=r"--range 0,9: the images of 'shapes:train' have 8 bits"):
        trained("shapes:train", tmp_path / "b", range="0,9")
    with pytest.raises(UsageError, match="was opened with the range None"):
        embed(run, open_images(bands), tmp_path / "features")


def test_going_on_from_a_run_keeps_its_range(run: Run, bands: Path, tmp_path: Path) -> None:
    for number, stated in enumerate((None, "auto")):
        again = trained(bands, tmp_path / str(number), encoder=str(run), range=stated, epochs=1)
        assert again.encoder.config.range == run.encoder.config.range


def test_a_range_is_part_of_what_an_encoder_is() -> None:
    plain = Encoder(EncoderConfig("convnet", image_size=16, load_size=16))
    stated = Encoder(EncoderConfig("convnet", image_size=16, load_size=16, range=(0.0, 4095.0)))
    stated.backbone.load_state_dict(plain.backbone.state_dict())
    assert stated.sha256 != plain.sha256
    with pytest.raises(UsageError, match="range"):
        Encoder(EncoderConfig("convnet", range=(3.0, 3.0)))


def test_weights_from_elsewhere_take_a_range(bands: Path, tmp_path: Path) -> None:
    grey = np.load(bands)["images"][:8, :3]
    np.save(tmp_path / "grey.npy", grey)
    torch.save(Encoder(EncoderConfig("convnet")).backbone.state_dict(), tmp_path / "weights.pth")
    weights = Weights(str(tmp_path / "weights.pth"), architecture="convnet", image_size=24, range="auto")
    folder = index(weights, tmp_path / "grey.npy", tmp_path / "index", progress=False)
    kept = load_encoder(EmbeddingIndex.load(folder).encoder_file).config.range
    assert kept is not None
    assert kept[1] < 4000
    assert json.loads(json.dumps(search(folder, [f"{tmp_path}/grey.npy#1"], k=2)))[0]["hits"]
