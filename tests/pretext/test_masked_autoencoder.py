from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.encoders.tokens import visible_tokens
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.health.doctor import CollapseDoctor
from ssl_toolkit.masking import random_masking
from ssl_toolkit.optim import OptimizerConfig
from ssl_toolkit.pretext.decoder import psnr
from ssl_toolkit.pretext.masked_autoencoder import MaskedAutoencoder, MaskedDecoder, masked_loss, normalized_patches
from tests.conftest import small_shapes

# Class token; a register token, a mean over patches and a norm behind it; a norm before the blocks.
NETWORKS = ("test_vit", "test_vit2", "vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_xsmall_patch16_clip_224")


def vit(name: str = "test_vit", size: int = 16, patch: int = 4, channels: int = 3) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name, channels, image_size=size, load_size=size, patch_size=patch))


def made(encoder: Encoder | None = None, **options: Any) -> MaskedAutoencoder:
    encoder = encoder or vit()
    return MaskedAutoencoder(encoder, MaskedAutoencoder.default_views(16), **options).eval()


def step(method: MaskedAutoencoder, image: torch.Tensor, seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return method.step([image], None)  # type: ignore[arg-type]


def hidden_pixels(hidden: torch.Tensor, patch: int, height: int, width: int) -> torch.Tensor:
    """Which pixels (N, 1, H, W) are in hidden patches (N, L), the slow and obvious way."""
    found = torch.zeros(len(hidden), 1, height, width, dtype=torch.bool)
    for image, place in hidden.nonzero().tolist():
        row, column = divmod(place, width // patch)
        found[image, 0, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = True
    return found


def test_normalised_patches_have_the_closed_form() -> None:
    patches = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]])
    normal, mean, std = normalized_patches(patches)
    torch.testing.assert_close(normal, torch.tensor([[[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal * std + mean, patches)
    assert std[0, 1].item() == pytest.approx(1e-3)


def test_the_loss_is_the_mean_over_the_hidden_patches() -> None:
    painted = torch.tensor([[[1.0, 1.0], [9.0, 9.0], [0.0, 2.0]]])
    target = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    assert masked_loss(painted, target, torch.tensor([[True, False, True]])).item() == (1 + 1 + 0 + 4) / 4


def test_painting_the_mean_costs_what_chance_says() -> None:
    method, image = made(), torch.rand(4, 3, 16, 16)
    chance = method.chance_loss(4)
    assert step(method, image)["loss"].item() == pytest.approx(chance, rel=0.2)  # before any training
    method.decoder.to_pixels.weight.data.zero_()
    assert step(method, image)["loss"].item() == pytest.approx(chance, abs=1e-4)
    assert made(normalize_targets=False).chance_loss(4) is None


@pytest.mark.parametrize("normalize_targets", [True, False])
def test_the_signal_to_noise_is_that_of_the_hidden_pixels_in_the_units_of_images(normalize_targets: bool) -> None:
    method, image = made(normalize_targets=normalize_targets), torch.rand(4, 3, 16, 16)
    method.decoder.to_pixels.weight.data.zero_()
    torch.manual_seed(1)
    _, hidden = random_masking(4, 16, 0.75)
    where = hidden_pixels(hidden, 4, 16, 16).expand_as(image)
    mean, std = method.encoder.mean, method.encoder.std
    if normalize_targets:  # the mean of a patch over normalised channels, as each channel has it
        cells = ((image - mean) / std).unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(1, 4, 5), keepdim=True)
        flat = cells.squeeze(1).squeeze(-1).squeeze(-1)[:, None].repeat_interleave(4, 2).repeat_interleave(4, 3)
        shown = flat * std + mean
    else:
        shown = mean
    error = (shown - image)[where].square().mean()
    assert step(method, image)["psnr"].item() == pytest.approx(-10 * error.log10().item(), abs=1e-3)


def test_views_need_not_be_square() -> None:
    method, image = made(), torch.rand(2, 3, 16, 24)
    grids: list[tuple[int, int]] = []
    method.decoder.register_forward_pre_hook(lambda module, args: grids.append(args[2]))
    assert method.task_picture([image]).rows["painted"].shape == image.shape
    assert grids == [(4, 6)]  # rows, columns


def test_errors_are_measured_in_full_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert step(made(), torch.rand(2, 3, 16, 16))["loss"].dtype == torch.float32


@pytest.mark.parametrize(("name", "ratio"), [*[(name, 0.75) for name in NETWORKS], ("test_vit", 0.5)])
def test_only_visible_tokens_go_through_the_blocks(name: str, ratio: float) -> None:
    method = made(vit(name), mask_ratio=ratio)
    seen: list[torch.Size] = []
    for block in method.encoder.backbone.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    step(method, torch.rand(3, 3, 16, 16))
    prefix, visible = method.encoder.backbone.num_prefix_tokens, round(16 * (1 - ratio))
    assert seen == [(3, prefix + visible, method.encoder.backbone.embed_dim)] * len(method.encoder.backbone.blocks)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_of_the_network_and_of_the_decoder_is_trained(name: str) -> None:
    method = made(vit(name))
    step(method, torch.rand(3, 3, 16, 16))["loss"].backward()
    assert [name for name, weight in method.named_parameters() if weight.grad is None] == []


def test_nothing_of_a_hidden_patch_reaches_the_network() -> None:
    method, (image, other) = made(), torch.rand(2, 4, 3, 16, 16)
    torch.manual_seed(1)
    visible, hidden = random_masking(4, 16, 0.75)
    mixed = torch.where(hidden_pixels(hidden, 4, 16, 16), other, image)
    assert torch.equal(visible_tokens(method.encoder, mixed, visible), visible_tokens(method.encoder, image, visible))
    painted = []
    method.decoder.register_forward_hook(lambda module, args, out: painted.append(out))
    losses = [step(method, each)["loss"].item() for each in (image, mixed)]
    assert torch.equal(*painted)
    assert losses[0] != losses[1]  # they are the target


def test_visible_patches_are_no_target() -> None:
    """The loss has no gradient to what is painted in their places."""
    method, image = made(), torch.rand(4, 3, 16, 16)
    painted = []
    method.decoder.register_forward_hook(lambda module, args, out: (painted.append(out), out.retain_grad())[-1])
    step(method, image)["loss"].backward()
    torch.manual_seed(1)
    _, hidden = random_masking(4, 16, 0.75)
    assert torch.equal(painted[0].grad.abs().sum(dim=2) > 0, hidden)


def test_the_decoder_knows_places_and_nothing_else_of_hidden_patches() -> None:
    """Without blocks, what it paints is each token, or the mask token, with the position of its place."""
    torch.manual_seed(0)
    decoder = MaskedDecoder(8, 8, 1, 2, 8)
    decoder.blocks, decoder.norm, decoder.embed = nn.Sequential(), nn.Identity(), nn.Identity()  # type: ignore[assignment]
    decoder.to_pixels = nn.Identity()  # type: ignore[assignment]
    tokens, visible = torch.rand(1, 1 + 2, 8), torch.tensor([[1, 5]])
    painted = decoder(tokens, visible, (2, 3))
    angle = torch.tensor([1.0, 0.01])  # wave numbers: 10,000 to the power of 0 and of -1/2
    for place in range(6):
        row, column = divmod(place, 3)
        position = torch.cat([(row * angle).sin(), (column * angle).sin(), (row * angle).cos(), (column * angle).cos()])
        own = {1: tokens[0, 1], 5: tokens[0, 2]}.get(place, decoder.mask_token[0, 0])
        torch.testing.assert_close(painted[0, place], own + position, atol=1e-5, rtol=0)


def test_the_picture_keeps_what_was_seen() -> None:
    method, image = made(), torch.rand(2, 3, 16, 16)
    torch.manual_seed(1)
    picture = method.task_picture([image])
    torch.manual_seed(1)
    hidden = hidden_pixels(random_masking(2, 16, 0.75)[1], 4, 16, 16).expand_as(image)
    for row in ("seen", "painted"):
        torch.testing.assert_close(picture.rows[row][~hidden], image[~hidden])
    fill = method.encoder.mean.expand_as(image)
    torch.testing.assert_close(picture.rows["seen"][hidden], fill[hidden])
    assert not torch.isclose(picture.rows["painted"][hidden], image[hidden]).all()
    for number, caption in enumerate(picture.captions["painted"]):
        shown = [picture.rows[row][number][hidden[number]] for row in ("painted", "view")]
        assert caption == f"{psnr(*shown):.1f} dB"


def test_grey_images_are_taken() -> None:
    method = made(vit(channels=1))
    assert step(method, torch.rand(2, 1, 16, 16))["loss"].isfinite()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "convnet",
            r"masked_autoencoder hides patches, which convnet cannot: give a .* vit_tiny_patch16_224",
        ),
        ("swin_tiny_patch4_window7_224", r"hides patches, which swin_tiny_patch4_window7_224 cannot"),
        ("vit_tiny_r_s16_p8_224", r"hides patches, which vit_tiny_r_s16_p8_224 cannot"),
        ("test_vit3", r"test_vit3 pools its patches by attention, .* vit_tiny_patch16_224"),
    ],
)
def test_networks_that_cannot_hide_patches_are_refused(name: str, message: str) -> None:
    size = 224 if "224" in name else 32
    with pytest.raises(UsageError, match=message):
        made(Encoder(EncoderConfig(name, image_size=size, load_size=size)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, r"--method.mask-ratio is 1.0: it must be above 0 and below 1"),
        ({"decoder_dim": 30}, r"--method.decoder-dim is 30: it must be a multiple of 4 and of --method.decoder-heads"),
        ({"decoder_heads": 0}, r"--method.decoder-heads is 0: it must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**options)


def test_images_of_one_patch_are_refused() -> None:
    with pytest.raises(UsageError, match=r"images of 16 px have one patch of 16 px, .*--encoder.patch_size 2"):
        made(vit(patch=16))
    with pytest.raises(UsageError, match=r"images of 8 px have one patch of 8 px"):
        step(made(vit(patch=8)), torch.rand(2, 3, 8, 8))


def test_hidden_patches_of_new_images_are_painted_better_than_in_their_mean(train_quickly: Callable) -> None:
    train, test = small_shapes(16, 1000, 200)
    recipe = {"epochs": 4, "batch_size": 50, "optimizer": OptimizerConfig(lr=3e-3)}
    doctor = CollapseDoctor(every=2)
    method = train_quickly(MaskedAutoencoder, train, callbacks=[doctor], **recipe).eval()
    assert doctor.findings == []
    batch = next(iter(ImageLoader(test, 16, batch_size=200)))
    with torch.no_grad():
        assert step(method, method.views(batch.image)[0])["loss"] < 0.88 * method.chance_loss(200)
