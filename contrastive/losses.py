"""Losses of the contrastive methods: pure functions of tensors, in the papers' symbols.

Where several processes train together, each hands in its part of the batch and each gets the loss of the joined batch;
gradients are right once they are averaged over the processes (see `ssl_toolkit.distributed`). All are computed in
float32 at least, whatever the precision of the training: a similarity over a small temperature needs the digits.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_toolkit.distributed import all_mean, gather, rank, world_size

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(loss: Callable[P, R]) -> Callable[P, R]:
    """The function without autocast, its half-precision inputs in float32; float64 stays."""

    def promoted(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value
        return [promoted(each) for each in value] if isinstance(value, (list, tuple)) else value

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        values = [promoted(value) for value in args]
        named = {name: promoted(value) for name, value in kwargs.items()}
        first = next(value for value in (*values, *named.values()) if isinstance(value, (Tensor, list)))
        device = (first if isinstance(first, Tensor) else first[0]).device
        with torch.autocast(device.type, enabled=False):
            return loss(*values, **named)

    return wrapped


@in_float32
def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy: each view finds its partner among the 2N - 1 others.

    Args:
        z1: Projections of the first views, (N, D); normalised here.
        z2: Projections of the second views, (N, D); row i belongs to row i of `z1`.
        temperature: Divides the cosine similarities, above 0.

    Returns:
        Scalar: mean cross-entropy over the 2N views, in nats. Orthogonal pairs of equal views give
        ``log(exp(1 / t) + 2 N - 2) - 1 / t``.

    Source: Chen et al. 2020 (SimCLR), equation 1.

    Examples:
        >>> z = torch.eye(4)
        >>> round(nt_xent(z, z, temperature=0.5).item(), 4)
        0.5944
    """
    return all_mean(F.cross_entropy(*_all_pairs(z1, z2, temperature)))


@in_float32
def dcl(z1: Tensor, z2: Tensor, temperature: float = 0.1, sigma: float | None = None) -> Tensor:
    """Decoupled contrastive loss: a view's partner is not among the candidates that it is told apart from.

    Args:
        z1: Projections of the first views, (N, D), N at least 2; normalised here.
        z2: Projections of the second views, (N, D); row i belongs to row i of `z1`.
        temperature: Divides the cosine similarities, above 0.
        sigma: Pairs that are alike weigh less: each by 2 minus its ``exp(cosine / sigma)`` over the mean of that (DCLW,
            0.5 in the paper); None: all weigh 1.

    Returns:
        Scalar, not bounded below: mean over the 2N views. Orthogonal pairs of equal views give
        ``log(2 N - 2) - 1 / t``.

    Source: Yeh et al. 2022 (DCL), equations 6 and 7.

    Examples:
        >>> z = torch.eye(4)
        >>> round(dcl(z, z, temperature=0.5).item(), 4)  # log 6 - 2
        -0.2082
    """
    similarity, partner = _all_pairs(z1, z2, temperature)
    pairs = torch.arange(len(similarity), device=similarity.device), partner
    positive = similarity[pairs]
    similarity[pairs] = float("-inf")
    weight = torch.ones_like(positive)
    if sigma is not None:
        alike = (positive * (temperature / sigma)).exp()
        weight = 2 - alike / all_mean(alike.mean())
    return all_mean((_logsumexp(similarity) - weight * positive).mean())


