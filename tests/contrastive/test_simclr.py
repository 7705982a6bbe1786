import pytest
import torch

from ssl_toolkit.contrastive.losses import nt_xent
from ssl_toolkit.contrastive.simclr import SimCLR
from ssl_toolkit.data.batch import Batch
from ssl_toolkit.encoders import Encoder
from ssl_toolkit.errors import UsageError


def test_step_is_the_papers_loss_of_the_projections(small_encoder: Encoder) -> None:
    method = SimCLR(small_encoder, SimCLR.default_views(16), temperature=0.3).eval()
    image = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    views = method.views(image)
    z1, z2 = (method.projector(method.encoder(view)) for view in views)
    loss = method.step(views, Batch(image, torch.zeros(6), torch.arange(6)))["loss"]
    assert z1.shape == (6, 128)
    assert loss.item() == pytest.approx(nt_xent(z1, z2, 0.3).item(), abs=1e-5)


def test_a_temperature_that_is_not_above_zero_is_refused(small_encoder: Encoder) -> None:
    with pytest.raises(UsageError, match=r"--method.temperature is 0"):
        SimCLR(small_encoder, SimCLR.default_views(16), temperature=0)


def test_the_two_views_differ_and_are_drawn_by_image() -> None:
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(4, -1, -1, -1)
    first, second = SimCLR.default_views(16)(image)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_views_is_refused(small_encoder: Encoder, count: int) -> None:
    with pytest.raises(UsageError, match=rf"--views.count is {count}: the method compares two views"):
        SimCLR(small_encoder, SimCLR.default_views(16, count=count))
