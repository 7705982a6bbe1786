from __future__ import annotations

import pytest
import torch

from ssl_toolkit.contrastive.dcl import DCL
from ssl_toolkit.contrastive.losses import dcl
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_step_is_the_papers_loss_of_the_projections(small_encoder: Encoder, sigma: float | None) -> None:
    method = DCL(small_encoder, DCL.default_views(16), temperature=0.3, sigma=sigma).eval()
    views = list(torch.rand(2, 6, 3, 16, 16))
    z1, z2 = (method.projector(method.encoder(view)) for view in views)
    loss = method.step(views, Batch(views[0], torch.zeros(6), torch.arange(6)))["loss"]
    assert loss.item() == pytest.approx(dcl(z1, z2, 0.3, sigma).item(), abs=1e-5)


def test_a_sigma_that_is_not_above_zero_is_refused(small_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"--method.sigma is 0: it must be above 0"):
        DCL(small_encoder, DCL.default_views(16), sigma=0)
