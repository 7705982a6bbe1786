import pytest
import torch

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.pretext.relative_patch import (
    RelativePatch,
    drop_colours,
    patch_and_neighbour,
    project_colours,
)

MEAN = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)


def test_the_side_is_where_the_neighbour_was_cut_out() -> None:
    torch.manual_seed(0)
    axis = torch.arange(30.0)
    image = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(400, -1, -1, -1)
    patches, side = patch_and_neighbour(image, tile=6, gap=2)
    centre, neighbour = (patches[:, i, :, 0, 0] // 10 for i in (0, 1))
    assert (centre == 1).all()
    offsets = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    assert torch.equal(neighbour - centre, torch.tensor(offsets)[side].float())
    assert side.bincount(minlength=8).min() > 25  # 50 each


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
    assert RelativePatch(encoder, RelativePatch.default_views(32, 1)).colour == "keep"


def test_the_two_patches_are_encoded_apart(small_encoder: Encoder) -> None:
    method = RelativePatch(small_encoder, RelativePatch.default_views(32))
    seen: list[torch.Size] = []
    method.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    method.step([torch.rand(6, 3, 32, 32)], None)  # type: ignore[arg-type]
    assert seen == [(6, 3, 8, 8)] * 2
