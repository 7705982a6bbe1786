"""DeepCluster v2: each crop tells in which cluster of all images its own lay when the epoch began."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.augment import Views, swav_views
from ssl_toolkit.contrastive import losses
from ssl_toolkit.contrastive.memory import MemoryBank, remember_all
from ssl_toolkit.contrastive.passes import GLOBAL, by_size
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError, require_positive
from ssl_toolkit.heads import mlp
from ssl_toolkit.method import Method
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.randomness import derive_seed

ROWS = 8192  # vectors that are compared with all centroids at once


@torch.no_grad()
def spherical_kmeans(z: Tensor, count: int, seed: int, iterations: int = 10) -> Tensor:
    """Centroids of clusters of unit vectors by cosine, from centroids that are vectors drawn at random.

    Args:
        z: Unit vectors, (N, D).
        count: Clusters K, at most N; one that loses all its vectors stays where it is.
        seed: Decides the first centroids.
        iterations: Of assigning vectors and moving centroids, at least 1.

    Returns:
        Unit centroids, (K, D).

    Source: Caron et al. 2020, appendix; the authors' ``main_deepclusterv2.py``, ``cluster_memory``.

    Examples:
        >>> spherical_kmeans(torch.eye(3).repeat(4, 1), 1, seed=0).mean().item() - 3**-0.5 < 1e-6
        True
    """
    first = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:count]
    centroids = z[first.to(z.device)]
    for _ in range(iterations):
        sums = torch.zeros_like(centroids)
        for part in torch.split(z, ROWS):
            # A product, not a scatter: the same in every process and every run, on a GPU too.
            sums += F.one_hot((part @ centroids.T).argmax(1), count).to(z.dtype).T @ part
        centroids = torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), centroids)
    return centroids


class DeepClusterV2(Method):
    """DeepCluster with centroids as the classifier, several clusterings, and SwAV's crops.

    The embeddings of the global views of all images are remembered, and clustered anew when an epoch begins. An image
    comes once an epoch, so its cluster is that of what is remembered of it; of one that was not seen yet, as the last
    few of the first epoch, that of what it is now.

    Args:
        encoder: What is trained and kept.
        views: Makes two global views and any number of smaller local ones.
        optimizer: How the weights are moved.
        temperature: Divides the scores, above 0.
        prototypes: Clusters of each clustering, no more than there are images (3,000 for ImageNet).
        clusterings: How many there are, by turns of the first and the second view's embeddings.
        iterations: Of k-means.
        hidden_dim: Width of the projector's hidden layer (2,048 for ImageNet).
        projection_dim: Dimension of embeddings and centroids.

    Source: Caron et al. 2020 (SwAV), section 4.1 and appendix; the authors' ``main_deepclusterv2.py``.
    """

    default_views = staticmethod(swav_views)
    embedding: ClassVar[str | None] = "projector"

    centroids: Tensor
    clustered: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: OptimizerConfig | None = None,
        temperature: float = 0.1,
        prototypes: int = 512,
        clusterings: int = 3,
        iterations: int = 10,
        hidden_dim: int = 1024,
        projection_dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, optimizer)
        require_positive(
            temperature=temperature,
            prototypes=prototypes,
            clusterings=clusterings,
            iterations=iterations,
            hidden_dim=hidden_dim,
            projection_dim=projection_dim,
        )
        if len(views) < GLOBAL:
            raise UsageError(
                f"deepcluster_v2 needs {GLOBAL} global views, got {len(views)}: give --views.global-count {GLOBAL}"
            )
        self.projector = mlp(encoder.feature_dim, hidden_dim, projection_dim)
        self.memory = MemoryBank(GLOBAL * projection_dim)
        self.register_buffer("centroids", F.normalize(torch.randn(clusterings, prototypes, projection_dim), dim=-1))
        self.register_buffer("clustered", torch.tensor(-1))  # the epoch for which it was done
        self.temperature, self.iterations = temperature, iterations

    def chance_loss(self, batch_size: int) -> float | None:
        """``log(K)``: all clusters alike."""
        return math.log(self.centroids.shape[1])

    def on_train_start(self) -> None:
        """Embed all images, unless a run goes on.

        Raises:
            UsageError: There are fewer images than clusters.
        """
        remember_all(self, self.memory, lambda views: torch.cat(self._embeddings(views[:GLOBAL]), dim=1))
        images, count = len(self.memory.vectors), self.centroids.shape[1]
        if self.memory.complete and images < count:
            raise UsageError(f"--method.prototypes is {count}: {images} images cannot make as many clusters")

    def on_train_epoch_start(self) -> None:
        """Cluster the embeddings; not once more where a run goes on in the middle of an epoch."""
        if int(self.clustered) != self.current_epoch:
            self._cluster()

    def step(self, views: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        """All crops tell the clusters of their images; only then the embeddings of the global ones are remembered."""
        z = self._embeddings(views)
        now = torch.cat(z[:GLOBAL], dim=1)
        past = self.memory.recall(batch.index, now).chunk(GLOBAL, dim=1)
        nearest = [(past[n % GLOBAL] @ c.T).argmax(1) for n, c in enumerate(self.centroids)]
        loss = losses.clusters(z, self.centroids, torch.stack(nearest), self.temperature)
        self.memory.update(batch.index, now)
        return {"loss": loss}

    def _embeddings(self, views: list[Tensor]) -> list[Tensor]:
        """Unit embeddings (N, D) of each view; one head over all crops, whose batch norm sees them together."""
        features = torch.cat(by_size(self.encoder, views))
        return list(F.normalize(self.projector(features), dim=1).chunk(len(views)))

    @torch.no_grad()
    def _cluster(self) -> None:
        """Centroids of what is remembered, by turns of one view and the other."""
        known = self.memory.vectors[self.memory.vectors.any(1)].chunk(GLOBAL, dim=1)
        for number, centroids in enumerate(self.centroids):
            z, seed = known[number % GLOBAL], derive_seed(self.seed, "clusters", self.current_epoch, number)
            if len(z) >= len(centroids):  # by a loader that is not ours, nothing is known in the first epoch
                centroids.copy_(spherical_kmeans(z, len(centroids), seed, self.iterations))
        self.clustered.fill_(self.current_epoch)
