"""DeepCluster v2: clusters are of what was remembered when the epoch began, found once, and told by all crops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from ssl_toolkit.augment import Views, simclr_views
from ssl_toolkit.contrastive.deepcluster_v2 import DeepClusterV2, spherical_kmeans
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError

SMALL: dict[str, Any] = {"prototypes": 6, "hidden_dim": 16, "projection_dim": 4}


def made(encoder: Encoder, **options: Any) -> DeepClusterV2:
    torch.manual_seed(0)
    return DeepClusterV2(encoder, DeepClusterV2.default_views(16), **{**SMALL, **options}).eval()


def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(5, 3, side, side, generator=generator) for side in (16, 16, 8, 8)]


def blobs(count: int = 300) -> tuple[Tensor, np.ndarray]:
    """Unit vectors around three directions."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(count) % 3
    return F.normalize(torch.eye(3, 5)[label] + 0.1 * torch.randn(count, 5, generator=generator), dim=1), label.numpy()


def kmeans_numpy(z: np.ndarray, centroids: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        nearest = [int(np.argmax([v @ c for c in centroids])) for v in z]
        for k in range(len(centroids)):
            members = [v for v, n in zip(z, nearest, strict=True) if n == k]
            if members:
                centroids[k] = np.sum(members, axis=0) / np.linalg.norm(np.sum(members, axis=0))
    return centroids


def test_kmeans_is_the_papers_and_the_same_for_a_seed() -> None:
    z, _ = blobs()
    first = torch.randperm(300, generator=torch.Generator().manual_seed(3))[:7]
    expected = kmeans_numpy(z.double().numpy(), z[first].double().numpy().copy(), 4)
    found = spherical_kmeans(z.double(), 7, seed=3, iterations=4)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert not torch.equal(spherical_kmeans(z, 7, seed=3), spherical_kmeans(z, 7, seed=4))


def test_kmeans_finds_clusters_and_keeps_those_that_are_empty() -> None:
    z, label = blobs()
    scores = [adjusted_rand_score(label, (z @ spherical_kmeans(z, 3, s).T).argmax(1).numpy()) for s in range(5)]
    assert max(scores) == 1
    same = spherical_kmeans(z[:1].repeat(9, 1), 3, seed=0)  # two of the three lose all to the first
    torch.testing.assert_close(same, z[:1].expand(3, -1))


def test_step_tells_the_clusters_of_what_was_remembered_and_then_remembers(small_encoder: Encoder) -> None:
    method, views, index = made(small_encoder), crops(), torch.tensor([3, 0, 4, 1, 6])
    z = [F.normalize(method.projector(method.encoder(view)), dim=1) for view in views]
    past = F.normalize(torch.randn(7, 2, 4, generator=torch.Generator().manual_seed(2)), dim=-1)
    past[6] = 0  # not seen yet
    method.memory.hold(7)
    method.memory.vectors.copy_(past.flatten(1))
    terms = []
    for h, centroids in enumerate(method.centroids):
        for crop in z:
            for n in range(5):
                known = z[h % 2][n] if index[n] == 6 else past[index[n], h % 2]
                target = (centroids @ known).argmax()
                terms.append(-(centroids @ crop[n] / 0.1).log_softmax(0)[target])
    loss = method.step(views, Batch(views[0], torch.zeros(5), index))["loss"]
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-5)
    expected = past.flatten(1).clone()
    expected[index] = torch.cat(z[:2], dim=1).detach()
    torch.testing.assert_close(method.memory.vectors, expected)


class Clusters(pl.Callback):
    """Centroids and memory at each step."""

    def __init__(self) -> None:
        self.centroids: list[Tensor] = []
        self.memory: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.centroids.append(pl_module.centroids.clone())
        self.memory.append(pl_module.memory.vectors.clone())


def test_centroids_are_found_anew_when_an_epoch_begins_and_stay_within_it(
    train_quickly: Callable[..., Any], noise_images: Callable[..., Any]
) -> None:
    watch = Clusters()
    method = train_quickly(
        DeepClusterV2, noise_images(26), epochs=3, callbacks=[watch], views={"local_count": 1}, method=SMALL
    )
    same = [torch.equal(a, b) for a, b in zip(watch.centroids, watch.centroids[1:], strict=False)]
    assert same == [True, True, False, True, True, False, True, True]  # three batches an epoch
    torch.testing.assert_close(method.centroids.norm(dim=-1), torch.ones(3, 6))
    assert not list(method.memory.parameters())
    for step in (0, 3):  # the first and third clustering are of the first view, the second of the second
        known = watch.memory[step][watch.memory[step].any(1)].chunk(2, dim=1)
        for h, centroids in enumerate(watch.centroids[step]):
            sums = torch.zeros(6, 4).index_add(0, (known[h % 2] @ centroids.T).argmax(1), known[h % 2])
            moved = (F.normalize(sums, dim=1) - centroids)[sums.any(1)].abs().max()
            assert moved < 0.3, (step, h)


def test_more_clusters_than_images_are_refused(
    train_quickly: Callable[..., Any], noise_images: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match=r"--method.prototypes is 27: 26 images cannot make as many clusters"):
        train_quickly(DeepClusterV2, noise_images(26), method={**SMALL, "prototypes": 27})


def test_options_out_of_range_are_refused(small_encoder: Encoder) -> None:
    for name in ("temperature", "prototypes", "clusterings", "iterations"):
        with pytest.raises(UsageError, match=rf"--method.{name} is 0: it must be above 0"):
            made(small_encoder, **{name: 0})
    with pytest.raises(UsageError, match=r"2 global views, got 1: give --views.global-count 2"):
        DeepClusterV2(small_encoder, Views([*simclr_views(16, count=1).transforms]))
