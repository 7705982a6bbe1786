"""One training step of each method beside what its authors publish, written anew: equal loss, equal gradient.

Both start from equal weights, in training mode and float64, so that batch norms, stopped gradients, followers and
heads count as they do in training. ``python -m tests.contrastive.test_authors`` prints the differences as a table.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_toolkit.contrastive.queue import Queue
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.masking import inverse_block_masking, random_masking
from ssl_toolkit.methods import method_class

Step = Callable[[Any, list[Tensor]], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(1)[torch.arange(len(logits)), labels].mean()


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def simclr(m: Any, views: list[Tensor]) -> Tensor:
    """``objective.py``, whose two directions are added; the paper's algorithm 1 takes the mean over all 2N views."""
    a, b = unit(m.projector(m.encoder(torch.cat(views)))).chunk(2)
    n = len(a)
    own, labels = torch.eye(n, dtype=torch.bool), torch.arange(n)

    def direction(one: Tensor, other: Tensor) -> Tensor:
        same = (one @ one.T / m.temperature).masked_fill(own, -1e9)
        return cross_entropy(torch.cat([one @ other.T / m.temperature, same], 1), labels)

    return (direction(a, b) + direction(b, a)) / 2


def dcl(m: Any, views: list[Tensor]) -> Tensor:
    """``loss/dcl.py`` with its weights (DCLW), the mean of both directions."""
    a, b = unit(m.projector(m.encoder(torch.cat(views)))).chunk(2)
    n = len(a)
    own = torch.eye(n, dtype=torch.bool).repeat(1, 2)
    weight = 2 - n * ((a * b).sum(1) / m.sigma).softmax(0)

    def direction(one: Tensor, other: Tensor) -> Tensor:
        negative = (torch.cat([one @ one.T, one @ other.T], 1) / m.temperature).masked_fill(own, -torch.inf)
        return (-weight * (one * other).sum(1) / m.temperature + negative.logsumexp(1)).mean()

    return (direction(a, b) + direction(b, a)) / 2


def supcon(m: Any, views: list[Tensor]) -> Tensor:
    """``losses.py`` of SupContrast, both views as anchors, its two temperatures alike."""
    a, b = unit(m.projector(m.encoder(torch.cat(views)))).chunk(2)
    n, features = len(a), torch.cat([a, b])
    same = (LABELS[:, None] == LABELS).repeat(2, 2)
    others = ~torch.eye(2 * n, dtype=torch.bool)
    logits = features @ features.T / m.temperature
    log_p = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return -((same & others) * log_p).sum(1).div((same & others).sum(1)).mean()


def ressl(m: Any, views: list[Tensor]) -> Tensor:
    """``network/ressl.py`` and ``train.py``, one crop."""
    q = unit(m.projector(m.encoder(views[0])))
    with torch.no_grad():
        k = unit(m.key_projector(m.key_encoder(views[1])))
    bank = m.queue.vectors.clone()
    student, teacher = (torch.einsum("nc,kc->nk", x, bank) for x in (q, k))
    return -((teacher / 0.04).softmax(1) * (student / 0.1).log_softmax(1)).sum(1).mean()


def moco(m: Any, views: list[Tensor]) -> Tensor:
    """``moco/builder.py`` (v1 and v2)."""
    q = unit(m.projector(m.encoder(views[0])))
    with torch.no_grad():
        k = unit(m.key_projector(m.key_encoder(views[1])))
    positive = torch.einsum("nc,nc->n", q, k)[:, None]
    negative = torch.einsum("nc,kc->nk", q, m.queue.vectors.clone())
    return cross_entropy(torch.cat([positive, negative], 1) / m.temperature, torch.zeros(len(q), dtype=torch.long))


def hard_moco(m: Any, views: list[Tensor]) -> Tensor:
    """``criterion`` of HCL's ``image/main.py``, with MoCo's keys and queue in the place of the batch."""
    q = unit(m.projector(m.encoder(views[0])))
    with torch.no_grad():
        k = unit(m.key_projector(m.key_encoder(views[1])))
    bank = m.queue.vectors.clone()
    neg, pos = (q @ bank.T / m.temperature).exp(), ((q * k).sum(1) / m.temperature).exp()
    importance = (m.hardness * neg.log()).exp()
    reweighted = (importance * neg).sum(1) / importance.mean(1)
    against = (-m.false_negatives * len(bank) * pos + reweighted) / (1 - m.false_negatives)
    against = against.clamp(min=len(bank) * math.exp(-1 / m.temperature))
    return -(pos / (pos + against)).log().mean()


