import pytest
import torch

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.pretext.relative_patch import (
    RelativePatch,
    drop_colours,
    patch_and_neighbours,
    project_colours,
)

MEAN = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)


def test_the_sides_are_where_the_neighbours_were_cut_out() -> None:
    torch.manual_seed(0)
    axis = torch.arange(30.0)
    image = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(400, -1, -1, -1)
    patches, side = patch_and_neighbours(image, tile=6, gap=2, count=3)
    assert patches.shape == (400, 4, 2, 6, 6)
    place = patches[..., 0, 0] // 10
    assert (place[:, 0] == 1).all()
    offsets = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    assert torch.equal(place[:, 1:] - 1, torch.tensor(offsets)[side].float())


@pytest.mark.parametrize("count", [1, 3, 8])
def test_neighbours_come_in_any_order_and_none_twice(count: int) -> None:
    torch.manual_seed(0)
    _, side = patch_and_neighbours(torch.rand(800, 1, 30, 30), tile=6, gap=2, count=count)
    assert side.shape == (800, count)
    assert all(len(row.unique()) == count for row in side)
    for column in side.T:
        assert column.bincount(minlength=8).min() > 60  # 100 each


def test_each_neighbour_is_asked_for_by_itself(small_encoder: Encoder) -> None:
    method = RelativePatch(small_encoder, RelativePatch.default_views(32)).eval()
    patches, other = torch.rand(2, 2, 9, 3, 8, 8)
    logits = method._logits(patches)
    mixed = torch.cat([patches[:, :3], other[:, 3:]], dim=1)
    assert logits.shape == (2, 8, 8)
    torch.testing.assert_close(method._logits(mixed)[:, :2], logits[:, :2])
    mixed[:, 0] = other[:, 0]
    assert (method._logits(mixed)[:, :2] - logits[:, :2]).abs().max() > 1e-4


def test_the_loss_is_that_of_naming_every_side(small_encoder: Encoder) -> None:
    method = RelativePatch(small_encoder, RelativePatch.default_views(32)).eval()
    bias = torch.arange(8.0)
    method.head[-1].weight.data.zero_()
    method.head[-1].bias.data.copy_(bias)
    found = method.step([torch.rand(6, 3, 32, 32)], None)  # type: ignore[arg-type]
    assert found["loss"].item() == pytest.approx((bias.logsumexp(0) - bias.mean()).item(), rel=1e-5)
    assert found["accuracy"].item() == pytest.approx(1 / 8)


@pytest.mark.parametrize("neighbours", [0, 9])
def test_other_numbers_of_neighbours_are_refused(small_encoder: Encoder, neighbours: int) -> None:
    with pytest.raises(UsageError, match=rf"--method.neighbours is {neighbours}: it must be from 1 to 8"):
        RelativePatch(small_encoder, RelativePatch.default_views(32), neighbours=neighbours)


def test_dropped_colours_leave_one_channel_and_noise_of_a_hundredth() -> None:
    torch.manual_seed(0)
    patch = torch.rand(300, 3, 16, 16)
    dropped = drop_colours(patch, MEAN)
    kept = (dropped == patch).flatten(2).all(dim=2)
    assert kept.sum(dim=1).tolist() == [1] * 300
    assert kept.sum(dim=0).min() > 70  # 100 each
    noise = (dropped - MEAN)[~kept].flatten(1)
    assert noise.mean().abs() < 1e-4
    expected = patch[kept].flatten(1).std(dim=1).mean() / 100
    assert noise.std(dim=1).mean().item() == pytest.approx(expected.item(), rel=0.02)


def test_what_was_dropped_does_not_matter() -> None:
    patch = torch.rand(4, 3, 16, 16)
    torch.manual_seed(0)
    dropped = drop_colours(patch, MEAN)
    kept = (dropped == patch).flatten(2).all(dim=2)
    other = torch.where(kept[..., None, None], patch, torch.rand_like(patch))
    torch.manual_seed(0)
    assert torch.equal(drop_colours(other, MEAN), dropped)


def test_projected_colours_hold_no_green_against_magenta_and_keep_greys() -> None:
    patch = torch.rand(4, 3, 8, 8)
    projected = project_colours(patch, MEAN)
    across = (projected - MEAN)[:, 0] - 2 * (projected - MEAN)[:, 1] + (projected - MEAN)[:, 2]
    assert across.abs().max() < 1e-5
    torch.testing.assert_close(project_colours(projected, MEAN), projected)
    greener = patch + 0.1 * torch.tensor([-1.0, 2.0, -1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(project_colours(greener, MEAN), projected)
    grey = MEAN + torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(project_colours(grey, MEAN), grey)


def test_grey_images_are_taken_as_they_are() -> None:
    encoder = Encoder(EncoderConfig("convnet", channels=1, image_size=32, load_size=32))
    assert RelativePatch(encoder, RelativePatch.default_views(32, channels=1)).colour == "keep"


@pytest.mark.parametrize("neighbours", [1, 8])
def test_the_patches_are_encoded_apart(small_encoder: Encoder, neighbours: int) -> None:
    method = RelativePatch(small_encoder, RelativePatch.default_views(32), neighbours=neighbours)
    seen: list[torch.Size] = []
    method.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    method.step([torch.rand(6, 3, 32, 32)], None)  # type: ignore[arg-type]
    assert seen == [(6, 3, 8, 8)] * (1 + neighbours)
