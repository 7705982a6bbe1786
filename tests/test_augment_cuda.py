"""What only an accelerator can show: nothing waits for it, and it computes what the CPU does."""

import pytest
import torch

from ssl_toolkit.augment import recipes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NAMES = [name for name in dir(recipes) if name.endswith("_views")]


@pytest.mark.parametrize("name", NAMES)
def test_views_never_wait_for_the_device(name):
    views = getattr(recipes, name)(32).cuda()
    image = torch.randint(0, 256, (8, 3, 40, 48), dtype=torch.uint8).cuda()
    views(image)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        views(image)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_views_equal_those_of_the_cpu(name):
    views = getattr(recipes, name)(32)
    image = torch.randint(0, 256, (8, 3, 40, 48), dtype=torch.uint8)
    torch.manual_seed(1)
    ours = views(image)
    torch.manual_seed(1)
    theirs = views.cuda()(image.cuda())
    for one, two in zip(ours, theirs, strict=True):
        assert (one - two.cpu()).abs().max() < 2 / 255
