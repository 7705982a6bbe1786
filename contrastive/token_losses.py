"""Losses of the methods that hide patches, and terms that keep embeddings spread out; see `losses` for processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.contrastive.losses import in_float32, sinkhorn
from ssl_toolkit.distributed import all_mean, gather, rank, world_size

KNOTS, FARTHEST = 17, 5.0  # of the characteristic function


@in_float32
def masked_patches(student: Tensor, target: Tensor, count: Tensor, images: int, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of the student's distributions of hidden patches to the teacher's, who sees them.

    Args:
        student: Scores of the hidden patches of all images, (M, K).
        target: The teacher's distributions of the same, (M, K), rows sum to 1; no gradient reaches them.
        count: Hidden patches of the image that each is of, (M,).
        images: Number of images N.
        temperature: Divides the student's scores, above 0.

    Returns:
        Scalar: mean over images of the mean over hidden patches, in nats; images without any count as 0. Uniform
        distributions give ``log(K)`` times the share of images that have some.

    Source: Zhou et al. 2022 (iBOT), equation 2 and the authors' ``main_ibot.py``; Oquab et al. 2023 (DINOv2).

    Examples:
        >>> round(masked_patches(torch.zeros(2, 4), torch.eye(4)[:2], torch.ones(2), 2).item(), 4)
        1.3863
    """
    each = -(target.detach() * (student / temperature).log_softmax(1)).sum(1)
    return all_mean((each / count).sum() / images)


@in_float32
def koleo(x: Tensor) -> Tensor:
    """Minus the mean logarithm of the distance to the nearest neighbour: a spread as even as can be has the least.

    Args:
        x: Features of different images, (N, D), N at least 2 over all processes; normalised here.

    Returns:
        Scalar: ``-1/N sum_i log(min_j |x_i - x_j| + 1e-8)``.

    Source: Sablayrolles et al. 2019, section 3.2; Oquab et al. 2023 (DINOv2), section 4. Neighbours are sought among
        the images of all processes, in DINOv2's code among those of one.

    Examples:
        >>> round(koleo(torch.eye(3)).item(), 4)  # -log(sqrt(2))
        -0.3466
    """
    x = F.normalize(x, dim=1)
    every = gather(x)
    with torch.no_grad():
        similarity = x @ every.T  # (N, N of all processes)
        similarity[:, rank() * len(x) : (rank() + 1) * len(x)].fill_diagonal_(-2)
        nearest = similarity.argmax(1)
    return all_mean(-(F.pairwise_distance(x, every[nearest], eps=1e-8) + 1e-8).log().mean())


@in_float32
def sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """How far embeddings are from an isotropic Gaussian: Epps and Pulley's test of their projections.

    Args:
        z: Embeddings, (N, D); not normalised.
        directions: Unit columns, (D, M), the same in every process.

    Returns:
        Scalar, at least 0: the mean over directions of ``N int |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt``, where
        phi_N is the empirical characteristic function, by the trapezoidal rule over 17 knots from -5 to 5.

    Source: Balestriero & LeCun 2025 (LeJEPA), algorithm 1. Negative knots add what positive ones do, and are left out.

    Examples:
        >>> round(sigreg(torch.zeros(4, 2), torch.eye(2)).item(), 4)  # all in one place
        1.6357
    """
    step = 2 * FARTHEST / (KNOTS - 1)
    t = step * torch.arange(1, KNOTS // 2 + 1, device=z.device, dtype=z.dtype)  # at 0 both functions are 1
    gaussian = torch.exp(-t.square() / 2)
    angle = (z @ directions)[..., None] * t  # (N, M, knots)
    error = (all_mean(angle.cos().mean(0)) - gaussian).square() + all_mean(angle.sin().mean(0)).square()
    weight = 2 * step * gaussian
    weight[-1] /= 2
    return len(z) * world_size() * (error @ weight).mean()


@in_float32
def to_centre(views: Tensor, anchors: int) -> Tensor:
    """Squared distance of every view's embedding to the mean of those of the first views.

    Args:
        views: (V, N, D), the global views first.
        anchors: Number of global views.

    Returns:
        Scalar: mean over views, images and dimensions.

    Source: Balestriero & LeCun 2025 (LeJEPA), algorithm 2: no gradient is stopped.

    Examples:
        >>> to_centre(torch.tensor([[[0.0]], [[2.0]], [[4.0]]]), anchors=2).item()  # (1 + 1 + 9) / 3
        3.6666667461395264
    """
    return all_mean((views - views[:anchors].mean(0)).square().mean())


@in_float32
def msn(
    anchors: Sequence[Tensor],
    target: Tensor,
    temperature: float = 0.1,
    target_temperature: float = 0.025,
    regularization: float = 1.0,
    balance: bool = True,
) -> Tensor:
    """Cross-entropy of masked views' assignments to the target view's, and the entropy of their mean.

    Args:
        anchors: Cosines of each masked or small view with the prototypes, (N, K) each.
        target: Those of the whole view, (N, K); no gradient reaches them.
        temperature: Divides the cosines of the anchors, above 0.
        target_temperature: Divides those of the target: sharper, so smaller.
        regularization: Weight of ``log(K)`` less the entropy of the mean assignment (mean entropy maximisation).
        balance: Whether targets use all prototypes equally; see `sinkhorn`.

    Returns:
        Scalar, in nats. Uniform assignments give ``log(K)``.

    Source: Assran et al. 2022 (MSN), equation 1 and section 3; the authors' ``losses.py``, in whose words the target's
        temperature is the anchors' times the sharpening of 0.25.

    Examples:
        >>> round(msn([torch.zeros(2, 4)], torch.zeros(2, 4)).item(), 4)
        1.3863
    """
    with torch.no_grad():
        sharp = (target / target_temperature).log_softmax(1)  # the iteration begins with these, not with cosines
        p = sinkhorn(sharp, 1.0) if balance else sharp.exp()
    log_q = (torch.stack(list(anchors)) / temperature).log_softmax(2)  # (V, N, K)
    mean = all_mean(log_q.exp().mean((0, 1)))
    agreement = all_mean(-(p * log_q).sum(2).mean())
    unused: Tensor = math.log(len(mean)) - torch.special.entr(mean).sum()
    return agreement + regularization * unused


@in_float32
def regression(predicted: Tensor, target: Tensor, smooth: bool = False) -> Tensor:
    """Error of predicted representations, with the gradient stopped at the target.

    Args:
        predicted: (..., D).
        target: The same shape; no gradient reaches it.
        smooth: The smooth absolute error, quadratic below 1, in the place of the squared one.

    Returns:
        Scalar: mean over all; the squared one times ``sqrt(D)``, the sum over D over its root, in data2vec's words.

    Source: Assran et al. 2023 (I-JEPA), the authors' ``main``; Baevski et al. 2023 (data2vec 2.0), ``d2v_loss``.

    Examples:
        >>> x, y = torch.zeros(2, 4), 3 * torch.ones(2, 4)
        >>> regression(x, y).item(), regression(x, y, smooth=True).item()
        (18.0, 2.5)
    """
    if smooth:
        return all_mean(F.smooth_l1_loss(predicted, target.detach()))
    return all_mean(F.mse_loss(predicted, target.detach())) * math.sqrt(predicted.shape[-1])
