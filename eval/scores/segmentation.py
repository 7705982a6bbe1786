"""Dense probes: a linear layer on the features of each place says what its pixels show, or how far away they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ssl_toolkit.data.masks import VOID, MaskedSet
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.features.extraction import Features, evaluating
from ssl_toolkit.eval.scores.linear_probe import SoftmaxPath
from ssl_toolkit.randomness import numpy_generator

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Strengths of the penalty that are tried."""

PLACES = 100_000
"""Places of training images, at most, that a linear layer is fitted on."""

Maps = NDArray[np.float32]  # (N, h, w, D)


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """Images as a dense probe sees them.

    Attributes:
        x: (N, h, w, D) features of places.
        values: (N, side, side) of pixels: classes (int64, `VOID` where there is none) or depths (float32, 0 likewise).
    """

    x: Maps
    values: NDArray[Any]

    def part(self, rows: NDArray[np.int64]) -> Dense:
        """Some of the images."""
        return Dense(self.x[rows], self.values[rows])


@torch.no_grad()
def dense_features(
    encoder: Encoder, images: MaskedSet, side: int, at_once: int = 32, tick: Callable[[int], object] = lambda n: None
) -> Dense:
    """Feature maps, or patch tokens at their places, of all images.

    Args:
        encoder: What encodes, where its weights are.
        images: See `MaskedSet`.
        side: Of the images, pixels.
        at_once: Images a batch.
        tick: Called with the number of images that were encoded.

    Raises:
        UsageError: The encoder has no such maps.
    """
    blocks, values = [], []
    with evaluating(encoder):
        for start in range(0, len(images), at_once):
            pairs = [images.load(index, side) for index in range(start, min(start + at_once, len(images)))]
            image = torch.from_numpy(np.stack([pixels for pixels, _ in pairs])).to(encoder.mean.device)
            blocks.append(encoder.feature_map(image).permute(0, 2, 3, 1).float().cpu().numpy())
            values += [each for _, each in pairs]
            tick(len(pairs))
    return Dense(np.concatenate(blocks), np.stack(values))


def segment(train: Dense, test: Dense, strengths: Sequence[float] = STRENGTHS, seed: int = 0) -> dict[str, Any]:
    """Linear segmentation: softmax regression on the features of places, its logits enlarged to pixels.

    A place learns the class that most of its pixels have. The strength of the penalty is chosen by mean intersection
    over union on a fifth of the training images; the test images are asked once.

    Args:
        train: Images to learn from, two at least.
        test: Images to segment.
        strengths: Of the penalty, see `ssl_toolkit.eval.scores.linear_probe.fit_softmax`.
        seed: Of the choice of images and places.

    Returns:
        What `overlap` says of the test images; ``l2``; and ``answer``, (N, side, side) classes.

    Source: the linear segmentation of Oquab et al. 2024 (DINOv2), section 7.4, fitted to convergence.

    Examples:
        >>> values = np.arange(2).repeat(8).reshape(1, 4, 4).repeat(6, axis=0)  # above 0, below 1
        >>> half = Dense(np.eye(2, dtype=np.float32)[values[:, ::2, ::2]], values)
        >>> round(segment(half, half)["miou"], 2)
        1.0
    """
    count = int(max(train.values.max(), test.values.max())) + 1

    def learnt(part: Dense) -> Callable[[float, Dense], NDArray[np.int64]]:
        place = _majority(part.values, _size(part), count)
        rows = _known(place != VOID, seed)
        label = place.reshape(-1)[rows]
        if len(np.unique(label)) < 2:
            raise UsageError("the training masks hold one class only: there is nothing to tell apart")
        path = SoftmaxPath(Features(part.x.reshape(-1, part.x.shape[3])[rows], label, rows))

        def answer(l2: float, asked: Dense) -> NDArray[np.int64]:
            model = path(l2)
            logits = model.logits(asked.x.reshape(-1, asked.x.shape[3])).reshape(*asked.x.shape[:3], -1)
            largest = [_enlarged(each, asked.values.shape[1:]).argmax(dim=0).numpy() for each in logits]
            found: NDArray[np.int64] = model.classes[np.stack(largest)]
            return found

        return answer

    l2 = _chosen(train, strengths, seed, learnt, lambda found, rest: overlap(found, rest.values, count)["miou"])
    answer = learnt(train)(l2, test)
    return {**overlap(answer, test.values, count), "l2": l2, "answer": answer}


