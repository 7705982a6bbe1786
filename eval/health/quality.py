"""How good are features, told without labels: figures that papers choose encoders and settings by.

RankMe, which some call the smooth rank, is `ssl_toolkit.eval.health.collapse.effective_rank`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_toolkit.augment import Views
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.eval.features.extraction import Encode, evaluating
from ssl_toolkit.eval.health.collapse import effective_rank
from ssl_toolkit.randomness import seed_device


class Quality(NamedTuple):
    """How to read a measure.

    Attributes:
        title: What it is called.
        about: What it is, in a few words.
        rank: A value to a number that is larger where the measure's authors expect better features.
    """

    title: str
    about: str
    rank: Callable[[float], float] = float


QUALITIES = {
    "rankme": Quality("RankMe", "directions in use"),
    "lidar": Quality("LiDAR", "directions that tell images apart"),
    "alpha_req": Quality("alpha-ReQ", "fall of the eigenvalues; 1 is best", lambda alpha: -abs(alpha - 1)),
    "nesum": Quality("NESum", "variance, in units of the largest"),
    "two_nn": Quality("TwoNN", "intrinsic dimension"),
}
"""Measures of features that need no labels, by their names in ``results.json``; more is better but where it is said."""

MEASURED = 4096
"""Images that are measured, at most, from all over the set."""

TAIL = (3, 100)
"""Eigenvalues, counted from 1, that `alpha_req` fits by default: the first ones follow no power law."""


def spectrum(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Eigenvalues of the covariance of features (N, D), the largest first: (min(N, D),), none below 0."""
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x  # of either kind, the other eigenvalues are 0
    eigenvalues: NDArray[np.float64] = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0) / len(x)
    return eigenvalues


def nesum(features: NDArray[np.float32]) -> float:
    """Sum of the covariance's eigenvalues, the largest of them being 1.

    Args:
        features: (N, D).

    Returns:
        From 1, where all variance lies along one direction, to D, where it is alike along all; 0 where there is none.

    Source: He & Ozay 2022, Exploring the Gap between Collapsed & Whitened Features in Self-Supervised Learning, eq. 2.

    Examples:
        >>> round(nesum(np.array([[2, 0], [-2, 0], [0, 1], [0, -1]], dtype=np.float32)), 4)
        1.25
    """
    eigenvalues = spectrum(features)
    return float(eigenvalues.sum() / eigenvalues[0]) if eigenvalues[0] > 0 else 0.0


def alpha_req(features: NDArray[np.float32], tail: tuple[int, int] = TAIL) -> float:
    """How fast the covariance's eigenvalues fall: alpha of the power law ``eigenvalue(i) ~ i^-alpha``.

    Args:
        features: (N, D).
        tail: First and last eigenvalue that the line is fitted through, by least squares of logarithms, counted from
            1; those that are 0 up to rounding are left out.

    Returns:
        Near 1 is good; above, few directions are used, below, noise is not smoothed away. NaN where fewer than two
        eigenvalues are left.

    Source: Agrawal et al. 2022, alpha-ReQ, section 3. The authors fit the tail as well; the ends are ours.

    Examples:
        >>> wanted = np.arange(1, 33) ** -0.5  # standard deviations, so that variances fall as 1 / i
        >>> x = np.linalg.qr(np.random.default_rng(0).normal(size=(500, 33)) - [[0.5]])[0][:, 1:] * wanted
        >>> round(alpha_req(x.astype(np.float32)), 1)
        1.0
    """
    eigenvalues = spectrum(features)
    place = np.arange(1, len(eigenvalues) + 1)
    kept = (place >= tail[0]) & (place <= tail[1]) & (eigenvalues > 1e-10 * eigenvalues[0])
    if kept.sum() < 2:
        return float("nan")
    return float(-np.polyfit(np.log(place[kept]), np.log(eigenvalues[kept]), 1)[0])


