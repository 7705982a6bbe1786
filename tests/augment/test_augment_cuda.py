"""What only an accelerator can show: nothing waits for it, and it computes what the CPU does."""

import pytest
import torch

from ssl_toolkit import augment

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NAMES = [name for name in augment.__all__ if name.endswith("_views")]


# Compiling takes half a minute a view: one recipe of each kind.
WAYS = [*((name, False) for name in NAMES), ("simclr_views", True), ("multicrop_views", True)]


def made(name, compiled):
    views = getattr(augment, name)(32)
    views.compiled = compiled
    return views


@pytest.mark.parametrize(("name", "compiled"), WAYS)
def test_views_never_wait_for_the_device(name, compiled):
    views = made(name, compiled).cuda()
    image = torch.randint(0, 256, (8, 3, 40, 48), dtype=torch.uint8).cuda()
    views(image)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        views(image)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("name", "compiled"), WAYS)
def test_views_equal_those_of_the_cpu(name, compiled):
    views = made(name, compiled)
    smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 5, 6), (40, 48), mode="bicubic").clamp(0, 1)
    image = (smooth * 255).byte()
    torch.manual_seed(1)
    ours = [view.clone() for view in views(image)]
    torch.manual_seed(1)
    theirs = views.cuda()(image.cuda())
    for one, two in zip(ours, theirs, strict=True):
        # A threshold may fall the other way in single pixels, where bytes were rounded on the way.
        assert (one - two.cpu()).abs().mean() < 0.3 / 255
        assert ((one - two.cpu()).abs() > 2 / 255).float().mean() < 2e-3
