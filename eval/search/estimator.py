"""The encoder and its index as scikit-learn has them: `fit`, `transform`, `kneighbors`."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ssl_toolkit.data.bad_images import BadImages
from ssl_toolkit.data.image_set import ImageSet, Labels
from ssl_toolkit.data.items import Items
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images
from ssl_toolkit.encoders import Encoder, encoder_file, load_encoder, save_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import extract
from ssl_toolkit.eval.search.index import EmbeddingIndex

Images: TypeAlias = Any
"""Files or items, by their names in a list or an array, or whatever `open_images` takes: a word, an array, a tensor,
PIL images, a data set, an opened set."""


class ImageEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of images and their nearest neighbours, for use where a scikit-learn estimator is expected.

    Images are resized and cut to the encoder's own size. One that cannot be read is an error, for a row would be
    missing.

    Args:
        encoder: Run folder or encoder file, or an `Encoder`, of which a copy is used.
        metric: ``cosine`` or ``l2``, see `EmbeddingIndex`.
        n_neighbors: Neighbours that `kneighbors` gives unless it is asked for another number.
        factory: How neighbours are found, see `EmbeddingIndex.build`.
        batch_size: Images encoded at once.
        workers: Processes that read images.
        device: Where images are encoded, such as ``cpu`` or ``cuda``.

    Attributes:
        encoder_: The encoder.
        index_: The `EmbeddingIndex` of the images that were fitted on; it can be saved and searched.
        n_samples_fit_: How many they were.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit.encoders import EncoderConfig, save_encoder
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), np.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_encoder(Encoder(EncoderConfig("convnet", image_size=16)), f"{folder}/encoder.safetensors")
        ...     embedder = ImageEmbedder(f"{folder}/encoder.safetensors", n_neighbors=2).fit(images)
        >>> embedder.transform(images[:5]).shape
        (5, 256)
        >>> distance, position = embedder.kneighbors(images[:5])
        >>> position[:, 0]
        array([0, 1, 2, 3, 4])
    """

    encoder_: Encoder
    index_: EmbeddingIndex
    n_samples_fit_: int

    def __init__(
        self,
        encoder: str | os.PathLike[str] | Encoder,
        *,
        metric: str = "cosine",
        n_neighbors: int = 5,
        factory: str | None = None,
        batch_size: int = 256,
        workers: int = 0,
        device: str = "cpu",
    ) -> None:
        self.encoder = encoder
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.factory = factory
        self.batch_size = batch_size
        self.workers = workers
        self.device = device

    def fit(self, X: Images, y: object = None) -> ImageEmbedder:  # noqa: N803
        """Load the encoder and index the images.

        Args:
            X: Images.
            y: Not used.

        Raises:
            UsageError: The encoder or the images do not exist, or no index can be built of them as asked.
            ToolkitError: An image cannot be read.
        """
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Images, y: object = None, **fit_params: object) -> NDArray[np.float32]:  # noqa: N803
        """`fit`, and the features of the images, (N, D), which are encoded once."""
        given = copy.deepcopy(self.encoder) if isinstance(self.encoder, Encoder) else load_encoder(self.encoder)
        self.encoder_ = given.eval().to(self.device)
        images = self._opened(X, "auto")
        features = self._encoded(images)
        file = self._encoder_file()
        self.index_ = EmbeddingIndex.build(
            features,
            [images.path(row) for row in range(len(images))],
            None if images.classes is None else images.labels,
            images.classes,
            self.metric,
            factory=self.factory,
            encoder_file=file,
            data=images.word,
        )
        if isinstance(self.encoder, Encoder):
            weakref.finalize(self.index_, shutil.rmtree, file.parent, ignore_errors=True)
        self.n_samples_fit_ = len(features)
        return features

    def transform(self, X: Images) -> NDArray[np.float32]:  # noqa: N803
        """Features of images, (N, D)."""
        check_is_fitted(self)
        return self._encoded(self._opened(X, "none"))

    def kneighbors(
        self,
        X: Images | None = None,  # noqa: N803
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | NDArray[np.int64]:
        """The nearest of the fitted images, nearest first.

        Args:
            X: Images; None asks for the nearest others of each of the fitted ones.
            n_neighbors: How many; None takes that of the estimator.
            return_distance: Whether distances are returned.

        Returns:
            Distances, (M, n_neighbors), one minus the cosine or Euclidean, if asked for; and positions in the images
            that were fitted on, (M, n_neighbors).

        Raises:
            UsageError: There are not as many.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        most = self.n_samples_fit_ - (X is None)
        if not 1 <= k <= most:
            raise UsageError(f"n_neighbors is {k}: it must be from 1 to {most}")
        if X is None:
            score, position = self.index_.neighbours(k)
        else:
            hits = self.index_.search(self.transform(X), k)
            score, position = hits.score, hits.position
        if not return_distance:
            return position
        return (1 - score if self.metric == "cosine" else score), position

    @property
    def _n_features_out(self) -> int:
        return self.index_.dimension

    def _encoder_file(self) -> Path:
        """The encoder's file, which the index is saved with; of an object, one that goes when the index does."""
        if not isinstance(self.encoder, Encoder):
            return encoder_file(self.encoder)
        file = Path(tempfile.mkdtemp(prefix="ssl-toolkit-")) / "encoder.safetensors"
        save_encoder(self.encoder, file)
        return file

    def _opened(self, images: Images, labels: Labels) -> ImageSet:
        channels, range = self.encoder_.config.channels, self.encoder_.config.range
        if isinstance(images, np.ndarray) and images.dtype.kind in "OUS":
            images = images.tolist()
        if isinstance(images, list | tuple) and all(isinstance(item, str | os.PathLike) for item in images):
            return Items([os.fspath(item) for item in images], channels, range=range)
        return open_images(images, labels=labels, channels=channels, range=range)

    def _encoded(self, images: ImageSet) -> NDArray[np.float32]:
        size = self.encoder_.config.load_size
        loader: Any = ImageLoader(
            images, size, batch_size=self.batch_size, workers=self.workers, bad=BadImages(images, max_rate=0)
        )
        return extract(self.encoder_, loader, device=self.device, view=self.encoder_.eval_view()).x