def estimate_depth(train: Dense, test: Dense, strengths: Sequence[float] = STRENGTHS, seed: int = 0) -> dict[str, Any]:
    """Linear regression of depth on the features of places, enlarged to pixels; as `segment` else.

    Returns:
        What `depth_errors` says of the test images; ``l2``; and ``answer``, (N, side, side) depths.
    """

    def learnt(part: Dense) -> Callable[[float, Dense], NDArray[np.float32]]:
        depth = _mean_depth(part.values, _size(part))
        rows = _known(depth > 0, seed)
        x, known = part.x.reshape(-1, part.x.shape[3])[rows], depth.reshape(-1)[rows]

        def answer(l2: float, asked: Dense) -> NDArray[np.float32]:
            weight, bias = ridge(x, known, l2)
            maps = asked.x @ weight + bias
            enlarged = [_enlarged(each[..., None], asked.values.shape[1:])[0].numpy() for each in maps]
            return np.stack(enlarged).clip(known.min())

        return answer

    l2 = _chosen(train, strengths, seed, learnt, lambda found, rest: -depth_errors(found, rest.values)["rmse"])
    answer = learnt(train)(l2, test)
    return {**depth_errors(answer, test.values), "l2": l2, "answer": answer}


def ridge(x: NDArray[np.float32], y: NDArray[np.float32], l2: float) -> tuple[NDArray[np.float32], float]:
    """Weights (D,) and bias of least mean squared error + l2 * sum of squared weights, these of standardised x."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    std = np.where(std <= 1e-6 * np.abs(mean), 1, std)
    z = (x - mean) / std
    y_mean = float(y.mean(dtype=np.float64))
    weight = np.linalg.solve(z.T @ z / len(z) + l2 * np.eye(z.shape[1]), z.T @ (y - y_mean) / len(z)) / std
    return weight.astype(np.float32), y_mean - float(mean @ weight)


def overlap(answer: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """How well masks agree, over all pixels that have a class.

    Args:
        answer: Classes of pixels, from 0 to `classes` - 1.
        truth: True ones, of the same shape, `VOID` where there is none.
        classes: How many there are.

    Returns:
        ``miou``, the mean over the classes that either has of intersection over union, each over all pixels;
        ``pixel_accuracy``; ``iou`` of each class, None where neither has it.

    Examples:
        >>> overlap(np.array([0, 0, 1, 1]), np.array([0, 1, 1, VOID]), 3)
        {'miou': 0.5, 'pixel_accuracy': 0.6666666666666666, 'iou': [0.5, 0.5, None]}
    """
    known = truth != VOID
    cells = np.bincount(truth[known] * classes + answer[known], minlength=classes**2).reshape(classes, classes)
    both, union = np.diag(cells), cells.sum(axis=0) + cells.sum(axis=1) - np.diag(cells)
    iou = [float(b / u) if u else None for b, u in zip(both, union, strict=True)]
    return {
        "miou": float(np.mean([each for each in iou if each is not None])),
        "pixel_accuracy": float(both.sum() / cells.sum()),
        "iou": iou,
    }


def depth_errors(answer: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, float]:
    """How far depths are off, over all pixels with a true one above 0.

    Args:
        answer: Depths, of any shape and unit.
        truth: True ones, of the same shape and unit, 0 where there is none.

    Returns:
        ``rmse``, in the units of the depths; ``delta1``, the share of pixels off by less than a factor of 1.25.

    Source: Eigen et al. 2014, Depth Map Prediction from a Single Image, section 4.2.

    Examples:
        >>> depth_errors(np.array([1.0, 3.0, 9.0], np.float32), np.array([1.0, 2.0, 0.0], np.float32))
        {'rmse': 0.7071067811865476, 'delta1': 0.5}
    """
    known = truth > 0
    a, b = answer[known].astype(np.float64), truth[known].astype(np.float64)
    ratio = np.maximum(a / b, b / np.maximum(a, 1e-9))
    return {"rmse": float(np.sqrt(np.mean((a - b) ** 2))), "delta1": float((ratio < 1.25).mean())}


def clusters(x: Maps, k: int, side: int, seed: int = 0) -> NDArray[np.int64]:
    """Parts of images that look alike to an encoder, without labels: k-means of unit features over all their places.

    Args:
        x: (N, h, w, D).
        k: Clusters, the same for all images.
        side: Of the answer.
        seed: Of the first centres.

    Returns:
        (N, side, side): 0 to k - 1, of each pixel the centre that its features, enlarged, are nearest to.

    Examples:
        >>> x = np.eye(2, dtype=np.float32)[np.array([[[0, 1]]]).repeat(3, axis=0)]  # left and right differ
        >>> found = clusters(x, k=2, side=2)
        >>> found.shape, bool((found[..., 0] != found[..., 1]).all())
        ((3, 2, 2), True)
    """
    from sklearn.cluster import KMeans  # takes a second to import

    unit = x / np.maximum(np.linalg.norm(x, axis=3, keepdims=True), 1e-12)
    means = KMeans(k, n_init=4, random_state=seed).fit(unit.reshape(-1, x.shape[3])).cluster_centers_.astype(np.float32)
    near = 2 * unit @ means.T - (means**2).sum(axis=1)  # (N, h, w, k), less the features' own length
    return np.stack([_enlarged(each, (side, side)).argmax(dim=0).numpy() for each in near])


# --- places and pixels -----------------------------------------------------------------------------------------------


def _size(part: Dense) -> tuple[int, int]:
    """Height and width of the feature maps."""
    return part.x.shape[1], part.x.shape[2]


def _known(known: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Up to `PLACES` of the places (N, h, w) that something is known of, as positions among all."""
    rows = np.flatnonzero(known)
    if not len(rows):
        raise UsageError("nothing is known of any pixel of the training images")
    return rows if len(rows) <= PLACES else np.sort(numpy_generator(seed, "places").choice(rows, PLACES, replace=False))


