"""Losses and their gradients beside lightly's, where it has the loss."""

import pytest
import torch
import torch.nn.functional as F

from ssl_toolkit.contrastive import losses, token_losses

theirs = pytest.importorskip("lightly.loss", reason="pip install lightly")
from lightly.loss.lejepa_loss import lejepa_invariance_loss  # noqa: E402

N, D, K = 12, 6, 10


def simclr(a, b):
    return losses.nt_xent(a, b, 0.2), theirs.NTXentLoss(0.2)(a, b)


def moco(a, b):
    queue = F.normalize(torch.randn(32, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), dim=1)
    bank = theirs.NTXentLoss(0.2, memory_bank_size=(32, D))
    bank.memory_bank.bank = queue.clone()
    return losses.info_nce(a, b.detach(), queue, 0.2), bank(a, b.detach())


def dcl(a, b):
    return losses.dcl(a, b, 0.1), theirs.DCLLoss(0.1)(a, b)


def dclw(a, b):
    return losses.dcl(a, b, 0.1, sigma=0.5), theirs.DCLWLoss(0.1, 0.5)(a, b)


def simsiam(a, b):
    return losses.negative_cosine(a, b.detach()), theirs.NegativeCosineSimilarity()(a, b.detach())


def barlow_twins(a, b):
    return losses.barlow_twins(a, b), theirs.BarlowTwinsLoss()(a, b)


def vicreg(a, b):
    return losses.vicreg(a, b), theirs.VICRegLoss()(a, b)


def tico(a, b):
    """In lightly no gradient reaches the covariance; what is left here is that of its past, so all of it is."""
    criterion, b = theirs.TiCoLoss(beta=0.9, rho=8.0), b.detach()
    theirs_loss = criterion(a, b)
    moment = losses.tico(a, b, torch.zeros(D, D, dtype=a.dtype), beta=0.0)[1]
    return losses.tico(a, b, 0.1 * moment, rho=8.0, beta=1.0)[0], theirs_loss


def w_mse(a, b):
    a, b = a[:, :3], b[:, :3]
    return losses.w_mse([a, b], eps=0.0), theirs.WMSELoss(3, w_size=N)(torch.cat([a, b]))


def swav(a, b):
    return (
        losses.swav([a, b, a + b], [losses.sinkhorn(each) for each in (a, b)]),
        theirs.SwaVLoss()([a, b], [a + b]),
    )


def dino(a, b):
    return losses.dino([a, b, a + b], [b, a], torch.zeros(D)), theirs.DINOLoss(D)(
        [b.detach(), a.detach()], [a, b, a + b]
    )


def ibot(a, b):
    """Five hidden patches of one image and seven of the other."""
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask.flatten(1)[0, :5] = mask.flatten(1)[1, :7] = True
    count = torch.tensor([5.0] * 5 + [7.0] * 7)
    target = (b / 0.04).softmax(1)
    return token_losses.masked_patches(a, target, count, images=2), theirs.IBOTPatchLoss(D)(b.detach(), a, mask)


def koleo(a, b):
    return token_losses.koleo(a), theirs.KoLeoLoss()(a)


def msn(a, b):
    prototypes = torch.randn(K, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    cosines = [F.normalize(each, dim=1) @ F.normalize(prototypes, dim=1).T for each in (a, a.flip(0), b)]
    return token_losses.msn(cosines[:2], cosines[2]), theirs.MSNLoss()(torch.cat([a, a.flip(0)]), b, prototypes)


def lejepa(a, b):
    views = torch.stack([a, b, a * b])

    return token_losses.to_centre(views, 2), lejepa_invariance_loss(all_proj=views, global_proj=views[:2])


CASES = [simclr, moco, dcl, dclw, simsiam, barlow_twins, vicreg, tico, w_mse, swav, dino, ibot, koleo, msn, lejepa]


@pytest.mark.filterwarnings("ignore::UserWarning")  # lightly copies a tensor by torch.tensor
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_loss_is_that_of_lightly(case):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(N, D, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    values, gradients = [], []
    for which in (0, 1):
        loss = case(a, b)[which]
        values.append(loss.detach().squeeze())
        gradients.append(torch.autograd.grad(loss.sum(), a)[0])
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6, check_dtype=False)  # theirs has float32 buffers
    if case is not dclw:  # in lightly no gradient reaches the weights
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)  # of the eps in Barlow Twins
