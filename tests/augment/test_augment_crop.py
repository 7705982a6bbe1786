import pytest
import torch
import torchvision.transforms.v2.functional as F
from kornia import augmentation as K
from torchvision.transforms import RandomResizedCrop

from ssl_toolkit.augment import ResizedCropFlip
from ssl_toolkit.augment.resample import boxes_of
from ssl_toolkit.errors import UsageError
from tests.conftest import ks_distance

DRAWS = 20_000


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(32, 32, (0.08, 1.0)), (40, 100, (0.5, 1.0)), (100, 30, (0.2, 0.6))]
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    torch.manual_seed(0)
    params = ResizedCropFlip((8, 8), scale).forward_parameters((DRAWS, 3, height, width))
    ours = torch.cat(boxes_of(params)[:2]).t()
    image = torch.empty(1, height, width)
    ratio = [3 / 4, 4 / 3]
    theirs = torch.tensor([RandomResizedCrop.get_params(image, list(scale), ratio) for _ in range(DRAWS)]).float()
    # The .1 % point of the two-sample Kolmogorov-Smirnov test.
    limit = 1.95 * (2 / DRAWS) ** 0.5
    for side in range(4):
        assert ks_distance(ours[:, side], theirs[:, side]) < limit
    assert ks_distance(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < limit
    assert ks_distance(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]) < limit
    assert abs(params["flip"].float().mean() - 0.5) < 0.015


def test_fallback_is_torchvisions_central_crop():
    crop = ResizedCropFlip((8, 8), (1.0, 1.0), (3 / 4, 4 / 3))
    params = crop.forward_parameters((50, 3, 10, 100))
    image = torch.empty(1, 10, 100)
    expected = RandomResizedCrop.get_params(image, [1.0, 1.0], [3 / 4, 4 / 3])
    for box in torch.cat(boxes_of(params)[:2]).t().tolist():
        assert tuple(box) == expected


def test_crops_stay_in_each_images_own_box():
    torch.manual_seed(0)
    box = torch.tensor([[20, 40], [40, 20], [12, 12], [40, 40]])
    image = torch.full((4, 3, 40, 40), 255, dtype=torch.uint8)
    for row, (height, width) in enumerate(box.tolist()):
        image[row, :, :height, :width] = 51
    for _ in range(30):
        assert torch.allclose(ResizedCropFlip((24, 24))(image, box=box), torch.tensor(0.2), atol=1e-5)


def test_boxes_reach_the_whole_of_their_image():
    box = torch.tensor([[20, 40]]).expand(4000, 2)
    found = boxes_of(ResizedCropFlip((8, 8)).forward_parameters((4000, 3, 40, 60), box=box))
    assert (found.start + found.length).amax(1).tolist() == [20, 40]


def test_flip_p():
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(3, 1, 4, 4) * 16
    never = ResizedCropFlip((4, 4), (1.0, 1.0), (1.0, 1.0), flip_p=0.0)(image)
    always = ResizedCropFlip((4, 4), (1.0, 1.0), (1.0, 1.0), flip_p=1.0)(image)
    assert torch.allclose(never * 255, image.float(), atol=1e-4)
    assert torch.allclose(always, F.horizontal_flip(never), atol=1e-6)


def test_equals_kornia_where_kornia_is_right():
    """Half-pixel centres and no shrinking: then both are plain bilinear interpolation."""
    image = torch.rand(6, 3, 20, 24)
    ours = ResizedCropFlip((32, 32), (0.2, 1.0), flip_p=0.0)
    theirs = K.RandomResizedCrop((32, 32), align_corners=False)
    output = ours(image)
    kornia_params = {name: ours._params[name] for name in ("src", "dst", "batch_prob", "forward_input_shape")}
    assert torch.allclose(theirs(image, params=kornia_params), output, atol=1e-5)


def test_matrix_follows_the_pixels():
    """A bright pixel lands where the matrix says."""
    torch.manual_seed(4)
    crop = ResizedCropFlip((40, 40), (0.3, 0.9), flip_p=0.5)
    points = torch.tensor([[9.0, 8.0]]).expand(12, 1, 2)
    image = torch.zeros(12, 1, 20, 20)
    image[:, :, 8, 9] = 1
    sequence = K.AugmentationSequential(crop, data_keys=["input", "keypoints"])
    output, moved = sequence(image, points)
    matrix = crop.transform_matrix
    expected = (matrix @ torch.tensor([9.0, 8.0, 1.0]))[:, :2]
    assert torch.allclose(moved[:, 0], expected, atol=1e-4)
    seen = 0
    for row in range(12):
        if output[row].max() < 0.5 or expected[row].min() <= 4 or expected[row].max() >= 35:
            continue  # the point was cut off, or lies at the edge
        seen += 1
        weight = output[row, 0] / output[row, 0].sum()
        x, y = (weight.sum(0) * torch.arange(40)).sum(), (weight.sum(1) * torch.arange(40)).sum()
        assert torch.allclose(torch.stack([x, y]), expected[row], atol=0.05)
    assert seen > 4


def test_masks_stay_labels():
    sequence = K.AugmentationSequential(ResizedCropFlip((16, 16)), data_keys=["input", "mask"])
    mask = torch.randint(0, 5, (4, 1, 24, 24)).float()
    _, moved = sequence(torch.rand(4, 3, 24, 24), mask)
    assert set(moved.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_inverse_lays_the_crop_back():
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    image = torch.stack([y, x, (x + y) / 2])[None].expand(4, 3, 32, 32)
    crop = ResizedCropFlip((32, 32), (0.3, 0.6))
    back = crop.inverse(crop(image))
    boxes = boxes_of(crop._params)
    for row in range(4):
        top, left, height, width = torch.cat(boxes[:2])[:, row].int().tolist()
        inner = (slice(None), slice(top + 2, top + height - 2), slice(left + 2, left + width - 2))
        assert torch.allclose(back[row][inner], image[row][inner], atol=0.02)
    assert back.shape == image.shape


def test_bicubic_refuses_what_it_would_clip():
    with pytest.raises(ValueError, match="divide by 255"):
        ResizedCropFlip((8, 8), resample="bicubic")(torch.rand(1, 3, 16, 16) * 255)
    assert ResizedCropFlip((8, 8))(torch.rand(1, 3, 16, 16) * 255).max() > 2  # a linear map of any range


@pytest.mark.parametrize("bad", [{"scale": (0.0, 1.0)}, {"scale": (1.0, 0.5)}, {"ratio": (2.0, 1.0)}])
def test_bad_ranges_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        ResizedCropFlip((8, 8), **bad)