def dense_cl(m: Any, views: list[Tensor]) -> Tensor:
    """``densecl.py`` and ``DenseCLNeck`` of ``necks.py``, its 1x1 convolutions as linear layers."""
    b, kb = m.encoder.feature_map(views[0]), m.key_encoder.feature_map(views[1]).detach()
    q, kq = b.mean((2, 3)), kb.mean((2, 3))
    tokens, key_tokens = (x.flatten(2).transpose(1, 2) for x in (b, kb))
    q, grid = unit(m.projector(q)), m.dense_projector(tokens)
    with torch.no_grad():
        k, key_grid = unit(m.key_projector(kq)), m.key_dense_projector(key_tokens)
    grid, key_grid = (x / x.norm(dim=2, keepdim=True) for x in (grid, key_grid))
    alike = torch.stack([unit(x) @ unit(y).T for x, y in zip(tokens, key_tokens, strict=True)])
    chosen = torch.stack([y[row] for y, row in zip(key_grid, alike.max(dim=2)[1], strict=True)])

    def head(positive: Tensor, negative: Tensor) -> Tensor:
        logits = torch.cat([positive[:, None], negative], 1) / m.temperature
        return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))

    single = head((q * k).sum(1), q @ m.queue.vectors.clone().T)
    flat = grid.reshape(-1, grid.shape[2])
    dense = head((grid * chosen).sum(2).view(-1), flat @ m.dense_queue.vectors.clone().T)
    return single * (1 - m.dense_weight) + dense * m.dense_weight


def moco_v3(m: Any, views: list[Tensor]) -> Tensor:
    """``moco/builder.py`` of v3."""
    q1, q2 = (m.predictor(m.projector(m.encoder(view))) for view in views)
    with torch.no_grad():
        k1, k2 = (m.key_projector(m.key_encoder(view)) for view in views)

    def contrast(q: Tensor, k: Tensor) -> Tensor:
        logits = torch.einsum("nc,mc->nm", unit(q), unit(k)) / m.temperature
        return cross_entropy(logits, torch.arange(len(logits))) * (2 * m.temperature)

    return contrast(q1, k2) + contrast(q2, k1)


def byol(m: Any, views: list[Tensor]) -> Tensor:
    """``byol_experiment.py``: the squared distance of unit vectors, added over both directions."""
    with torch.no_grad():
        z1, z2 = (m.target_projector(m.target_encoder(view)) for view in views)
    q1, q2 = (m.predictor(m.projector(m.encoder(view))) for view in views)
    return sum(((unit(q) - unit(z)) ** 2).sum(1).mean() for q, z in ((q1, z2), (q2, z1)))  # type: ignore[return-value]


def simsiam(m: Any, views: list[Tensor]) -> Tensor:
    """``simsiam/builder.py`` and the loss in ``main_simsiam.py``."""
    z1, z2 = (m.projector(m.encoder(view)) for view in views)
    p1, p2 = m.predictor(z1), m.predictor(z2)
    cosine = nn.CosineSimilarity(dim=1)
    return -(cosine(p1, z2.detach()).mean() + cosine(p2, z1.detach()).mean()) * 0.5


def barlow_twins(m: Any, views: list[Tensor]) -> Tensor:
    """``main.py``, without the 1e-5 that its batch norm adds to each variance."""
    z1, z2 = (m.projector(m.encoder(view)) for view in views)
    a, b = ((z - z.mean(0)) / z.std(0, correction=0) for z in (z1, z2))
    c = a.T @ b / len(z1)
    on = (c.diagonal() - 1).pow(2).sum()
    return on + m.lambda_ * (c - c.diagonal().diag()).pow(2).sum()


def vicreg(m: Any, views: list[Tensor]) -> Tensor:
    """``main_vicreg.py``."""
    x, y = (m.projector(m.encoder(view)) for view in views)
    similar, n, d = F.mse_loss(x, y), *x.shape
    x, y = x - x.mean(0), y - y.mean(0)
    spread = sum((F.relu(1 - (z.var(0) + 1e-4).sqrt())).mean() / 2 for z in (x, y))
    cov = [z.T @ z / (n - 1) for z in (x, y)]
    apart = sum((c - c.diagonal().diag()).pow(2).sum() / d for c in cov)
    return m.weights[0] * similar + m.weights[1] * spread + m.weights[2] * apart


