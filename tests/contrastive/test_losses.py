import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_toolkit.contrastive import losses


def nt_xent_numpy(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
    """Equation 1 of the paper, term by term."""
    z = np.concatenate([z1, z2])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    n = len(z1)
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = [math.exp(z[i] @ z[j] / temperature) for j in range(2 * n) if j != i]
        total -= math.log(math.exp(z[i] @ z[partner] / temperature) / sum(others))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_orthogonal_pairs(temperature: float) -> None:
    n = 5
    z = torch.eye(n, 8, dtype=torch.float64)
    expected = math.log(math.exp(1 / temperature) + 2 * n - 2) - 1 / temperature
    assert losses.nt_xent(z, 3 * z, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_nt_xent_identical_vectors_are_told_apart_by_chance() -> None:
    z = torch.ones(6, 4, dtype=torch.float64)
    assert losses.nt_xent(z, z, 0.2).item() == pytest.approx(math.log(11), abs=1e-12)


def test_nt_xent_matches_the_papers_equation() -> None:
    z1, z2 = np.random.default_rng(0).normal(size=(2, 7, 5))
    loss = losses.nt_xent(torch.from_numpy(z1), torch.from_numpy(z2), 0.3)
    assert loss.item() == pytest.approx(nt_xent_numpy(z1, z2, 0.3), abs=1e-10)


def test_nt_xent_gradcheck() -> None:
    z1, z2 = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = (z1.requires_grad_(), z2.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: losses.nt_xent(a, b, 0.5), inputs)


def test_nt_xent_invariances() -> None:
    z1, z2 = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = losses.nt_xent(z1, z2, 0.2)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    assert losses.nt_xent(z1[order], z2[order], 0.2).item() == pytest.approx(loss.item(), abs=1e-12)
    assert losses.nt_xent(z2, z1, 0.2).item() == pytest.approx(loss.item(), abs=1e-12)
    assert losses.nt_xent(7 * z1, 0.1 * z2, 0.2).item() == pytest.approx(loss.item(), abs=1e-9)
    assert losses.nt_xent(z1, z2[order], 0.2).item() != pytest.approx(loss.item(), abs=1e-3)


def test_nt_xent_is_computed_in_float32_under_autocast() -> None:
    z1, z2 = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = losses.nt_xent(z1, z2, 0.05)
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(losses.nt_xent(z1, z2, 0.05).item(), abs=1e-6)
    assert losses.nt_xent(z1.bfloat16(), z2.bfloat16(), 0.05).dtype == torch.float32


# The losses once more, of arrays in float64, element by element as in the papers.


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def among(scores: list[float], chosen: int = 0) -> float:
    """Cross-entropy of the chosen one."""
    return math.log(sum(math.exp(score - scores[chosen]) for score in scores))


def softmax_numpy(scores: np.ndarray) -> np.ndarray:
    return np.array([math.exp(-among(list(scores), k)) for k in range(len(scores))])


def info_nce_numpy(q: np.ndarray, k: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    candidates = [[k[i], *negatives] for i in range(len(q))]
    return sum(among([cosine(q[i], c) / temperature for c in candidates[i]]) for i in range(len(q))) / len(q)


def hard_info_nce_numpy(q: np.ndarray, k: np.ndarray, negatives: np.ndarray, **options: float) -> float:
    """Robinson et al.'s equation 4 with its floor, negative by negative."""
    t, beta, own = (options[name] for name in ("temperature", "hardness", "false_negatives"))
    count, total = len(negatives), 0.0
    for i in range(len(q)):
        positive = math.exp(cosine(q[i], k[i]) / t)
        e = [math.exp(cosine(q[i], c) / t) for c in negatives]
        weights = [each**beta for each in e]
        hard = sum(w * each for w, each in zip(weights, e, strict=True)) / (sum(weights) / count)
        against = max((hard - own * count * positive) / (1 - own), count * math.exp(-1 / t))
        total -= math.log(positive / (positive + against))
    return total / len(q)


def batch_nce_numpy(q: np.ndarray, k: np.ndarray, temperature: float) -> float:
    return sum(among([cosine(q[i], c) / temperature for c in k], i) for i in range(len(q))) / len(q)


def clip_numpy(image: np.ndarray, text: np.ndarray, scale: np.ndarray) -> float:
    """Figure 3, row by row and column by column."""
    logits = np.array([[scale * cosine(i, t) for t in text] for i in image])
    return float(np.mean([among(row, n) for side in (logits, logits.T) for n, row in enumerate(side.tolist())]))


def siglip_numpy(image: np.ndarray, text: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> float:
    """Equation 1, term by term."""
    terms = [
        math.log1p(math.exp(-(1 if n == m else -1) * (scale * cosine(i, t) + bias)))
        for n, i in enumerate(image)
        for m, t in enumerate(text)
    ]
    return sum(terms) / len(image)


def dcl_numpy(z1: np.ndarray, z2: np.ndarray, temperature: float, sigma: float | None = None) -> float:
    """Equation 6, and 7 with its weights, for both views."""
    n, total = len(z1), 0.0
    alike = [math.exp(cosine(z1[i], z2[i]) / sigma) if sigma else 1.0 for i in range(n)]
    for i in range(n):
        weight = 2 - alike[i] / (sum(alike) / n)
        for one, other in ((z1, z2), (z2, z1)):
            strangers = [cosine(one[i], x[j]) / temperature for x in (z1, z2) for j in range(n) if j != i]
            total += math.log(sum(map(math.exp, strangers))) - weight * cosine(one[i], other[i]) / temperature
    return total / (2 * n)


LABEL = (0, 2, 0, -1, 2, 2, -1)


def supcon_numpy(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
    """Equation 2; images without a label have a class of their own."""
    z, label = [*z1, *z2], [each if each >= 0 else f"image {i}" for i, each in enumerate(LABEL)] * 2
    total = 0.0
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        scores = [cosine(z[i], z[j]) / temperature for j in others]
        positives = [number for number, j in enumerate(others) if label[j] == label[i]]
        total += sum(among(scores, number) for number in positives) / len(positives)
    return total / len(z)


def relational_numpy(q: np.ndarray, k: np.ndarray, others: np.ndarray, **temperature: float) -> float:
    total = 0.0
    for i in range(len(q)):
        student = np.array([cosine(q[i], x) for x in others]) / temperature["student_temperature"]
        teacher = np.array([cosine(k[i], x) for x in others]) / temperature["teacher_temperature"]
        total -= float(softmax_numpy(teacher) @ np.log(softmax_numpy(student)))
    return total / len(q)


def cpc_numpy(context: np.ndarray, futures: np.ndarray, negatives: np.ndarray) -> float:
    m = len(context)
    return sum(among([float(context[i] @ c) for c in [futures[i], *negatives]]) for i in range(m)) / m


def negative_cosine_numpy(p: np.ndarray, z: np.ndarray) -> float:
    return -sum(cosine(p[i], z[i]) for i in range(len(p))) / len(p)


def barlow_twins_numpy(z1: np.ndarray, z2: np.ndarray, lambda_: float) -> float:
    total = 0.0
    for i in range(z1.shape[1]):
        for j in range(z1.shape[1]):
            c = cosine(z1[:, i] - z1[:, i].mean(), z2[:, j] - z2[:, j].mean())
            total += (1 - c) ** 2 if i == j else lambda_ * c**2
    return total


def vicreg_numpy(z1: np.ndarray, z2: np.ndarray, invariance: float, variance: float, covariance: float) -> float:
    n, d = z1.shape
    s = sum((z1[i, j] - z2[i, j]) ** 2 for i in range(n) for j in range(d)) / n / d
    v = sum(max(0.0, 1 - math.sqrt(z[:, j].var(ddof=1) + 1e-4)) / d / 2 for z in (z1, z2) for j in range(d))
    c = sum(np.cov(z[:, i], z[:, j])[0, 1] ** 2 / d for z in (z1, z2) for i in range(d) for j in range(d) if i != j)
    return float(invariance * s + variance * v + covariance * c)


def tico_numpy(z1: np.ndarray, z2: np.ndarray, c: np.ndarray, rho: float, beta: float) -> float:
    total, c = 0.0, beta * c + (1 - beta) * np.mean([np.outer(v, v) / (v @ v) for v in z1], axis=0)
    for i in range(len(z1)):
        unit = z1[i] / np.linalg.norm(z1[i])
        spread = sum(unit[a] * c[a, b] * unit[b] for a in range(len(unit)) for b in range(len(unit)))
        total += 1 - cosine(z1[i], z2[i]) + rho * spread
    return total / len(z1)


def whiten_numpy(z: np.ndarray, eps: float) -> np.ndarray:
    cov = np.cov(z.T)
    cov = (1 - eps) * cov + eps * np.trace(cov) / len(cov) * np.eye(len(cov))
    return (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(cov)).T


def w_mse_numpy(views: np.ndarray, eps: float) -> float:
    white = [whiten_numpy(view, eps) for view in views]
    pairs = [(a, b) for number, a in enumerate(white) for b in white[number + 1 :]]
    return sum(2 - 2 * cosine(a[i], b[i]) for a, b in pairs for i in range(len(a))) / len(pairs) / views.shape[1]


def swav_numpy(scores: np.ndarray, codes: np.ndarray, temperature: float) -> float:
    pairs = [(v, c) for v in range(len(scores)) for c in range(len(codes)) if v != c]
    n, total = scores.shape[1], 0.0
    for v, c in pairs:
        for i in range(n):
            total -= float(codes[c, i] @ np.log(softmax_numpy(scores[v, i] / temperature)))
    return total / len(pairs) / n


def dino_numpy(student: np.ndarray, teacher: np.ndarray, center: np.ndarray, **temperature: float) -> float:
    sharpened = (teacher - center) / temperature["teacher_temperature"]
    targets = np.array([[softmax_numpy(row) for row in crop] for crop in sharpened])
    return swav_numpy(student, targets, temperature["student_temperature"])


def sinkhorn_numpy(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """The paper's transport plan: samples in columns, marginals 1 / K and 1 / N."""
    q = np.exp(scores.T / epsilon)  # (K, N)
    for _ in range(iterations):
        for k in range(len(q)):
            q[k] /= len(q) * q[k].sum()
        for n in range(len(scores)):
            q[:, n] /= len(scores) * q[:, n].sum()
    return len(scores) * q.T


N, D, K = 7, 5, 9


class Case(NamedTuple):
    loss: Callable[..., Tensor]
    reference: Callable[..., float]
    shapes: list[tuple[int, ...]]  # of the tensors; lists of crops are (V, N, K)
    learned: int  # so many of the tensors, from the first, get gradients
    options: dict[str, float]

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [np.asarray(rng.normal(size=shape)) for shape in self.shapes]

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        tensors = [torch.from_numpy(array).to(dtype) for array in self.arrays()]
        return [tensor.requires_grad_(number < self.learned) for number, tensor in enumerate(tensors)]

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self.loss(*[list(x) if x.ndim == 3 else x for x in tensors], **self.options)


HARD = {"temperature": 0.3, "hardness": 0.7, "false_negatives": 0.1}
TICO = {"rho": 8.0, "beta": 0.7}
VICREG = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
DINO = {"student_temperature": 0.3, "teacher_temperature": 0.2}
CASES = {
    "nt_xent": Case(losses.nt_xent, nt_xent_numpy, [(N, D)] * 2, 2, {"temperature": 0.3}),
    "info_nce": Case(losses.info_nce, info_nce_numpy, [(N, D), (N, D), (K, D)], 3, {"temperature": 0.3}),
    "hard info_nce": Case(losses.info_nce, hard_info_nce_numpy, [(N, D), (N, D), (K, D)], 3, HARD),
    "batch_nce": Case(losses.batch_nce, batch_nce_numpy, [(N, D)] * 2, 2, {"temperature": 0.3}),
    "clip": Case(losses.clip, clip_numpy, [(N, D), (N, D), ()], 3, {}),
    "siglip": Case(losses.siglip, siglip_numpy, [(N, D), (N, D), (), ()], 4, {}),
    "dcl": Case(losses.dcl, dcl_numpy, [(N, D)] * 2, 2, {"temperature": 0.3}),
    "dclw": Case(losses.dcl, dcl_numpy, [(N, D)] * 2, 2, {"temperature": 0.3, "sigma": 0.5}),
    "relational": Case(losses.relational, relational_numpy, [(N, D), (N, D), (K, D)], 1, DINO),
    "negative_cosine": Case(losses.negative_cosine, negative_cosine_numpy, [(N, D)] * 2, 1, {}),
    "barlow_twins": Case(losses.barlow_twins, barlow_twins_numpy, [(N, D)] * 2, 2, {"lambda_": 5e-3}),
    "vicreg": Case(losses.vicreg, vicreg_numpy, [(N, D)] * 2, 2, VICREG),
    "tico": Case(lambda *z, **o: losses.tico(*z, **o)[0], tico_numpy, [(N, D), (N, D), (D, D)], 3, TICO),
    "w_mse": Case(losses.w_mse, w_mse_numpy, [(3, N, D)], 1, {"eps": 0.1}),
    "dino": Case(losses.dino, dino_numpy, [(4, N, K), (2, N, K), (K,)], 1, DINO),
    "swav": Case(losses.swav, swav_numpy, [(4, N, K), (2, N, K)], 1, {"temperature": 0.3}),
    "cpc": Case(losses.cpc, cpc_numpy, [(N, D), (N, D), (K, D)], 3, {}),
}
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@every_loss
def test_papers_equation(case: Case) -> None:
    expected = case.reference(*case.arrays(), **case.options)
    assert case(*case.tensors()).item() == pytest.approx(expected, rel=1e-12, abs=1e-10)
    assert case(*case.tensors(torch.float32)).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@every_loss
def test_gradcheck(case: Case) -> None:
    assert torch.autograd.gradcheck(case, case.tensors())


@every_loss
def test_order_of_the_batch_does_not_matter(case: Case) -> None:
    order = torch.tensor([3, 1, 5, 0, 6, 4, 2])
    shuffled = [x[..., order, :] if x.shape[-2:-1] == (N,) else x for x in case.tensors()]
    assert case(*shuffled).item() == pytest.approx(case(*case.tensors()).item(), abs=1e-10)


@every_loss
def test_half_precision_is_computed_in_float32(case: Case) -> None:
    half = case.tensors(torch.bfloat16)
    exact = case(*[x.float() for x in half])
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = case(*[x.float() for x in half])
    for loss in (under_autocast, case(*half)):
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=1e-6, abs=1e-6)


@every_loss
def test_gradients_stop_where_the_paper_says(case: Case) -> None:
    tensors = [x.detach().requires_grad_() for x in case.tensors()]
    case(*tensors).backward()
    reached = [x.grad is not None and bool(x.grad.any()) for x in tensors]
    assert reached == [number < case.learned for number in range(len(tensors))]


@every_loss
@pytest.mark.parametrize(("value", "spread"), [(0, 0), (1e3, 0), (0, 1e4)])
def test_extreme_inputs_give_finite_losses_and_gradients(case: Case, value: float, spread: float) -> None:
    tensors = [(value + spread * x.detach()).requires_grad_(x.requires_grad) for x in case.tensors(torch.float32)]
    loss = case(*tensors)
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in tensors if x.grad is not None)


def test_pixpro_is_the_mean_over_an_images_near_pairs() -> None:
    y, k = drawn(3, 4, 5).requires_grad_(), drawn(3, 6, 5, seed=1)
    close = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.3
    close[1] = False  # an image whose views do not meet
    total = 0.0
    for n in (0, 2):
        pairs = [(t, s) for t in range(4) for s in range(6) if close[n, t, s]]
        total -= sum(cosine(y[n, t].detach().numpy(), k[n, s].numpy()) for t, s in pairs) / len(pairs)
    assert losses.pixpro(y, k, close).item() == pytest.approx(total / 3, abs=1e-12)
    assert torch.autograd.gradcheck(lambda y: losses.pixpro(y, k, close), [y])
    with torch.autocast("cpu", torch.bfloat16):
        assert losses.pixpro(y.float(), k.float(), close).item() == pytest.approx(total / 3, abs=1e-5)


def clusters_numpy(z: np.ndarray, centroids: np.ndarray, assigned: np.ndarray, temperature: float) -> float:
    terms = [
        among([cosine(crop[i], c) / temperature for c in clustering], assigned[h, i])
        for crop in z
        for h, clustering in enumerate(centroids)
        for i in range(crop.shape[0])
    ]
    return sum(terms) / len(terms)


def test_clusters_are_told_as_in_the_papers_equation() -> None:
    centroids = torch.nn.functional.normalize(drawn(2, K, D, seed=1), dim=-1)
    assigned, z = torch.arange(2 * N).view(2, N) % K, drawn(4, N, D).requires_grad_()
    expected = clusters_numpy(z.detach().numpy(), centroids.numpy(), assigned.numpy(), 0.3)
    assert losses.clusters(list(z), centroids, assigned, 0.3).item() == pytest.approx(expected, abs=1e-10)
    assert torch.autograd.gradcheck(lambda z: losses.clusters(list(z), centroids, assigned, 0.5), [z])
    one = torch.ones(6, 8, dtype=torch.float64)
    alike = losses.clusters([one] * 3, one[None], torch.zeros(1, 6, dtype=torch.int64))
    assert alike.item() == pytest.approx(math.log(6), abs=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = losses.clusters(list(z.detach().float()), centroids.float(), assigned, 0.05)
    assert mixed.item() == pytest.approx(losses.clusters(list(z), centroids, assigned, 0.05).item(), rel=1e-5)


def test_supcon_is_the_papers_equation() -> None:
    z1, z2 = np.random.default_rng(0).normal(size=(2, N, D))
    loss = losses.supcon(torch.from_numpy(z1), torch.from_numpy(z2), torch.tensor(LABEL), 0.3)
    assert loss.item() == pytest.approx(supcon_numpy(z1, z2, 0.3), abs=1e-10)


def test_supcon_gradcheck() -> None:
    inputs = [drawn(N, D, seed=seed).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda a, b: losses.supcon(a, b, torch.tensor(LABEL), 0.5), inputs)


def test_supcon_without_labels_is_simclrs_loss() -> None:
    z1, z2 = drawn(N, D), drawn(N, D, seed=1)
    none = losses.supcon(z1, z2, torch.full((N,), -1), 0.3)
    assert none.item() == pytest.approx(losses.nt_xent(z1, z2, 0.3).item(), abs=1e-12)


def test_dcl_has_no_partner_among_its_negatives() -> None:
    z = torch.eye(5, 8, dtype=torch.float64)
    assert losses.dcl(z, 3 * z, 0.5).item() == pytest.approx(math.log(8) - 2, abs=1e-12)


def test_arguments_may_be_named_in_any_order() -> None:
    z = drawn(4, 3)
    assert losses.nt_xent(temperature=0.2, z2=z, z1=z).item() == losses.nt_xent(z, z, 0.2).item()


def test_mismatched_rows_raise_the_loss() -> None:
    z, negatives = drawn(8, 6), drawn(3, 6, seed=1)
    pairs: list[Callable[[Tensor, Tensor], Tensor]] = [
        losses.batch_nce,
        lambda a, b: losses.clip(a, b, torch.tensor(5.0)),
        lambda a, b: losses.siglip(a, b, torch.tensor(5.0), torch.tensor(0.0)),
        losses.dcl,
        lambda a, b: losses.supcon(a, b, torch.arange(8)),
        lambda a, b: losses.relational(a, b, negatives),
        losses.negative_cosine,
        losses.barlow_twins,
        losses.vicreg,
        lambda a, b: losses.tico(a, b, torch.eye(6, dtype=torch.float64))[0],
        lambda a, b: losses.w_mse([a, b]),
        lambda a, b: losses.info_nce(a, b, negatives),
        lambda a, b: losses.info_nce(a, b, negatives, hardness=1.0, false_negatives=0.1),
        lambda a, b: losses.cpc(a, b, negatives),
        lambda a, b: losses.dino([a, a, a], [b, b], torch.zeros(6)),
        lambda a, b: losses.swav([a, a, a], [b.softmax(1)] * 2),
    ]
    for loss in pairs:
        assert loss(z, z.roll(1, 0)).item() > loss(z, z).item() + 0.1


@pytest.mark.parametrize(
    "name",
    ["nt_xent", "info_nce", "hard info_nce", "batch_nce", "dcl", "relational", "negative_cosine", "barlow_twins"],
)
def test_scale_does_not_matter(name: str) -> None:
    case = CASES[name]
    scaled = [x * 100 ** (n - 1) for n, x in enumerate(case.tensors())]
    assert case(*scaled).item() == pytest.approx(case(*case.tensors()).item(), abs=1e-10)


@pytest.mark.parametrize("name", ["vicreg", "cpc"])
def test_scale_matters_where_nothing_is_normalised(name: str) -> None:
    case = CASES[name]
    assert case(*[2 * x for x in case.tensors()]).item() != pytest.approx(case(*case.tensors()).item(), rel=0.1)


@pytest.mark.parametrize("loss", [losses.barlow_twins, losses.vicreg, losses.negative_cosine])
def test_views_are_interchangeable(loss: Callable[..., Tensor]) -> None:
    z1, z2 = drawn(2, 8, 4)
    assert loss(z1, z2).item() == pytest.approx(loss(z2, z1).item(), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_temperature_divides_once(temperature: float) -> None:
    e, t = torch.eye(8, dtype=torch.float64), temperature
    # 1 against 4 zeros, each over the temperature
    expected = pytest.approx(math.log1p(4 * math.exp(-1 / t)), abs=1e-12)
    assert losses.info_nce(e[:3], 5 * e[:3], 2 * e[3:7], t).item() == expected
    assert losses.batch_nce(e[:5], 3 * e[:5], t).item() == expected
    assert losses.swav([e[:5, :5]] * 2, [e[:5, :5]] * 2, t).item() == expected
    assert losses.dino([e[:5, :5]] * 2, [1e3 * e[:5, :5]] * 2, torch.zeros(5), t, 1.0).item() == expected
    # of two, 1 and 0: the teacher says p = 1 / (1 + exp(-1 / t)), the student, at 1, always the same
    p = 1 / (1 + math.exp(-1 / t))
    loss = losses.dino([e[:2, :2]] * 2, [e[:2, :2]] * 2, torch.zeros(2), 1.0, t)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)) + 1 - p, abs=1e-12)
    assert losses.sinkhorn(e[:2, :2], t)[0, 0].item() == pytest.approx(p, abs=1e-12)


def test_candidates_that_are_all_alike_are_told_apart_by_chance() -> None:
    one = torch.ones(6, 8, dtype=torch.float64)
    assert losses.info_nce(one, one, one.repeat(5, 1)).item() == pytest.approx(math.log(31), abs=1e-12)
    assert losses.cpc(one, one, one.repeat(5, 1)).item() == pytest.approx(math.log(31), abs=1e-12)
    assert losses.batch_nce(one, one).item() == pytest.approx(math.log(6), abs=1e-12)
    assert losses.dino([one] * 5, [one] * 2, torch.zeros(8)).item() == pytest.approx(math.log(8), abs=1e-12)
    codes = [torch.eye(8, dtype=torch.float64)[:6]] * 2
    assert losses.swav([one] * 5, codes).item() == pytest.approx(math.log(8), abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_orthogonal_pairs_of_images_and_texts(scale: float) -> None:
    e, t = torch.eye(5, 8, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)
    expected = math.log1p(4 * math.exp(-scale))
    assert losses.clip(e, 3 * e, t).item() == pytest.approx(expected, abs=1e-12)
    assert losses.siglip(e, 3 * e, t, -t / 2).item() == pytest.approx(5 * math.log1p(math.exp(-scale / 2)), abs=1e-12)


def test_info_nce_of_random_candidates_is_chance() -> None:
    q, k, negatives = drawn(64, 1024), drawn(64, 1024, seed=1), drawn(500, 1024, seed=2)
    assert losses.info_nce(q, k, negatives, 1.0).item() == pytest.approx(math.log(501), abs=0.01)


@pytest.mark.parametrize("temperature", [0.05, 0.07, 0.1])
def test_info_nce_near_zero_keeps_its_digits_in_float32(temperature: float) -> None:
    e = torch.eye(4)
    expected = math.log1p(3 * math.exp(-1 / temperature))
    assert losses.info_nce(e[:1], e[:1], e[1:], temperature).item() == pytest.approx(expected, rel=1e-5)


def uncorrelated(features: int) -> Tensor:
    """Features of mean 0 and variances from 1 to 900 (of N - 1), without correlation, (2 features, features)."""
    n = 2 * features
    basis = torch.linalg.qr(torch.cat([torch.ones(n, 1, dtype=torch.float64), drawn(n, features)], 1))[0][:, 1:]
    return basis * math.sqrt(n - 1) * torch.linspace(1, 30, features, dtype=torch.float64)


def test_features_that_are_nearly_uncorrelated_keep_their_digits_in_float32() -> None:
    z = uncorrelated(200)
    assert losses.vicreg(z, z).item() == pytest.approx(0, abs=1e-10)
    assert losses.barlow_twins(z, z + 5, lambda_=1.0).item() == pytest.approx(0, abs=1e-10)
    z = (z + 1e-4 * z.roll(1, 1)).float()
    for loss in (losses.vicreg, losses.barlow_twins):
        assert loss(z, z).item() == pytest.approx(loss(z.double(), z.double()).item(), rel=1e-2)


def test_barlow_twins_values() -> None:
    z = uncorrelated(6)
    assert losses.barlow_twins(z, -z).item() == pytest.approx(4 * 6, abs=1e-10)
    assert losses.barlow_twins(z, z.roll(1, 1), lambda_=0.5).item() == pytest.approx(6 + 0.5 * 6, abs=1e-10)
    same = z[:, :1].expand(-1, 6)
    assert losses.barlow_twins(same, same, lambda_=0.1).item() == pytest.approx(0.1 * 30, abs=1e-10)
    assert losses.barlow_twins(3 * z + 4, z - 2).item() == pytest.approx(losses.barlow_twins(z, z).item(), abs=1e-10)


def test_vicreg_terms_one_by_one() -> None:
    z = uncorrelated(6) / 100  # standard deviations below 1
    std = torch.linspace(0.01, 0.3, 6, dtype=torch.float64)
    hinge = (1 - (std**2 + 1e-4).sqrt()).mean().item()
    assert losses.vicreg(z, z, 0, 3, 0).item() == pytest.approx(3 * hinge, abs=1e-10)
    assert losses.vicreg(z, z + 2, 5, 0, 7).item() == pytest.approx(5 * 4, abs=1e-10)
    same = z[:, 5:].expand(-1, 6)
    assert losses.vicreg(same, z, 0, 0, 7).item() == pytest.approx(7 * 5 * 0.09**2, abs=1e-10)
    collapsed = torch.ones(4, 6, dtype=torch.float64)
    assert losses.vicreg(collapsed, collapsed).item() == pytest.approx(25 * (1 - 0.01), abs=1e-10)


def test_negatives_that_are_alike_are_not_hard() -> None:
    e = torch.eye(8, dtype=torch.float64)
    plain = losses.info_nce(e[:2], e[:2], e[2:], 0.3).item()
    assert losses.info_nce(e[:2], e[:2], e[2:], 0.3, hardness=3.0).item() == pytest.approx(plain, abs=1e-12)
    one = torch.ones(6, 8, dtype=torch.float64)
    found = losses.info_nce(one, one, one.repeat(5, 1), 0.3, hardness=3.0, false_negatives=0.2)
    assert found.item() == pytest.approx(math.log(31), abs=1e-12)


def test_hard_negatives_count_more_and_false_ones_less() -> None:
    q, k, negatives = drawn(6, 8), drawn(6, 8, seed=1), drawn(50, 8, seed=2)
    k = q + 0.3 * k
    plain, hard, harder = (losses.info_nce(q, k, negatives, 0.2, hardness=h).item() for h in (0.0, 0.5, 1.0))
    assert plain < hard < harder
    assert losses.info_nce(q, k, negatives, 0.2, 0.5, false_negatives=0.01).item() < hard
    # where more is taken off than there is, the negatives are as unlike as can be
    floor = math.log1p(50 * math.exp(-2 / 0.2))
    assert losses.info_nce(q, q, negatives, 0.2, 0.5, false_negatives=0.9).item() == pytest.approx(floor, abs=1e-10)


@pytest.mark.parametrize("temperature", [0.01, 0.07])
def test_hard_negatives_have_a_gradient_at_any_temperature(temperature: float) -> None:
    q, k = drawn(6, 8, dtype=torch.float32).requires_grad_(), drawn(6, 8, dtype=torch.float32, seed=1)
    losses.info_nce(q, k, -q.detach(), temperature, hardness=1.0, false_negatives=0.1).backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()


def test_tico_values() -> None:
    e, past = torch.eye(5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
    for z2, expected in ((2 * e, 8 / 5), (-e, 2 + 8 / 5)):
        loss, c = losses.tico(7 * e, z2, past, rho=8.0, beta=0.0)
        assert loss.item() == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(c, e / 5)
    collapsed = torch.ones(4, 5, dtype=torch.float64)
    assert losses.tico(collapsed, collapsed, past, rho=8.0, beta=0.0)[0].item() == pytest.approx(8, abs=1e-12)


def test_ticos_covariance_moves_on_without_its_gradient() -> None:
    z, past = drawn(7, 5).requires_grad_(), drawn(5, 5, seed=1)
    c = losses.tico(z, drawn(7, 5, seed=2), past, beta=0.9)[1]
    moment = np.mean([np.outer(v, v) / (v @ v) for v in z.detach().numpy()], axis=0)
    np.testing.assert_allclose(c.numpy(), 0.9 * past.numpy() + 0.1 * moment, atol=1e-12)


def test_whitened_vectors_are_uncorrelated() -> None:
    z = drawn(3, 40, 6) @ drawn(6, 6, seed=1) + 5
    white = losses.whiten(z, eps=1e-12)
    for each in white:
        torch.testing.assert_close(each.T.cov(), torch.eye(6, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(each.mean(0), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(losses.whiten(100 * z[0]), losses.whiten(z[0]))
    assert torch.autograd.gradcheck(losses.whiten, [drawn(7, 3).requires_grad_()])


def test_vectors_that_cannot_be_whitened_give_finite_ones() -> None:
    for z in (torch.ones(9, 4), torch.ones(9, 4) * torch.arange(9.0)[:, None], torch.eye(2, 8)):
        assert losses.whiten(z).isfinite().all()
    assert losses.whiten(torch.ones(9, 4)).count_nonzero() == 0


def test_slices_are_whitened_apart_and_in_the_order_that_is_given() -> None:
    a, b, order = drawn(13, 3), drawn(13, 3, seed=1), torch.randperm(13, generator=torch.Generator().manual_seed(0))
    parts = [losses.w_mse([a[rows], b[rows]]).item() for rows in (order[:6], order[6:12])]
    assert losses.w_mse([a, b], order, 6).item() == pytest.approx(sum(parts) / 2, abs=1e-12)
    assert losses.w_mse([a, b], order, 99).item() == pytest.approx(losses.w_mse([a, b]).item(), abs=1e-12)
    # what whitening by Cholesky takes away
    change = torch.tensor([[2, 1, 3], [0, 1, -1], [0, 0, 0.5]], dtype=torch.float64)
    assert losses.w_mse([a, a @ change + 4], eps=1e-12).item() == pytest.approx(0, abs=1e-9)


def test_the_centre_moves_the_teacher_alone() -> None:
    student, teacher, center = list(drawn(4, 3, 5)), list(drawn(2, 3, 5, seed=1)), drawn(5, seed=2)
    loss = losses.dino(student, teacher, center).item()
    moved = losses.dino(student, [scores - center for scores in teacher], torch.zeros(5)).item()
    assert loss == pytest.approx(moved, abs=1e-10)
    assert loss != pytest.approx(losses.dino(student, teacher, torch.zeros(5)).item(), abs=1e-3)
    assert loss == pytest.approx(losses.dino(student, teacher, center[None] + 7).item(), abs=1e-10)


@pytest.mark.parametrize(
    "loss", [lambda s, t: losses.dino(s, t, torch.zeros(5)), lambda s, t: losses.swav(s, [x.softmax(1) for x in t])]
)
def test_a_crop_is_not_compared_with_itself(loss: Callable[[Any, Any], Tensor]) -> None:
    (s0, s1, s2, other), (t0, t1) = drawn(4, 3, 5), drawn(2, 3, 5, seed=1)
    assert loss([s0, s1], [t0]).item() == loss([other, s1], [t0]).item()
    # the mean over pairs: (s1, t0), (s2, t0), (s0, t1), (s2, t1)
    pairs = [loss([other, s], [t]).item() for s, t in ((s1, t0), (s2, t0), (s0, t1), (s2, t1))]
    assert loss([s0, s1, s2], [t0, t1]).item() == pytest.approx(sum(pairs) / 4, abs=1e-12)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_matches_the_papers_iteration(iterations: int) -> None:
    scores = np.random.default_rng(0).normal(size=(12, 4))
    codes = losses.sinkhorn(torch.from_numpy(scores), 0.2, iterations)
    np.testing.assert_allclose(codes.numpy(), sinkhorn_numpy(scores, 0.2, iterations), atol=1e-12)
    single = losses.sinkhorn(torch.from_numpy(scores).float(), 0.2, iterations)
    np.testing.assert_allclose(single.numpy(), codes.numpy(), atol=1e-6)


def test_sinkhorn_in_the_limit() -> None:
    codes = losses.sinkhorn(drawn(12, 4), 0.5, 500)
    torch.testing.assert_close(codes.sum(1), torch.full((12,), 1.0, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0, dtype=torch.float64))
    permutation = torch.eye(5)[[2, 0, 4, 1, 3]]
    torch.testing.assert_close(losses.sinkhorn(permutation, 0.05), permutation, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [10.0, 1e3, 1e6])
def test_sinkhorn_loses_no_sample_however_large_the_scores(scale: float) -> None:
    scores = scale * drawn(12, 4, dtype=torch.float32) + scale * torch.arange(12)[:, None]
    codes = losses.sinkhorn(scores, 0.05)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(12))


def test_sinkhorn_has_no_gradient_and_ignores_autocast() -> None:
    scores = drawn(12, 4, dtype=torch.float32).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        codes = losses.sinkhorn(scores)
    assert not codes.requires_grad
    assert torch.equal(codes, losses.sinkhorn(scores.float()))


def test_cpc_leaves_out_the_future_itself() -> None:
    context, pool = drawn(3, 5), drawn(6, 5, seed=1)
    own = torch.tensor([4, -1, 0])
    futures = torch.stack([pool[4], drawn(5, seed=2), pool[0]])
    parts = [(0, [0, 1, 2, 3, 5]), (1, [0, 1, 2, 3, 4, 5]), (2, [1, 2, 3, 4, 5])]
    expected = [losses.cpc(context[i : i + 1], futures[i : i + 1], pool[others]).item() for i, others in parts]
    assert losses.cpc(context, futures, pool, own).item() == pytest.approx(sum(expected) / 3, abs=1e-12)
    everything = losses.cpc(context, futures, pool).item()
    assert losses.cpc(context, futures, pool, torch.full((3,), -1)).item() == everything
    assert everything > losses.cpc(context, futures, pool, own).item()


def test_cpc_without_any_other_candidate_costs_nothing() -> None:
    context, pool = drawn(1, 5).requires_grad_(), drawn(1, 5, seed=1)
    loss = losses.cpc(context, pool, pool, torch.tensor([0]))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, context)[0].count_nonzero() == 0
