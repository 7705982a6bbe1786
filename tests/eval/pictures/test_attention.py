"""Attention maps: what the fused kernel computes, for the right queries and patches, and a picture that shows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import AxesImage
from torch import Tensor

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures.attention import attention_figure, attention_maps, has_attention, reads_class_token

# Tokens before the patches, and whether the features are the first of them.
ARCHITECTURES = {
    "test_vit": (1, True),
    "test_vit2": (1, False),  # a register
    "test_vit3": (1, False),  # pooled by attention
    "test_vit_relpos": (0, False),
    "deit_tiny_distilled_patch16_224": (2, True),
    "eva02_tiny_patch14_224": (1, False),  # rotary positions, and a class token that nothing reads
}


def encoder_of(name: str, size: int = 64) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name, image_size=size, load_size=size))
    with torch.no_grad():
        for parameter in encoder.backbone.blocks[-1].attn.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)  # random weights look everywhere alike
    return encoder


def fused_attention(encoder: Encoder, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The last attention (N, heads, T, T) that torch's fused kernel computes, by giving it the identity as values."""
    fused, seen = F.scaled_dot_product_attention, []

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        if q.shape == k.shape:  # not the pooling at the end
            identity = torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1)
            seen.append(fused(q, k, identity, **options))
        return fused(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    encoder.eval()
    with torch.no_grad():
        encoder(image)
    return seen[-1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_maps_are_the_attention_of_the_fused_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (prefix, class_token), side = ARCHITECTURES[name], 14 if "patch14" in name else 16
    encoder, image = encoder_of(name, 4 * side), torch.rand(2, 3, 4 * side, 4 * side)
    maps = attention_maps(encoder, image)
    attention = fused_attention(encoder, image, monkeypatch)
    torch.testing.assert_close(attention.sum(3), torch.ones(attention.shape[:3]))
    query = attention[:, :, 0] if class_token else attention[:, :, prefix:].mean(2)
    assert reads_class_token(encoder) == class_token
    assert query.std(2).mean() > 0.1 * query.mean()  # there is something to tell apart
    torch.testing.assert_close(maps, query[:, :, prefix:].reshape(2, -1, 4, 4))


def test_maps_lie_as_the_patches_do() -> None:
    encoder = encoder_of("test_vit")
    encoder.backbone.blocks = encoder.backbone.blocks[-1:]  # before the last block, no patch hears of another
    encoder.backbone.pos_embed.data.zero_()
    image = torch.full((1, 3, 32, 96), 0.5)  # not the encoder's own size: positions are interpolated
    image[:, :, 16:, 64:80] = 1
    (maps,) = attention_maps(encoder, image)
    assert maps.shape == (2, 2, 6)
    unlike = (maps - maps[:, :1, :1]).abs() > 1e-6
    assert unlike.nonzero().tolist() == [[head, 1, 4] for head in range(2)]


def test_encoder_is_left_as_it_was() -> None:
    encoder = encoder_of("test_vit").train()
    encoder.backbone.blocks[0].eval()
    attn = encoder.backbone.blocks[-1].attn
    before = [module.training for module in encoder.modules()], attn.fused_attn
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert not attention_maps(encoder, image).requires_grad
    with pytest.raises(UsageError, match="5, 64, 64"):
        attention_maps(encoder, torch.rand(1, 5, 64, 64))
    assert before == ([module.training for module in encoder.modules()], attn.fused_attn)
    assert not attn.attn_drop._forward_pre_hooks


def test_maps_are_without_dropout() -> None:
    encoder = encoder_of("test_vit").train()
    encoder.backbone.pos_drop.p = 0.5
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(attention_maps(encoder, image), attention_maps(encoder, image))


@pytest.mark.parametrize(
    "name", ["convnet", "test_resnet", "mixer_s32_224", "xcit_nano_12_p16_224", "vit_dwee_patch16_reg1_gap_256"]
)
def test_encoders_without_attention_are_named(name: str) -> None:
    encoder = Encoder(EncoderConfig(name, image_size=64, load_size=64))
    assert not has_attention(encoder)
    with pytest.raises(UsageError, match=rf"{name} has no attention maps.*vit_\*, deit_\*"):
        attention_maps(encoder, torch.rand(1, 3, 64, 64))


def test_transformers_of_another_build_have_none() -> None:
    encoder = encoder_of("test_vit")
    del encoder.backbone.patch_embed  # timm's NaFlexVit calls it otherwise
    assert not has_attention(encoder)


# --- the picture -----------------------------------------------------------------------------------------------------


def drawn(images: list[np.ndarray], maps: np.ndarray) -> tuple[list[str], list[AxesImage]]:
    axes = attention_figure(images, maps).axes[0]
    return [text.get_text() for text in axes.texts], list(axes.images)


def test_figure_has_image_mean_and_heads() -> None:
    maps = np.random.default_rng(0).random((2, 8, 2, 3), dtype=np.float32)
    images = [np.full((3, 20, 30), shade, np.uint8) for shade in (10, 200)]
    texts, tiles = drawn(images, maps)
    assert texts == ["image", "mean of 8", *(f"head {i}" for i in range(1, 7)), "0", "the map's largest value"]
    *tiles, scale = tiles
    assert len(tiles) == 16
    for tile, wanted in zip(tiles[::8], images, strict=True):
        assert (tile.get_array() == wanted.transpose(1, 2, 0)).all()
    heats = [tile for place, tile in enumerate(tiles) if place % 8]
    expected = [each for of_image in maps for each in (of_image.mean(axis=0), *of_image[:6])]
    for tile, wanted in zip(heats, expected, strict=True):
        assert np.asarray(tile.get_array()) == pytest.approx(wanted)
        assert tile.get_clim() == pytest.approx((0, wanted.max()))
        assert tile.get_interpolation() == "nearest"
        assert tile.get_cmap() == scale.get_cmap()


def test_figure_has_maps_in_the_shape_of_their_image() -> None:
    *tiles, _ = drawn([np.zeros((3, 20, 30), np.uint8)], np.ones((1, 2, 2, 3)))[1]
    sizes = {(round(right - left, 6), round(bottom - top, 6)) for left, right, bottom, top in map(extent, tiles)}
    assert sizes == {(0.94, round(0.94 * 20 / 30, 6))}
    lefts = [extent(tile)[0] for tile in tiles]
    assert lefts == sorted(set(lefts))


def extent(tile: AxesImage) -> tuple[float, ...]:
    return tuple(tile.get_extent())


def test_one_head_needs_no_mean() -> None:
    assert drawn([np.zeros((1, 4, 4), np.uint8)], np.ones((1, 1, 2, 2)))[0][:2] == ["image", "head 1"]


def test_figure_needs_maps_of_every_image() -> None:
    with pytest.raises(ValueError, match="2 images"):
        attention_figure([np.zeros((3, 4, 4), np.uint8)] * 2, np.ones((1, 1, 2, 2)))