def tico(m: Any, views: list[Tensor]) -> Tensor:
    """Algorithm 1 of the paper, whose authors published no code; its covariance has a past."""
    z1 = unit(m.projector(m.encoder(views[0])))
    with torch.no_grad():
        z2 = unit(m.key_projector(m.key_encoder(views[1])))
    c = m.beta * m.covariance.clone() + (1 - m.beta) * torch.mm(z1.T, z1) / len(z1)
    return 1 - (z1 * z2).sum(1).mean() + m.rho * (torch.mm(z1, c) * z1).sum(1).mean()


def w_mse(m: Any, views: list[Tensor]) -> Tensor:
    """``methods/w_mse.py`` and ``whitening.py`` of the authors, one slice; they add nothing to the covariance."""
    n = len(views[0])
    h = m.projector(torch.cat([m.encoder(view) for view in views]))

    def white(z: Tensor) -> Tensor:
        z = z - z.mean(0)
        return z @ torch.linalg.cholesky(z.T @ z / (n - 1)).inverse().T

    a, b = (unit(white(each)) for each in h.split(n))
    return 2 - 2 * (a * b).sum(1).mean()


def nnclr(m: Any, views: list[Tensor]) -> Tensor:
    """Algorithm 1 of the paper, in PyTorch's words there too."""
    z1, z2 = (m.projector(m.encoder(view)) for view in views)
    p1, p2 = m.predictor(z1), m.predictor(z2)
    support = m.queue.vectors.clone()

    def loss(z: Tensor, p: Tensor) -> Tensor:
        nearest = support[(unit(z.detach()) @ support.T).argmax(1)]
        logits = unit(nearest) @ unit(p).T / m.temperature
        return cross_entropy(logits, torch.arange(len(logits)))

    return loss(z1, p2) / 2 + loss(z2, p1) / 2


def dino(m: Any, views: list[Tensor]) -> Tensor:
    """``utils.MultiCropWrapper`` and ``DINOLoss`` of ``main_dino.py``, its temperature that of the first step."""
    crops, n = list(views), len(views[0])
    teacher = m.teacher_head(m.teacher_encoder(torch.cat(crops[:2]))).detach().chunk(2)
    features = torch.cat([m.encoder(torch.cat(crops[:2])), *([m.encoder(torch.cat(crops[2:]))] if crops[2:] else [])])
    student = m.head(features).split(n)
    total, terms = torch.zeros((), dtype=features.dtype), 0
    for i, scores in enumerate(teacher):
        q = ((scores - m.center) / m.first_teacher_temperature).softmax(-1)
        for v, other in enumerate(student):
            if v != i:
                total = total + torch.sum(-q * (other / m.student_temperature).log_softmax(-1), dim=-1).mean()
                terms += 1
    return total / terms


def swav(m: Any, views: list[Tensor]) -> Tensor:
    """``main_swav.py`` before its queue starts, one process."""
    n, crops = len(views[0]), len(views)
    small = [m.encoder(torch.cat(views[2:]))] if crops > 2 else []
    output = m.prototypes(unit(m.projector(torch.cat([m.encoder(torch.cat(views[:2])), *small]))))
    loss = torch.zeros((), dtype=output.dtype)
    for crop in range(2):
        q = (output[n * crop : n * (crop + 1)].detach() / m.epsilon).exp().T
        q /= q.sum()
        for _ in range(m.iterations):
            q /= q.sum(1, keepdim=True) * len(q)
            q /= q.sum(0, keepdim=True) * n
        code = (q * n).T
        each = torch.zeros((), dtype=output.dtype)
        for v in range(crops):
            if v != crop:
                each = each - (code * (output[n * v : n * (v + 1)] / m.temperature).log_softmax(1)).sum(1).mean()
        loss = loss + each / (crops - 1)
    return loss / 2


def deepcluster_v2(m: Any, views: list[Tensor]) -> Tensor:
    """``main_deepclusterv2.py``: its assignments are those of what is remembered, view by view."""
    large, small = torch.cat(views[:2]), torch.cat(views[2:])
    emb = unit(m.projector(torch.cat([m.encoder(large), m.encoder(small)])))
    banks = m.memory.vectors.chunk(2, dim=1)
    loss = torch.zeros((), dtype=emb.dtype)
    for head, prototypes in enumerate(m.centroids):
        targets = (banks[head % 2] @ prototypes.T).max(dim=1)[1]
        loss = loss + cross_entropy(emb @ prototypes.T / m.temperature, targets.repeat(len(views)))
    return loss / len(m.centroids)