def _chosen(
    train: Dense,
    strengths: Sequence[float],
    seed: int,
    learnt: Callable[[Dense], Callable[[float, Dense], NDArray[Any]]],
    score: Callable[[NDArray[Any], Dense], float],
) -> float:
    """The strength that scores best on a fifth of the images, of equals the strongest; of one image, that."""
    strengths = sorted(strengths, reverse=True)
    if len(strengths) == 1 or len(train.x) < 2:
        return strengths[0]
    order = numpy_generator(seed, "held out").permutation(len(train.x))
    held = max(1, len(order) // 5)
    answer, rest = learnt(train.part(np.sort(order[held:]))), train.part(np.sort(order[:held]))
    scores = [score(answer(l2, rest), rest) for l2 in strengths]
    return strengths[int(np.argmax(scores))]


def _majority(values: NDArray[np.int64], size: tuple[int, int], classes: int) -> NDArray[np.int64]:
    """Classes of pixels (N, H, W) to that of most pixels of each place (N, h, w); `VOID` where most have none."""
    found = []
    for each in torch.from_numpy(values):
        shares = F.adaptive_avg_pool2d(F.one_hot(each + 1, classes + 1).permute(2, 0, 1)[None].float(), size)
        found.append(shares[0].argmax(dim=0).numpy() - 1)
    return np.stack(found)


def _mean_depth(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Depths of pixels (N, H, W) to the mean of those that are known of each place (N, h, w); 0 where none is."""
    depth = torch.from_numpy(values)[:, None]
    known = F.adaptive_avg_pool2d((depth > 0).float(), size)
    total = F.adaptive_avg_pool2d(depth.clamp(min=0), size)
    mean: NDArray[np.float32] = torch.where(known > 0, total / known.clamp(min=1e-6), 0)[:, 0].numpy()
    return mean


def _enlarged(values: NDArray[np.float32], size: Sequence[int]) -> torch.Tensor:
    """Numbers of places (h, w, K) for pixels: (K, H, W)."""
    maps = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None].float()
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)[0]