def two_nn(features: NDArray[np.float32], kept: float = 0.9) -> float:
    """Intrinsic dimension of the features, by how much farther than the nearest the second nearest lies.

    Args:
        features: (N, D), N at least 3. Copies of another image's features are left out.
        kept: Share of the ratios that the line is fitted through: the largest are the least to be trusted.

    Returns:
        The dimension; NaN where fewer than three features differ.

    Source: Facco et al. 2017, Estimating the intrinsic dimension of datasets by a minimal neighborhood information.

    Examples:
        >>> plane = np.random.default_rng(0).random((500, 2)) @ np.random.default_rng(1).normal(size=(2, 64))
        >>> round(two_nn(plane.astype(np.float32)))
        2
    """
    x = torch.from_numpy(np.unique(features, axis=0).astype(np.float64))
    if len(x) < 3:
        return float("nan")
    nearest = [torch.cdist(block, x).topk(3, largest=False).values[:, 1:] for block in torch.split(x, 512)]
    first, second = torch.cat(nearest).numpy().T
    ratio = np.sort(second / first)
    share = np.arange(len(ratio)) / len(ratio)  # that have a smaller ratio
    used = slice(0, max(2, int(kept * len(ratio))))
    a, b = np.log(ratio[used]), -np.log1p(-share[used])
    return float(a @ b / (a @ a)) if a.any() else float("nan")


def lidar(features: NDArray[np.float32], delta: float = 1e-4, epsilon: float = 1e-7) -> float:
    """Effective rank of what tells images apart, in units of what differs between views of one image.

    Args:
        features: (N, V, D): V views of each of N images, both at least 2.
        delta: What is added to the variances within images.
        epsilon: What is added to each eigenvalue's share.

    Returns:
        From 1 to about D; the more, the more directions tell images apart.

    Source: Thilak et al. 2023, LiDAR, section 4, equations 1 to 4; their delta and epsilon.

    Examples:
        >>> noise = np.random.default_rng(0).normal(size=(64, 4, 8))
        >>> images = np.random.default_rng(1).normal(size=(64, 1, 8)) * [9, 9, 9, 0, 0, 0, 0, 0]  # along 3 axes
        >>> round(lidar((images + noise).astype(np.float32)))
        3
    """
    x = np.asarray(features, dtype=np.float64)
    centre = x.mean(axis=1)  # (N, D)
    between = centre - centre.mean(axis=0)
    within = (x - centre[:, None]).reshape(-1, x.shape[2])
    value, vector = np.linalg.eigh(within.T @ within / len(within) + delta * np.eye(x.shape[2]))
    whitened = between @ (vector / np.sqrt(value))  # Sigma_w^(-1/2), turned: the eigenvalues are the same
    gram = whitened @ whitened.T if len(x) < x.shape[2] else whitened.T @ whitened
    eigenvalues = np.zeros(x.shape[2])
    eigenvalues[: len(gram)] = np.abs(np.linalg.eigvalsh(gram))
    share = eigenvalues / eigenvalues.sum() + epsilon if eigenvalues.any() else np.full(len(eigenvalues), epsilon)
    return float(np.exp(-(share * np.log(share)).sum()))


@torch.no_grad()
def features_of_views(
    encode: Encode, batches: Iterable[Batch], views: Views, device: str | torch.device = "cpu", seed: int = 0
) -> NDArray[np.float32]:
    """Features of several views of each image, (N, V, D), as `lidar` takes them.

    Args:
        encode: Images in [0, 1] (N, C, H, W) to features (N, D), on `device`.
        batches: The images.
        views: Makes V views of each.
        device: Where to compute.
        seed: Of the views.
    """
    found = []
    with evaluating(encode):
        for number, batch in enumerate(batches):
            seed_device(seed, number, 0)
            made = views(batch.image.to(device), batch.box)
            found.append(torch.stack([encode(view).float() for view in made], dim=1).cpu().numpy())
    return np.concatenate(found)


def quality(features: NDArray[np.float32]) -> dict[str, float]:
    """What needs neither labels nor views, by name: measures of at most `MEASURED` of the features (N, D).

    Returns:
        ``rankme``, ``alpha_req``, ``nesum`` and ``two_nn``; those that are not finite are left out.
    """
    x = np.asarray(features[np.linspace(0, len(features) - 1, min(MEASURED, len(features))).astype(int)])
    found = {"rankme": effective_rank(x), "alpha_req": alpha_req(x), "nesum": nesum(x), "two_nn": two_nn(x)}
    return {name: value for name, value in found.items() if np.isfinite(value)}