def pirl(m: Any, views: list[Tensor]) -> Tensor:
    """``nce_loss.py`` of VISSL, cross-entropy, its negatives all other memories; ``siamese_concat_view.py``."""
    f = unit(m.projector(m.encoder(views[0])))
    towers = [m.tile_projector(m.encoder(tile)) for tile in m._tiles(views[1]).unbind(1)]
    g = unit(m.jigsaw_projector(torch.cat(towers, dim=1)))
    bank = m.memory.vectors.clone()
    loss = torch.zeros((), dtype=f.dtype)
    for output in (g, f):
        scores = torch.einsum("nc,kc->nk", output, bank) / m.temperature
        loss = loss + 0.5 * cross_entropy(scores, torch.arange(N))
    return loss


def pixpro(m: Any, views: list[Tensor]) -> Tensor:
    """``PixPro.py``, whose loss is twice the paper's, and which adds 1e-6 to the number of pairs."""

    def positions(projector: nn.Module, x: Tensor) -> Tensor:
        return projector(x.flatten(2).transpose(1, 2).flatten(0, 1)).view(N, -1, m.value.in_features)

    def propagated(x: Tensor) -> Tensor:
        value, x = F.normalize(m.value(x), dim=2), F.normalize(x, dim=2)
        attention = torch.bmm(x, x.transpose(1, 2)).clamp(min=0.0) ** m.sharpness
        return F.normalize(torch.bmm(attention, value), dim=2)

    image1, image2, place1, place2 = views
    feature1, feature2 = (m.encoder.feature_map(image) for image in (image1, image2))
    side = feature1.shape[2]
    pred1, pred2 = (propagated(positions(m.projector, feature)) for feature in (feature1, feature2))
    with torch.no_grad():
        keys = [positions(m.key_projector, m.key_encoder.feature_map(image)) for image in (image1, image2)]
        k1, k2 = (F.normalize(key, dim=2) for key in keys)

    def grid(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = torch.arange(side, dtype=at.dtype)
        x_array, y_array = count.view(1, 1, -1).repeat(1, side, 1), count.view(1, -1, 1).repeat(1, 1, side)
        y0, x0, y1, x1 = (each.view(-1, 1, 1) for each in at.unbind(1))
        wide, high = (x1 - x0) / side, (y1 - y0) / side
        return (x_array + 0.5) * wide + x0, (y_array + 0.5) * high + y0, (wide**2 + high**2).sqrt()

    def regression(q: Tensor, k: Tensor, at_q: Tensor, at_k: Tensor) -> Tensor:
        (qx, qy, q_diagonal), (kx, ky, k_diagonal) = grid(at_q), grid(at_k)
        x, y = (a.flatten(1)[:, :, None] - b.flatten(1)[:, None] for a, b in ((qx, kx), (qy, ky)))
        mask = ((x**2 + y**2).sqrt() / torch.max(q_diagonal, k_diagonal) < m.distance).to(q.dtype)
        return -2 * ((torch.bmm(q, k.transpose(1, 2)) * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).mean()

    return (regression(pred1, k2, place1, place2) + regression(pred2, k1, place2, place1)) / 2


def lejepa(m: Any, views: list[Tensor]) -> Tensor:
    """Algorithms 1 and 2 of the paper, which are PyTorch's words there too."""
    features = torch.cat([m.encoder(torch.cat(views[:2])), m.encoder(torch.cat(views[2:]))])
    z = m.projector(features).view(len(views), len(views[0]), -1)
    a, t = m._directions(z), torch.linspace(-5, 5, 17, dtype=torch.double)
    exp_f = torch.exp(-0.5 * t**2)
    total = torch.zeros((), dtype=torch.double)
    for x in z:
        ecf = (1j * (x @ a).unsqueeze(2) * t).exp().mean(0)
        error = (ecf - exp_f).abs().square().mul(exp_f)
        total = total + (torch.trapezoid(error, t, dim=1) * len(x)).mean()
    distance = (z[:2].mean(0) - z).square().mean()
    return (1 - m.regularization) * distance + m.regularization * total / len(views)


def masked_tokens(m: Any, image: Tensor, hidden: Tensor) -> Tensor:
    """``prepare_tokens_with_masks`` of DINOv2 and what follows it: the student's tokens, (N, 1 + L, D)."""
    net = m.encoder.backbone
    x = net.patch_embed(m.encoder.normalize(image)).flatten(1, 2)
    x = torch.where(hidden.unsqueeze(-1), m.mask_token.view(1, 1, -1), x)
    x = torch.cat([net.cls_token.expand(len(x), -1, -1), x], 1) + net.pos_embed
    return net.norm(net.blocks(x))


def all_tokens(encoder: Encoder, image: Tensor) -> Tensor:
    return encoder.backbone.forward_features(encoder.normalize(image))


def sinkhorn_knopp(scores: Tensor, temperature: float) -> Tensor:
    """``sinkhorn_knopp_teacher`` of DINOv2."""
    q = (scores / temperature).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def dinov2(m: Any, views: list[Tensor]) -> Tensor:
    """``ssl_meta_arch.py``, ``koleo_loss.py``, ``ibot_patch_loss.py``, its temperature that of the first step."""
    n, tau, temp = len(views[0]), m.temperatures[0], m.temperatures[2]
    crops = torch.cat(views[:2])
    hidden = m._masking(crops)[0]
    with torch.no_grad():
        teacher = all_tokens(m.teacher_encoder, crops)
        cls, patches = m.teacher_head(teacher[:, 0]), m.teacher_patch_head(teacher[:, 1:][hidden])
        if m.centers is None:
            cls, patches = sinkhorn_knopp(cls, tau), sinkhorn_knopp(patches, tau)
        else:
            cls, patches = ((x - c) / tau for x, c in zip((cls, patches), m.centers, strict=True))
            cls, patches = cls.softmax(-1), patches.softmax(-1)
    student = masked_tokens(m, crops, hidden)
    local = m.head(m.encoder(torch.cat(views[2:]))).chunk(len(views) - 2)
    whole = m.head(student[:, 0])

    def cross(t: Tensor, s: Tensor) -> Tensor:
        return -(t * (s / temp).log_softmax(-1)).sum(-1)

    terms = 2 + 2 * len(local)
    loss = sum(cross(t, s).mean() for t in cls.chunk(2) for s in local) / terms
    loss = loss + 2 * cross(cls.roll(n, 0), whole).mean() / terms
    weight = (1 / hidden.double().sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(hidden)[hidden]
    loss = loss + (cross(patches, m.patch_head(student[:, 1:][hidden])) * weight).sum() / len(hidden)
    if m.koleo_weight:
        for x in student[:, 0].chunk(2):
            x = F.normalize(x, eps=1e-8, p=2, dim=-1)
            dots = x @ x.T
            dots.view(-1)[:: len(x) + 1].fill_(-1)
            distance = nn.PairwiseDistance(2, eps=1e-8)(x, x[dots.argmax(1)])
            loss = loss - m.koleo_weight * torch.log(distance + 1e-8).mean()
    return loss


def ibot(m: Any, views: list[Tensor]) -> Tensor:
    """The same with centring and a shared head, which is iBOT's loss of ``main_ibot.py``."""
    return dinov2(m, views)


def i_jepa(m: Any, views: list[Tensor]) -> Tensor:
    """``train.py``, ``forward_target``, ``forward_context`` and ``loss_fn``, the predictor block by block."""
    context, blocks = m._masking(views[0])
    n = torch.arange(len(views[0]))[:, None]
    with torch.no_grad():
        h = all_tokens(m.teacher_encoder, views[0])[:, 1:]
        h = F.layer_norm(h, (h.size(-1),))
    net = m.encoder.backbone
    x = net.patch_embed(m.encoder.normalize(views[0])).flatten(1, 2) + net.pos_embed[:, 1:]
    first = (net.cls_token + net.pos_embed[:, :1]).expand(len(x), -1, -1)
    z = net.norm(net.blocks(torch.cat([first, x[n, context]], 1)))[:, 1:]
    loss = [F.smooth_l1_loss(m.predictor(z, context, b[:, None], (4, 4))[:, 0], h[n, b]) for b in blocks.unbind(1)]
    return torch.stack(loss).mean()


def data2vec2(m: Any, views: list[Tensor]) -> Tensor:
    """``data2vec2.py`` and ``Decoder2d`` of fairseq, its sums over a device as means, blocks normed in front."""
    net, teacher = m.encoder.backbone, m.teacher_encoder.backbone

    def embedded(vit: Any) -> tuple[Tensor, Tensor]:
        patches = vit.patch_embed(m.encoder.normalize(views[0])).flatten(1, 2) + vit.pos_embed[:, 1:]
        return (vit.cls_token + vit.pos_embed[:, :1]).expand(len(patches), -1, -1), patches

    with torch.no_grad():
        x, layers = torch.cat(embedded(teacher), 1), []
        for block in teacher.blocks:
            x = x + block.attn(block.norm1(x))
            layers.append(block.mlp(block.norm2(x)))
            x = x + layers[-1]
        layers = [F.instance_norm(each[:, 1:].transpose(1, 2)).transpose(1, 2) for each in layers[-m.layers :]]
        y = F.layer_norm(sum(layers[1:], layers[0]) / len(layers), layers[0].shape[-1:])
    visible, hidden = inverse_block_masking(m.masks * len(x), (4, 4), m.mask_ratio, m.mask_patches)
    rows = torch.arange(len(visible))[:, None]
    first, patches = (each.repeat_interleave(m.masks, 0) for each in embedded(net))
    x, y = net.norm(net.blocks(torch.cat([first, patches[rows, visible]], 1))), y.repeat_interleave(m.masks, 0)
    z = 0.01 * torch.randn(*y.shape, dtype=y.dtype)
    z[rows, visible] = x[:, 1:]
    z = z.transpose(1, 2).reshape(len(y), -1, 4, 4)
    for conv in m.decoder.layers:
        new = conv(z).permute(0, 2, 3, 1)
        new = F.gelu(F.layer_norm(new, new.shape[-1:])).permute(0, 3, 1, 2)
        z = z + new if z.shape == new.shape else new
    predicted = m.decoder.out(z.flatten(2).transpose(1, 2))

    def d2v_loss(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).pow(2).sum() / math.sqrt(x.shape[-1])

    token = d2v_loss(x[:, 0], y.mean(1)) * m.class_weight / len(x)
    return d2v_loss(predicted[hidden], y[hidden]) / hidden.sum() + token


def msn(m: Any, views: list[Tensor]) -> Tensor:
    """``losses.py`` (``init_msn_loss``) with Sinkhorn and mean entropy, and ``msn_train.py``."""
    visible, _ = random_masking(len(views[0]), 16, m.mask_ratio)
    net, n = m.encoder.backbone, torch.arange(len(views[0]))[:, None]
    x = net.patch_embed(m.encoder.normalize(views[1])).flatten(1, 2) + net.pos_embed[:, 1:]
    first = (net.cls_token + net.pos_embed[:, :1]).expand(len(x), -1, -1)
    anchor = net.norm(net.blocks(torch.cat([first, x[n, visible]], 1)))[:, 0]
    anchors = torch.cat([m.head(anchor), m.head(m.encoder(torch.cat(views[2:])))])  # the head is part of ``deit.py``
    prototypes = unit(m.prototypes.weight)

    def snn(query: Tensor) -> Tensor:
        return (unit(query) @ prototypes.T / 0.1).softmax(1)

    with torch.no_grad():
        target = snn(m.teacher_head(m.teacher_encoder(views[0]))) ** (1 / 0.25)
        target = sinkhorn_knopp((target / target.sum(1, keepdim=True)).log(), 1.0)
        target = torch.cat([target] * (len(views) - 1))
    probs = snn(anchors)
    mean = probs.mean(0)
    regularizer = math.log(len(mean)) - torch.log(mean ** (-mean)).sum()
    return torch.log(probs ** (-target)).sum(1).mean() + m.regularization * regularizer


AUTHORS: dict[str, Step] = {
    "simclr": simclr, "dcl": dcl, "supcon": supcon, "moco": moco, "moco hard": hard_moco, "dense_cl": dense_cl,
    "moco_v3": moco_v3, "ressl": ressl, "byol": byol, "simsiam": simsiam, "barlow_twins": barlow_twins,
    "vicreg": vicreg, "tico": tico, "w_mse": w_mse, "nnclr": nnclr, "dino": dino, "swav": swav,
    "deepcluster_v2": deepcluster_v2, "pirl": pirl, "pixpro": pixpro,
    "lejepa": lejepa, "ibot": ibot, "dinov2": dinov2, "i_jepa": i_jepa, "msn": msn, "data2vec2": data2vec2,
}  # fmt: skip
MULTICROP = ("dino", "swav", "lejepa", "ibot", "dinov2", "msn")
JOINT = ("simsiam", "barlow_twins", "vicreg", "nnclr")
OPTIONS: dict[str, dict[str, Any]] = {
    "dense_cl": {"dense_weight": 0.3},
    "dino": {"head_norm": True},
    "data2vec2": {"masks": 2, "layers": 4, "class_weight": 0.5, "decoder_dim": 32, "decoder_depth": 2},
    "dcl": {"sigma": 0.5},
    "moco hard": {"hardness": 1.0, "false_negatives": 0.01},
    "w_mse": {"projection_dim": 4, "eps": 1e-14},
}
N, SIZE = 12, 16
CROPS = {name: [SIZE, SIZE, 8, 8] for name in (*MULTICROP, "deepcluster_v2")} | {"pirl": [SIZE, 36]}  # px
LABELS = torch.arange(N) % 5


def made(name: str, **options: Any) -> tuple[Any, list[Tensor]]:
    """A method with small heads in float64 and training mode, followers that have moved, and its views."""
    found = method_class(name.split()[0])
    torch.manual_seed(0)
    sizes = {"projection_dim": 12, "hidden_dim": 16, "queue_size": 24, "prototypes": 20, "bottleneck_dim": 12}
    names = found.__init__.__code__.co_varnames
    heads = {key: value for key, value in sizes.items() if key in names}
    vit = {"name": "test_vit", "patch_size": 4} if found.default_encoder.startswith("vit") else {"name": "convnet"}
    encoder = Encoder(EncoderConfig(image_size=SIZE, load_size=SIZE, **vit))
    method = found(encoder, found.default_views(SIZE), **{**heads, **OPTIONS.get(name, {}), **options}).double().train()
    with torch.no_grad():
        for key, p in method.named_parameters():
            if key.startswith(("key_", "target_", "teacher_")):
                p += 0.1 * torch.randn_like(p) * p.std().nan_to_num()
        for part in method.modules():
            if isinstance(part, Queue):
                part.vectors.copy_(unit(part.vectors))  # to the last digit
        if hasattr(method, "memory"):
            halves = torch.randn(N, method.memory.vectors.shape[1] // 12, 12, dtype=torch.double)
            method.memory.hold(N)
            method.memory.vectors.copy_((halves / halves.norm(dim=2, keepdim=True)).flatten(1))
        if hasattr(method, "covariance"):
            method.covariance.add_(torch.eye(len(method.covariance)) / len(method.covariance))
    crops = CROPS.get(name, [SIZE, SIZE])
    images = torch.rand(N, 3, 1, 1, dtype=torch.double)  # each with a colour of its own, under noise
    views = [(images + 0.3 * torch.rand(N, 3, side, side, dtype=torch.double)) / 1.3 for side in crops]
    if method.views.places:
        views += [6 * torch.rand(N, 4, dtype=torch.double) + torch.tensor([0, 0, 10, 10]) for _ in crops]
    return method, views


def gradient(loss: Tensor, method: nn.Module) -> Tensor:
    loss.backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad and p.grad is not None])


def differences(name: str, **options: Any) -> tuple[float, float]:
    """Of loss and gradient, each as a share of the authors'."""
    method, views = made(name, **options)
    other = copy.deepcopy(method)
    batch = Batch(torch.zeros(N, 3, SIZE, SIZE, dtype=torch.uint8), LABELS, torch.arange(N))
    torch.manual_seed(1)
    loss = method.step(views, batch)["loss"]
    torch.manual_seed(1)  # where a step draws, theirs draws the same
    expected = AUTHORS[name](other, views)
    ours, theirs = gradient(loss, method), gradient(expected, other)
    assert theirs.norm() > 1e-4
    return float(((loss - expected) / expected).detach().abs()), float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", AUTHORS)
def test_a_step_is_the_authors(name: str) -> None:
    assert max(differences(name)) < 1e-9


@pytest.mark.parametrize("name", JOINT)
def test_views_that_share_a_batch_norm_are_another_step(name: str) -> None:
    assert differences(name, joint_norm=True)[1] > 0.02


if __name__ == "__main__":
    print("| method | authors' step | loss | gradient |\n|---|---|---:|---:|")
    for name, step in AUTHORS.items():
        loss_differs, gradient_differs = differences(name)
        print(f"| `{name}` | {str(step.__doc__).rstrip('.')} | {loss_differs:.0e} | {gradient_differs:.0e} |")
