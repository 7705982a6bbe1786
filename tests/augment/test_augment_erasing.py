import pytest
import torch
from kornia import augmentation as K
from torchvision.transforms import RandomErasing as TorchvisionErasing

from ssl_toolkit.augment import Cutout, RandomErasing
from ssl_toolkit.errors import UsageError

DRAWS = 20_000


def test_rectangles_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    params = RandomErasing().forward_parameters((DRAWS, 3, 40, 30))
    ours = torch.stack(
        [params["top"], params["left"], params["bottom"] - params["top"], params["right"] - params["left"]]
    )
    image = torch.zeros(3, 40, 30)
    theirs = [TorchvisionErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0])[:4] for _ in range(DRAWS)]
    theirs = torch.tensor(theirs).float().t()
    for mine, other, span in zip(ours.sort(dim=1).values, theirs.sort(dim=1).values, (40, 30, 40, 30), strict=True):
        # Pixels are whole: the sorted draws differ by one at the steps.
        assert (mine - other).abs().mean() < 0.02 * span
    area = (ours[2] * ours[3] / 1200).mean(), (theirs[2] * theirs[3] / 1200).mean()
    assert abs(area[0] - area[1]) < 0.004


def test_the_rectangle_is_painted_and_nothing_else():
    torch.manual_seed(0)
    erasing = RandomErasing(value=0.25, p=0.5)
    image = torch.ones(30, 2, 20, 24)
    output = erasing(image)
    params = erasing._params
    for row in range(30):
        expected = torch.ones(2, 20, 24)
        if params["batch_prob"][row] > 0.5:
            top, left, bottom, right = (int(params[name][row]) for name in ("top", "left", "bottom", "right"))
            expected[:, top:bottom, left:right] = 0.25
            assert bottom > top
        assert torch.equal(output[row], expected)


def test_masks_lose_the_same_rectangle():
    sequence = K.AugmentationSequential(RandomErasing(p=1.0), data_keys=["input", "mask"])
    image, mask = sequence(torch.ones(5, 3, 16, 16), torch.ones(5, 1, 16, 16))
    assert torch.equal(image[:, :1], mask)
    assert mask.min() == 0


def test_cutout_covers_its_square_or_what_lies_inside():
    torch.manual_seed(0)
    painted = 1 - Cutout(8, p=1.0)(torch.ones(4000, 1, 32, 32))
    area = painted.flatten(1).sum(1)
    assert area.max() == 64
    assert area.min() == 16  # a corner's pixel is the centre: 4 x 4 are left
    # A pixel of the interior is hit with probability (8/32)^2, a corner with that of 4 x 4 centres.
    assert abs(painted[:, 0, 16, 16].mean() - 64 / 1024) < 0.015
    assert abs(painted[:, 0, 0, 0].mean() - 25 / 1024) < 0.01


@pytest.mark.parametrize("make", [lambda: RandomErasing((0.0, 0.3)), lambda: Cutout(0)])
def test_bad_arguments_are_named(make):
    with pytest.raises(UsageError, match="needed"):
        make()
