"""SimMIM: squares are hidden from the network, and they alone are the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.masking import square_masking
from ssl_toolkit.pretext.patches import in_colour, patchify
from ssl_toolkit.pretext.simmim import SimMIM, hidden_l1


def made(name: str = "test_vit", patch: int = 4, channels: int = 3, **options: Any) -> SimMIM:
    torch.manual_seed(0)
    config = EncoderConfig(name, channels, image_size=16, load_size=16, patch_size=patch, pool=SimMIM.encoder_pool)
    return SimMIM(Encoder(config), SimMIM.default_views(16), **options).eval()


def step(method: SimMIM, image: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return method.step([image], None)  # type: ignore[arg-type]


def masked(method: SimMIM, image: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden patches (N, L) of the next step, and their pixels (N, 1, H, W) the slow and obvious way."""
    torch.manual_seed(1)
    hidden = square_masking(len(image), (4, 4), method.mask_ratio, method.mask_patches)
    pixels = torch.zeros(len(image), 1, 16, 16, dtype=torch.bool)
    for number, place in hidden.nonzero().tolist():
        row, column = divmod(place, 4)
        pixels[number, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = True
    return hidden, pixels


def test_the_loss_is_the_mean_over_the_hidden_patches() -> None:
    painted = torch.tensor([[[1.0, -1.0], [9.0, 9.0], [0.0, 2.0]]])
    target = torch.zeros(1, 3, 2)
    assert hidden_l1(painted, target, torch.tensor([[True, False, True]])).item() == (1 + 1 + 0 + 2) / 4


def test_the_loss_is_that_of_the_authors_pixels() -> None:
    """``simmim.py``: errors of all pixels, times the mask, over its sum and the channels."""
    painted, target = np.random.default_rng(0).normal(size=(2, 3, 16, 48))
    hidden = square_masking(3, (4, 4), 0.5, 2)
    mask = hidden.numpy()[:, :, None].repeat(16, 2).reshape(3, 16, 16)[..., None]  # of pixels, all channels alike
    error = np.abs(painted - target).reshape(3, 16, 16, 3)
    expected = (error * mask).sum() / mask.sum() / 3
    assert hidden_l1(torch.from_numpy(painted), torch.from_numpy(target), hidden).item() == pytest.approx(expected)


def test_gradcheck() -> None:
    painted, target = torch.randn(2, 2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hidden = torch.tensor([[True, False, True, True], [False, True, False, True]])
    assert torch.autograd.gradcheck(lambda p: hidden_l1(p, target, hidden), painted.requires_grad_())


def test_nothing_of_a_hidden_square_reaches_the_network_and_it_is_the_target() -> None:
    method, (image, other) = made(), torch.rand(2, 4, 3, 16, 16)
    hidden, pixels = masked(method, image)
    mixed = torch.where(pixels, other, image)
    assert torch.equal(method._paint(mixed, hidden), method._paint(image, hidden))
    assert step(method, mixed)["loss"] != step(method, image)["loss"]
    # What is shown does reach it.
    assert not torch.equal(method._paint(torch.where(pixels, image, other), hidden), method._paint(image, hidden))


def test_visible_patches_are_no_target() -> None:
    """The loss has no gradient to what is painted in their places."""
    method, image = made(), torch.rand(4, 3, 16, 16)
    painted: list[Tensor] = []
    method.to_pixels.register_forward_hook(lambda module, args, out: (painted.append(out), out.retain_grad())[-1])
    step(method, image)["loss"].backward()
    assert painted[0].grad is not None
    assert torch.equal(painted[0].grad.abs().sum(dim=2) > 0, masked(method, image)[0])


def test_targets_are_pixels_as_the_encoder_sees_them() -> None:
    method, image = made(), torch.rand(4, 3, 16, 16)
    method.to_pixels.weight.data.zero_(), method.to_pixels.bias.data.zero_()
    _, pixels = masked(method, image)
    normal = (image - method.encoder.mean) / method.encoder.std
    scalars = step(method, image)
    assert scalars["loss"].item() == pytest.approx(normal[pixels.expand_as(image)].abs().mean().item(), rel=1e-5)
    error = (image - method.encoder.mean)[pixels.expand_as(image)].square().mean()
    assert scalars["psnr"].item() == pytest.approx(-10 * error.log10().item(), abs=1e-3)
    torch.testing.assert_close(in_colour(patchify(normal, 4), method.encoder), patchify(image, 4))


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_all_of_the_network_is_trained(name: str) -> None:
    method = made(name)
    step(method, torch.rand(3, 3, 16, 16))["loss"].backward()
    assert [name for name, weight in method.named_parameters() if weight.grad is None] == []


def test_features_are_the_mean_of_the_patches() -> None:
    method, image = made(), torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(method(image), method.encoder.tokens(image).mean(1))


def test_the_picture_keeps_what_was_seen() -> None:
    method, image = made(), torch.rand(2, 3, 16, 16)
    _, pixels = masked(method, image)
    torch.manual_seed(1)
    picture = method.task_picture([image])
    where = pixels.expand_as(image)
    for row in ("seen", "painted"):
        torch.testing.assert_close(picture.rows[row][~where], image[~where])
    torch.testing.assert_close(picture.rows["seen"][where], method.encoder.mean.expand_as(image)[where])
    assert not torch.isclose(picture.rows["painted"][where], image[where]).all()


def test_grey_images_and_grids_as_small_as_a_square() -> None:
    assert step(made(channels=1), torch.rand(2, 1, 16, 16))["loss"].isfinite()
    method = made(patch=8)
    assert method._masking(torch.rand(2, 3, 16, 16)).sum(1).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, r"--method.mask-ratio is 1.0: it must be above 0 and below 1"),
        ({"mask_patches": 0}, r"--method.mask-patches is 0: it must be above 0"),
        ({"name": "convnet"}, r"simmim hides patches, which convnet cannot"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**({"patch": 0} if "name" in options else {}), **options)