@in_float32
def supcon(z1: Tensor, z2: Tensor, label: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss: each view finds its partner and all views of images of its class.

    Args:
        z1: Projections of the first views, (N, D); normalised here.
        z2: Projections of the second views, (N, D); row i belongs to row i of `z1`.
        label: (N,) int64, -1 for images without one, which have their partner alone: with no label at all it is
            `nt_xent`.
        temperature: Divides the cosine similarities, above 0.

    Returns:
        Scalar: mean over the 2N views of the mean cross-entropy of their positives, in nats.

    Source: Khosla et al. 2020 (SupCon), equation 2.

    Examples:
        >>> z = torch.eye(4)
        >>> round(supcon(z, z, torch.tensor([-1, -1, -1, -1]), temperature=0.5).item(), 4)
        0.5944
    """
    similarity, partner = _all_pairs(z1, z2, temperature)
    own = torch.cat([label, label])
    positive = (own[:, None] == gather(own)) & (own >= 0)[:, None]
    positive = positive.scatter(1, partner[:, None], True)
    itself = (rank() * len(own) + torch.arange(len(own), device=own.device))[:, None]
    positive = positive.scatter(1, itself, False)
    log_p = (similarity - _logsumexp(similarity)[:, None]).masked_fill(~positive, 0.0)
    return all_mean(-(log_p.sum(1) / positive.sum(1)).mean())


@in_float32
def info_nce(
    q: Tensor,
    k: Tensor,
    negatives: Tensor,
    temperature: float = 0.2,
    hardness: float = 0.0,
    false_negatives: float = 0.0,
) -> Tensor:
    """InfoNCE with one positive a query and a bank of negatives that all queries share.

    Args:
        q: Queries, (N, D); normalised here, as `k` and `negatives` are.
        k: Keys, (N, D); row i is the positive of query i.
        negatives: (K, D).
        temperature: Divides the cosine similarities, above 0.
        hardness: At least 0: negatives count by their similarity to the query, to this power (the paper's beta).
        false_negatives: Share of the negatives that are taken to be of the query's own class, in [0, 1): so much of
            the positive is taken off them (the paper's tau plus).

    Returns:
        Scalar: mean cross-entropy over the N queries, in nats. Where all similarities are equal, ``log(K + 1)``.

    Source: van den Oord et al. 2018, equation 4; He et al. 2020 (MoCo), equation 1. Hard and false negatives: Robinson
        et al. 2021, Contrastive learning with hard negative samples, equation 4 and the code in its appendix.

    Examples:
        >>> e = torch.eye(4)
        >>> round(info_nce(e[:2], e[:2], e[2:], temperature=1.0).item(), 4)
        0.5514
    """
    # Copies: the bank may be overwritten before the backward pass.
    q, k, negatives = (F.normalize(x, dim=1) for x in (q, k, negatives))
    q = q / temperature
    positive, scores = (q * k).sum(1), q @ negatives.T
    if not hardness and not false_negatives:
        return all_mean(_cross_entropy(positive, scores))
    against = _weighted_negatives(positive, scores, 1 / temperature, hardness, false_negatives)
    return all_mean(-F.logsigmoid(positive - against).mean())


@in_float32
def relational(
    q: Tensor, k: Tensor, others: Tensor, student_temperature: float = 0.1, teacher_temperature: float = 0.04
) -> Tensor:
    """Cross-entropy of how one view stands to other images, to how the other view does.

    Args:
        q: Embeddings of strongly changed views, (N, D); normalised here, as `k` and `others` are.
        k: Embeddings of weakly changed views by a momentum network, (N, D); no gradient reaches them.
        others: Embeddings of other images, (K, D); nor them.
        student_temperature: Divides the similarities of `q`, above 0.
        teacher_temperature: Divides those of `k`: sharper, so smaller.

    Returns:
        Scalar: mean over the N pairs, in nats. ``log(K)`` where all similarities are equal.

    Source: Zheng et al. 2021 (ReSSL), equations 3 to 5.

    Examples:
        >>> round(relational(torch.ones(2, 3), torch.ones(2, 3), torch.eye(3)).item(), 4)  # log 3
        1.0986
    """
    q, k, others = (F.normalize(x, dim=1) for x in (q, k.detach(), others.detach()))
    target = (k @ others.T / teacher_temperature).softmax(1)
    return all_mean(F.cross_entropy(q @ others.T / student_temperature, target))


@in_float32
def batch_nce(q: Tensor, k: Tensor, temperature: float = 0.2) -> Tensor:
    """InfoNCE within a batch: each query finds its key among the keys of all images, one direction.

    Args:
        q: Queries, (N, D); normalised here.
        k: Keys, (N, D); row i is the positive of query i, the others are its negatives; normalised here.
        temperature: Divides the cosine similarities, above 0.

    Returns:
        Scalar: mean cross-entropy over the N queries, in nats. Where all similarities are equal, ``log(N)``.

    Source: Dwibedi et al. 2021 (NNCLR), equation 3; Chen et al. 2021 (MoCo v3), algorithm 1.

    Examples:
        >>> e = torch.eye(4)
        >>> round(batch_nce(e, e, temperature=1.0).item(), 4)
        0.7437
    """
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    return all_mean(_in_batch(q / temperature, k))


@in_float32
def clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of images and their texts: each finds the other among those of all processes.

    Args:
        image: Embeddings of images, (N, D); normalised here.
        text: Embeddings of their texts, (N, D); row i belongs to row i of `image`; normalised here.
        scale: What multiplies the cosines, a scalar above 0: one over the temperature.

    Returns:
        Scalar: mean of the cross-entropies of both directions, in nats. Where all similarities are equal, ``log(N)``.

    Source: Radford et al. 2021 (CLIP), figure 3.

    Examples:
        >>> e = torch.eye(4)
        >>> round(clip(e, e, torch.tensor(1.0)).item(), 4)
        0.7437
    """
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    return all_mean((_in_batch(scale * image, text) + _in_batch(scale * text, image)) / 2)


@in_float32
def siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid loss of images and texts: of each pair by itself, whether the two belong together.

    Args:
        image: Embeddings of images, (N, D); normalised here.
        text: Embeddings of their texts, (N, D); row i belongs to row i of `image`; normalised here.
        scale: What multiplies the cosines, a scalar above 0.
        bias: What is added to them, a scalar: far below 0 at first, as most pairs do not belong together.

    Returns:
        Scalar: binary cross-entropy, in nats, summed over the texts of all processes, mean over the images. With
        scale and bias 0, ``N log 2``.

    Source: Zhai et al. 2023 (SigLIP), equation 1 and algorithm 1.

    Examples:
        >>> e = torch.eye(4)
        >>> round(siglip(e, e, torch.tensor(0.0), torch.tensor(0.0)).item(), 4)  # 4 log 2
        2.7726
    """
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    logits = scale * image @ gather(text).T + bias  # (N, N of all processes)
    own = torch.arange(len(image), device=image.device)
    sign = torch.full_like(logits, -1.0).index_put((own, rank() * len(image) + own), logits.new_ones(()))
    return all_mean(-F.logsigmoid(sign * logits).sum(1).mean())


@in_float32
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Minus the cosine of prediction and target, with the gradient stopped at the target.

    Args:
        p: Predictions, (N, D).
        z: Targets, (N, D); no gradient reaches them.

    Returns:
        Scalar in [-1, 1]: mean over the N pairs.

    Source: Chen & He 2021 (SimSiam), equation 1 and section 3; BYOL's squared distance is ``2 + 2`` times this.

    Examples:
        >>> negative_cosine(torch.eye(2), 3 * torch.eye(2)).item()
        -1.0
    """
    return all_mean(-F.cosine_similarity(p, z.detach(), dim=1).mean())


@in_float32
def pixpro(y: Tensor, k: Tensor, near: Tensor) -> Tensor:
    """Minus the cosine of positions of one view and those of the other view that lie near, one direction.

    Args:
        y: Predictions at each position of the first view, (N, T, D).
        k: Targets at each position of the second view, (N, S, D).
        near: (N, T, S) bool: which are to agree.

    Returns:
        Scalar in [-1, 1]: mean over the N images of the mean over their pairs; 0 for an image that has none.

    Source: Xie et al. 2021 (PixPro), equation 4, half of it; the authors' code takes twice that, as BYOL's does.

    Examples:
        >>> y = torch.eye(2)[None]
        >>> pixpro(y, 3 * y, torch.eye(2, dtype=torch.bool)[None]).item()
        -1.0
    """
    cosine = F.normalize(y, dim=-1) @ F.normalize(k, dim=-1).mT  # (N, T, S)
    return all_mean(-((cosine * near).sum((1, 2)) / near.sum((1, 2)).clamp_min(1)).mean())


@in_float32
def barlow_twins(z1: Tensor, z2: Tensor, lambda_: float = 5e-3) -> Tensor:
    """Cross-correlation of the two views' features over the batch, compared with the identity.

    Args:
        z1: Projections of the first views, (N, D), N at least 2; each feature is standardised over the batch here.
        z2: Projections of the second views, (N, D).
        lambda_: Weight of the off-diagonal terms.

    Returns:
        Scalar: ``sum_i (1 - C_ii)^2 + lambda_ sum_{i != j} C_ij^2``.

    Source: Zbontar et al. 2021 (Barlow Twins), equations 1 and 2.

    Examples:
        >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(barlow_twins(z, z).item(), 4), round(barlow_twins(z, -z).item(), 4)
        (0.0, 8.0)
    """
    c = all_mean(_standardized(z1).T @ _standardized(z2) / len(z1))  # (D, D)
    return (1 - c.diagonal()).square().sum() + lambda_ * _off_diagonal(c).square().sum()


@in_float32
def vicreg(z1: Tensor, z2: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Tensor:
    """Variance, invariance, covariance: views agree, each feature keeps a spread of 1, features are uncorrelated.

    Args:
        z1: Embeddings of the first views, (N, D), N at least 2; not normalised.
        z2: Embeddings of the second views, (N, D).
        invariance: Weight of the mean squared difference of the views (over N and D).
        variance: Weight of the hinge ``max(0, 1 - sqrt(var + 1e-4))``, mean over features and views.
        covariance: Weight of the squared off-diagonal covariances, summed, over D, summed over views.

    Returns:
        Scalar. Variances and covariances have N - 1 in the denominator.

    Source: Bardes et al. 2022 (VICReg), equations 1 to 6; algorithm 1, whose invariance term is the mean over D too.
    Equation 6 sums the hinge over views; the mean is of the authors' code, with which the weights were tuned.

    Examples:
        >>> vicreg(torch.zeros(4, 3), torch.zeros(4, 3)).item()  # collapsed: 25 * (1 - .01)
        24.75
    """
    n, d = len(z1) * world_size(), z1.shape[1]
    loss = invariance * all_mean(F.mse_loss(z1, z2))
    for z in (z1, z2):
        centred = z - all_mean(z.mean(0))
        cov = all_mean(centred.T @ centred / len(z)) * (n / (n - 1))  # (D, D)
        loss = loss + variance * F.relu(1 - (cov.diagonal() + 1e-4).sqrt()).mean() / 2
        loss = loss + covariance * _off_diagonal(cov).square().sum() / d
    return loss


@in_float32
def tico(z1: Tensor, z2: Tensor, c: Tensor, rho: float = 20.0, beta: float = 0.9) -> tuple[Tensor, Tensor]:
    """Transformation invariance and covariance contrast: views agree, and keep away from where embeddings lie already.

    Args:
        z1: Embeddings of the first views, (N, D); normalised here, as `z2` are.
        z2: Embeddings of the second views by a momentum network, (N, D).
        c: Covariance after the steps before this one, (D, D).
        rho: Weight of the contrast.
        beta: Share of `c` that stays, in [0, 1].

    Returns:
        Mean over the N pairs of ``1 - z1.z2 + rho z1.C z1``, and C without its gradient: `beta` of `c`, and else
        the mean outer product of all processes' `z1`, through which the gradient goes too.

    Source: Zhu et al. 2022 (TiCo), algorithm 1.

    Examples:
        >>> z = torch.eye(4)
        >>> loss, c = tico(z, z, torch.zeros(4, 4), rho=8.0, beta=0.5)
        >>> loss.item(), c.diagonal().tolist()
        (1.0, [0.125, 0.125, 0.125, 0.125])
    """
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    moment = all_mean(z1.T @ z1 / len(z1))
    c = beta * c + (1 - beta) * moment
    # The mean of z.Cz over vectors is the sum of C times their mean outer product, which is there already.
    return all_mean(1 - (z1 * z2).sum(1).mean()) + rho * (c * moment).sum(), c.detach()


@in_float32
def whiten(z: Tensor, eps: float = 1e-4) -> Tensor:
    """Vectors with mean 0 and uncorrelated features of variance 1, by the Cholesky factor of their covariance.

    Args:
        z: (..., N, D), N above D: fewer vectors do not span their space.
        eps: The covariance is mixed with so much of a multiple of the identity of equal trace, in (0, 1].

    Returns:
        (..., N, D); of variance nearly 1 for a small `eps` (N - 1 in the denominator). Where all are alike, 0.

    Source: Ermolov et al. 2021 (W-MSE), section 3 and equation 3; Siarohin et al. 2019, Whitening and coloring batch
        transform.
    """
    z = z - z.mean(-2, keepdim=True)
    cov = z.mT @ z / (z.shape[-2] - 1)  # (..., D, D)
    scale = cov.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp_min(torch.finfo(z.dtype).eps)
    identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky((1 - eps) * cov + eps * scale * identity)
    white: Tensor = torch.linalg.solve_triangular(factor, z.mT, upper=False)
    return white.mT


@in_float32
def w_mse(
    views: Sequence[Tensor], order: Tensor | None = None, slice_size: int | None = None, eps: float = 1e-4
) -> Tensor:
    """Squared distance of the views' whitened, then normalised embeddings.

    Args:
        views: Embeddings (N, D) each, two views or more.
        order: (N of all processes,) int64, the same in each: in which order the images are cut into slices; None: as
            they come.
        slice_size: Images that are whitened together; what is left over is left out. None: all of all processes.
        eps: See `whiten`.

    Returns:
        Scalar in [0, 4]: mean over images and pairs of views of ``2 - 2 cos``; 0 where views are equal.

    Source: Ermolov et al. 2021 (W-MSE), equation 6 and section 3.1.

    Examples:
        >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(w_mse([z, 3 * z + 1]).item(), 4), round(w_mse([z, -z]).item(), 4)
        (0.0, 4.0)
    """
    z = torch.stack([gather(view) for view in views])  # (V, N, D)
    z = z if order is None else z[:, order]
    n = min(slice_size or z.shape[1], z.shape[1])
    slices = z[:, : z.shape[1] // n * n].view(len(z), -1, n, z.shape[2])  # (V, slices, n, D)
    v = F.normalize(whiten(slices, eps), dim=-1)
    return torch.stack([2 - 2 * (a * b).sum(-1).mean() for a, b in itertools.combinations(v, 2)]).mean()


@in_float32
def dino(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Cross-entropy of the student's distributions to the teacher's, centred and sharpened, of another crop.

    Args:
        student: Scores of all crops, (N, K) each, the global ones first.
        teacher: Scores of the global crops, (N, K) each; no gradient reaches them.
        center: Subtracted from the teacher's scores alone, (K,) or (1, K); no gradient reaches it.
        student_temperature: Divides the student's scores, above 0.
        teacher_temperature: Divides the teacher's centred scores, above 0.

    Returns:
        Scalar: mean over all pairs of a teacher's and a student's crop but those of the same crop, in nats. Uniform
        distributions give ``log(K)``.

    Source: Caron et al. 2021 (DINO), equation 3 and algorithm 1.

    Examples:
        >>> scores = [torch.zeros(2, 4)] * 3
        >>> round(dino(scores, scores[:2], torch.zeros(4)).item(), 4)
        1.3863
    """
    targets = [((scores - center) / teacher_temperature).softmax(1).detach() for scores in teacher]
    return _across_views(student, targets, student_temperature)


@in_float32
def swav(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Swapped prediction: each crop's scores predict the codes of the other crops.

    Args:
        scores: Scores of all crops against the prototypes, (N, K) each, those with codes first.
        codes: Codes of the global crops, (N, K) each, rows summing to 1; no gradient reaches them.
        temperature: Divides the scores, above 0.

    Returns:
        Scalar: mean over all pairs of a code and another crop's scores, in nats.

    Source: Caron et al. 2020 (SwAV), equations 1, 2 and 6.

    Examples:
        >>> scores = [torch.zeros(2, 4)] * 3
        >>> round(swav(scores, [torch.eye(4)[:2]] * 2).item(), 4)
        1.3863
    """
    return _across_views(scores, [code.detach() for code in codes], temperature)


@in_float32
def clusters(z: Sequence[Tensor], centroids: Tensor, assigned: Tensor, temperature: float = 0.1) -> Tensor:
    """Each crop tells its image's cluster, in several clusterings.

    Args:
        z: Embeddings of all crops, (N, D) each; normalised here.
        centroids: Unit vectors, (H, K, D): K clusters in each of H clusterings.
        assigned: (H, N) int64: the cluster of each image.
        temperature: Divides the cosines, above 0.

    Returns:
        Scalar: mean cross-entropy over images, crops and clusterings, in nats. Where all centroids are equally near,
        ``log(K)``.

    Source: Caron et al. 2020 (SwAV), section 4.1, DeepCluster v2; the authors' ``main_deepclusterv2.py``.

    Examples:
        >>> round(clusters([torch.ones(2, 4)], torch.eye(4)[None], torch.tensor([[0, 3]])).item(), 4)
        1.3863
    """
    each = []
    for crop in z:
        scores = F.normalize(crop, dim=1) @ centroids.mT / temperature  # (H, N, K)
        each.append(F.cross_entropy(scores.flatten(0, 1), assigned.flatten()))
    return all_mean(torch.stack(each).mean())


@in_float32
@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Codes that use all prototypes equally: the Sinkhorn-Knopp iteration.

    Args:
        scores: Scores of the samples against the prototypes, (N, K).
        epsilon: Smoothness, above 0: the smaller, the nearer to one prototype a sample.
        iterations: Of alternately normalising prototypes and samples, at least 1.

    Returns:
        (N, K), without gradient: each row sums to 1, each column to about N / K.

    Source: Caron et al. 2020 (SwAV), equations 3 to 5 and appendix A.

    Examples:
        >>> sinkhorn(torch.zeros(2, 4))[0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    logits = scores / epsilon
    # The first iteration in logarithms: no sample and no prototype, however far from all others, is lost to underflow.
    q = (logits - gather(logits.logsumexp(0, keepdim=True)).logsumexp(0)).softmax(1)
    for _ in range(iterations - 1):
        q = q / all_mean(q.sum(0))
        q = q / q.sum(1, keepdim=True)
    return q


@in_float32
@torch.no_grad()
def entropies(p: Tensor) -> Tensor:
    """Entropy of distributions over prototypes, and entropy of their mean: how sharp they are, how many are used.

    Args:
        p: (N, K), rows sum to 1.

    Returns:
        (2,), without gradient: the first as a share of ``log(K)``, the second of ``log(min(K, N))`` and at most
        1. (1, 1) where all are uniform, (0, 0) where all are one prototype; (0, 1) where each is one of its own.

    Source: Caron et al. 2021 (DINO), section 5.3: a collapse is an entropy of 0 or of ``log(K)``.

    Examples:
        >>> entropies(torch.eye(4))
        tensor([0., 1.])
    """
    mean = all_mean(p.mean(0))
    own, joint = (torch.special.entr(each).sum(-1).mean() for each in (p, mean))
    n, k = len(p) * world_size(), p.shape[1]
    return torch.stack([all_mean(own) / math.log(k), (joint / math.log(min(n, k))).clamp_max(1)])


@in_float32
def cpc(context: Tensor, futures: Tensor, negatives: Tensor, own: Tensor | None = None) -> Tensor:
    """InfoNCE of contrastive predictive coding: the future that a context predicts is found among other encodings.

    Args:
        context: Predictions ``W_k c_t`` of one step k, (M, D).
        futures: Encodings ``z_{t+k}``, (M, D); row i is what row i of `context` should predict.
        negatives: Encodings of other positions and other images, (K, D), shared by all predictions.
        own: (M,) int64: the row of `negatives` that is the future itself and is left out, -1 where it is not among
            them; None: it never is.

    Returns:
        Scalar: mean cross-entropy over the M predictions, in nats; scores are dot products, as in the paper's
        log-bilinear model. Where all are equal, the logarithm of the number of candidates.

    Source: van den Oord et al. 2018 (CPC), equations 3 and 4.

    Examples:
        >>> round(cpc(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(7, 3)).item(), 4)  # log 8
        2.0794
    """
    scores = context @ negatives.T  # (M, K)
    if own is not None:
        scores = scores.masked_fill_(own[:, None] == torch.arange(len(negatives), device=own.device), float("-inf"))
    return all_mean(_cross_entropy((context * futures).sum(1), scores))


def _all_pairs(z1: Tensor, z2: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cosines of all views, (2N, 2N of all processes), over the temperature, and the column of each view's partner.

    No view is its own candidate: there it is minus infinity.
    """
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)  # (2N, D)
    similarity = z / temperature @ gather(z).T
    own = 2 * n * rank()
    similarity[:, own : own + 2 * n].fill_diagonal_(float("-inf"))
    return similarity, own + torch.arange(2 * n, device=z.device).roll(n)


def _in_batch(q: Tensor, k: Tensor) -> Tensor:
    """Mean cross-entropy of each query (N, D) to its own among the keys of all processes; scores are products."""
    similarity = q @ gather(k).T  # (N, N of all processes)
    return F.cross_entropy(similarity, rank() * len(q) + torch.arange(len(q), device=q.device))


def _cross_entropy(positive: Tensor, negatives: Tensor) -> Tensor:
    """Mean cross-entropy of the positive (N,) against itself and the negatives (N, K), without joining the two."""
    # A loss near 0 as a difference of two large logarithms would have no digits left.
    return -F.logsigmoid(positive - _logsumexp(negatives)).mean()


def _weighted_negatives(
    positive: Tensor, scores: Tensor, largest: float, hardness: float, false_negatives: float
) -> Tensor:
    """Logarithm of what a positive (N,) stands against: negatives (N, K) that count by their hardness, less false ones.

    Scores are from minus `largest` on, below which the mean of the negatives does not fall.
    """
    count = math.log(scores.shape[1])
    hard = _logsumexp((1 + hardness) * scores) - _logsumexp(hardness * scores) + count
    # The exponent is bounded, lest infinity times a gradient of 0 is no number.
    false = false_negatives * (count + positive - hard).clamp_max(50).exp()
    true = (1 - false).clamp_min(torch.finfo(false.dtype).tiny).log() - math.log(1 - false_negatives)
    return (hard + true).clamp_min(count - largest)


def _logsumexp(scores: Tensor) -> Tensor:
    """Logarithm of each row's summed exponentials, (N, K) to (N,), in half the memory of `Tensor.logsumexp`.

    A row of minus infinities gives a very small number and no gradient.
    """
    limits = torch.finfo(scores.dtype)
    largest = scores.detach().amax(1, keepdim=True).clamp_min(limits.min)
    # In place: the exponentials are all that the backward pass needs.
    return (scores - largest).exp_().sum(1).clamp_min(limits.tiny).log() + largest.squeeze(1)


def _across_views(scores: Sequence[Tensor], targets: list[Tensor], temperature: float) -> Tensor:
    """Mean cross-entropy of every view's scores (N, K) to the target distributions of the other views."""
    total, pairs = scores[0].new_zeros(()), 0
    every = sum(targets[1:], targets[0])
    for view, each in enumerate(scores):
        others = targets[:view] + targets[view + 1 :]
        if others:
            target = every if view >= len(targets) else sum(others[1:], others[0])
            total = total + F.cross_entropy(each / temperature, target)
            pairs += len(others)
    return all_mean(total / pairs)


def _standardized(z: Tensor) -> Tensor:
    """Each feature with mean 0 and variance 1 over the batch of all processes; a constant one becomes 0."""
    eps = torch.finfo(z.dtype).eps
    if world_size() == 1:
        return F.batch_norm(z, None, None, training=True, eps=eps)  # the same in fewer passes
    centred = z - all_mean(z.mean(0))
    return centred * (all_mean(centred.square().mean(0)) + eps).rsqrt()


def _off_diagonal(c: Tensor) -> Tensor:
    """The elements off the diagonal of (D, D), as (D - 1, D): all but every (D + 1)-th."""
    d = len(c)
    return c.flatten()[1:].view(d - 1, d + 1)[:, :-1]
