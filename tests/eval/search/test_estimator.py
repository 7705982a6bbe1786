"""The encoder as a scikit-learn estimator: its features and neighbours, and a place in pipelines and clones."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from torch.utils.data import TensorDataset

from ssl_toolkit import ImageEmbedder
from ssl_toolkit.encoders import Encoder, save_encoder
from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.search.index import EmbeddingIndex

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 3, 16, 16), np.uint8)


@pytest.fixture
def file(tmp_path: Path, small_encoder: Encoder) -> Path:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


def features(encoder: Encoder, images: NDArray[np.uint8] = IMAGES) -> NDArray[np.float32]:
    with torch.no_grad():
        return encoder.eval()(torch.from_numpy(images).float() / 255).numpy()


def test_features_are_the_encoders_however_images_are_given(file: Path, small_encoder: Encoder) -> None:
    embedder = ImageEmbedder(file, batch_size=7).fit(IMAGES)
    expected = features(small_encoder)
    np.testing.assert_allclose(embedder.transform(IMAGES), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.transform(IMAGES.transpose(0, 2, 3, 1)), expected, atol=1e-5)
    np.testing.assert_array_equal(ImageEmbedder(file, batch_size=7).fit_transform(IMAGES), embedder.transform(IMAGES))
    paths = []
    for number in (4, 2):
        paths.append(file.parent / "images" / f"{number}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(IMAGES[number].transpose(1, 2, 0)).save(paths[-1])
    for images in (paths, np.array(paths), np.array(paths).astype(str), tuple(map(Image.open, paths))):
        np.testing.assert_allclose(embedder.transform(images), expected[[4, 2]], atol=1e-5)
    for images in (
        torch.from_numpy(IMAGES),
        torch.from_numpy(IMAGES / 255).float(),
        TensorDataset(torch.tensor(IMAGES)),
    ):
        np.testing.assert_allclose(embedder.transform(images), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.transform(str(file.parent / "images")), expected[[2, 4]], atol=1e-5)


@pytest.mark.parametrize(("metric", "theirs"), [("cosine", "cosine"), ("l2", "euclidean")])
def test_neighbours_are_scikit_learns(file: Path, small_encoder: Encoder, metric: str, theirs: str) -> None:
    x, queries = features(small_encoder), IMAGES[::4] // 2
    ours = ImageEmbedder(file, metric=metric, n_neighbors=4).fit(IMAGES)
    other = NearestNeighbors(n_neighbors=4, metric=theirs, algorithm="brute").fit(x.astype(np.float64))
    for images, k in ((queries, None), (queries, 30), (None, None), (None, 29)):
        asked = None if images is None else features(small_encoder, images).astype(np.float64)
        distance, position = ours.kneighbors(images, k)
        expected_distance, expected = other.kneighbors(asked, k)
        np.testing.assert_array_equal(position, expected)
        np.testing.assert_allclose(distance, expected_distance, atol=1e-5)
    np.testing.assert_array_equal(ours.kneighbors(queries, return_distance=False), ours.kneighbors(queries)[1])


def test_in_a_pipeline_and_as_a_clone(file: Path) -> None:
    label = np.arange(30) % 2
    images = IMAGES // 2 + 100 * label[:, None, None, None].astype(np.uint8)
    model = make_pipeline(ImageEmbedder(file), LogisticRegression(max_iter=1000))
    assert model.fit(images, label).score(images, label) == 1
    model.set_params(imageembedder__n_neighbors=3, imageembedder__metric="l2")
    copy = clone(model).named_steps["imageembedder"]
    assert copy.get_params() == {
        "encoder": file, "metric": "l2", "n_neighbors": 3, "factory": None, "batch_size": 256, "workers": 0,
        "device": "cpu",
    }  # fmt: skip
    assert not hasattr(copy, "index_")
    assert copy.fit(images).kneighbors(images)[1].shape == (30, 3)
    assert copy.get_feature_names_out().tolist()[:2] == ["imageembedder0", "imageembedder1"]


def test_an_encoder_that_is_loaded_already(small_encoder: Encoder, tmp_path: Path) -> None:
    embedder = ImageEmbedder(small_encoder.train()).fit(IMAGES)
    assert small_encoder.training  # the caller's own is left alone
    np.testing.assert_allclose(embedder.transform(IMAGES), features(small_encoder), atol=1e-5)
    index = embedder.index_
    index.save(tmp_path / "index")
    assert EmbeddingIndex.load(tmp_path / "index").encoder_sha256 == small_encoder.sha256
    file = index.encoder_file
    del embedder
    assert file.is_file()
    del index
    assert not file.parent.exists()
    label = np.arange(30) % 2
    images = IMAGES // 2 + 100 * label[:, None, None, None].astype(np.uint8)
    model = make_pipeline(ImageEmbedder(small_encoder), LogisticRegression(max_iter=1000))
    assert cross_val_score(model, images, label, cv=3).tolist() == [1, 1, 1]


def test_cross_validation_takes_images_in_every_form(file: Path, small_encoder: Encoder) -> None:
    label = np.arange(30) % 2
    images = IMAGES // 2 + 100 * label[:, None, None, None].astype(np.uint8)
    opened = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
    paths = [file.parent / f"{number}.png" for number in range(30)]
    for image, path in zip(opened, paths, strict=True):
        image.save(path)
    given = (images, torch.from_numpy(images), paths, np.array(paths), np.array(paths).astype(str), opened)
    for number, x in enumerate(given):
        encoder = small_encoder if number % 2 else file
        model = make_pipeline(ImageEmbedder(encoder), LogisticRegression(max_iter=1000))
        assert cross_val_score(model, x, label, cv=3, error_score="raise").tolist() == [1, 1, 1]
        travelled = pickle.loads(pickle.dumps(model))  # as to the processes of n_jobs
        assert travelled.fit(x, label).score(x, label) == 1


def test_the_index_can_be_saved_and_knows_labels(file: Path, tmp_path: Path) -> None:
    embedder = ImageEmbedder(file).fit("shapes:test:20")
    embedder.index_.save(tmp_path / "index")
    hits = EmbeddingIndex.load(tmp_path / "index").search(embedder.transform(np.array(["shapes:test:20#3"])), 1)
    assert (hits.path, hits.label) == ([["shapes:test:20#3"]], [[embedder.index_.label(3)]])
    assert isinstance(hits.label[0][0], str)


def test_what_does_not_fit_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        ImageEmbedder(file).transform(IMAGES)
    embedder = ImageEmbedder(file).fit(IMAGES)
    with pytest.raises(UsageError, match=r"data <numpy.ndarray \(30, 3, 16, 16\) float64>: float values from 0 to 510"):
        embedder.transform(IMAGES * 2.0)
    with pytest.raises(UsageError, match=r"data: item 0 of <list of 1> cannot be read as an image"):
        embedder.transform([3])
    for images, k, most in ((IMAGES, 31, 30), (None, 30, 29), (None, 0, 29)):
        with pytest.raises(UsageError, match=f"n_neighbors is {k}: it must be from 1 to {most}"):
            embedder.kneighbors(images, k)
    (tmp_path / "broken.png").write_text("no image")
    for images in ([tmp_path / "broken.png"], str(tmp_path)):
        with pytest.raises(ToolkitError, match=r"broken\.png"):
            embedder.transform(images)
