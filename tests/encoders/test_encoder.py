import pytest
import torch
from torch import nn

from ssl_toolkit.colours import lab_to_rgb
from ssl_toolkit.encoders import (
    Encoder,
    EncoderConfig,
)
from ssl_toolkit.errors import UsageError


def build(name: str, size: int = 32, **options: object) -> Encoder:
    return Encoder(EncoderConfig(name, image_size=size, load_size=size, **options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "size", "width", "grid"),
    [
        ("convnet", 32, 256, 4),
        ("resnet18", 32, 512, 4),
        ("resnet18", 64, 512, 2),
        ("mobilenetv3_small_050", 64, 1024, 2),
        ("vit_tiny_patch16_224", 32, 192, 2),
        ("swin_tiny_patch4_window7_224", 224, 768, 7),
    ],
)
def test_features_map_and_tokens(name: str, size: int, width: int, grid: int) -> None:
    encoder = build(name, size)
    image = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert encoder(image).shape == (2, width)
        assert encoder.feature_dim == width
        feature_map = encoder.feature_map(image)
        assert feature_map.shape[2:] == (grid, grid)
        tokens = encoder.tokens(image)
    assert tokens.shape == (2, grid * grid, feature_map.shape[1])
    assert torch.equal(tokens[:, grid], feature_map[:, :, 1, 0])


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("convnet", {"depth 4": 64, "depth 3": 128, "depth 2": 128, "output": 256}),
        ("resnet18", {"depth 4": 64, "depth 3": 128, "depth 2": 256, "output": 512}),
        ("mobilenetv3_small_050", {"depth 4": 8, "depth 3": 16, "depth 2": 24, "output": 1024}),
        ("vit_tiny_patch16_224", dict.fromkeys(("depth 4", "depth 3", "depth 2", "output", "mean"), 192)),
    ],
)
def test_layers_end_in_the_output(name: str, widths: dict[str, int]) -> None:
    encoder, image = build(name), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = encoder.layers(image)
        assert {key: part.shape for key, part in found.items()} == {key: (2, width) for key, width in widths.items()}
        assert torch.equal(found["output"], encoder(image))
        if "mean" in found:
            torch.testing.assert_close(found["mean"], encoder.tokens(image).mean(dim=1))


def test_layers_are_the_stages_own_averages_and_the_blocks_own_class_tokens() -> None:
    for name, modules in (("resnet18", ("layer1", "layer2", "layer3")), ("vit_tiny_patch16_224", (8, 9, 10))):
        encoder, image, caught = build(name), torch.rand(2, 3, 32, 32), []
        for each in modules:
            stage = getattr(encoder.backbone, each) if isinstance(each, str) else encoder.backbone.blocks[each]
            stage.register_forward_hook(lambda module, args, out, caught=caught: caught.append(out))
        with torch.no_grad():
            found = encoder.layers(image)
            for key, out in zip(("depth 4", "depth 3", "depth 2"), caught, strict=True):
                pooled = out.mean(dim=(2, 3)) if out.ndim == 4 else encoder.backbone.norm(out)[:, 0]
                torch.testing.assert_close(found[key], pooled)


def test_a_network_that_cannot_be_taken_apart_has_its_output_only() -> None:
    encoder = build("convnet")
    encoder.backbone = nn.Sequential(nn.Flatten())
    assert {key: part.shape for key, part in encoder.layers(torch.rand(2, 3, 4, 4)).items()} == {"output": (2, 48)}


def test_normalisation_is_the_first_layer() -> None:
    encoder = build("convnet", mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5))
    image = torch.tensor([0.3, 0.4, 0.1]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    expected = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand_as(image)
    torch.testing.assert_close(encoder.normalize(image), expected)
    torch.testing.assert_close(encoder(image), encoder.backbone(expected))


def test_images_with_other_channels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"takes images \(N, 3, H, W\), got \(2, 1, 32, 32\)"):
        build("convnet")(torch.rand(2, 1, 32, 32))


def test_bytes_are_scaled_and_what_is_not_in_the_unit_range_is_refused() -> None:
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    encoder = build("convnet")
    for function in (encoder, encoder.feature_map, encoder.tokens, encoder.normalize):
        torch.testing.assert_close(function(image), function(image.float() / 255))
        with pytest.raises(ValueError, match=r"floats in \[0, 1\]; these range over .* leave the normalisation to the"):
            function(image.float())
        with pytest.raises(ValueError, match=r"floats in \[0, 1\]"):
            function(image / 255 - 0.5)
        with pytest.raises(TypeError, match=r"not torch\.int64"):
            function(image.long())
    assert torch.isfinite(encoder((image / 255).requires_grad_()).sum())
    torch.testing.assert_close(encoder((image.int() * 257).to(torch.uint16)), encoder(image.float() / 255))
    assert encoder.bfloat16()(image).dtype == torch.bfloat16


def test_the_look_at_the_range_does_not_split_compiled_code() -> None:
    encoder, image = build("convnet"), torch.rand(2, 3, 32, 32)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), encoder(image))


def test_reinitialized_is_another_network_and_disturbs_no_draws() -> None:
    encoder = build("convnet")
    state = torch.get_rng_state()
    one, two, other = encoder.reinitialized(0), encoder.reinitialized(0), encoder.reinitialized(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.sha256 == two.sha256
    assert len({one.sha256, other.sha256, encoder.sha256}) == 3


def test_images_that_are_no_whole_patches_are_refused() -> None:
    encoder = Encoder(EncoderConfig("vit_tiny_patch16_224", image_size=32, load_size=32))
    assert encoder(torch.rand(1, 3, 48, 16)).shape == (1, 192)
    with pytest.raises(UsageError, match=r"patches of 16x16 px, which 20x20 px is no multiple of"):
        encoder(torch.rand(1, 3, 20, 20))


def test_an_encoder_of_lightness_sees_no_colour() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("convnet", image_size=16, load_size=16, colours="lightness")).eval()
    lab = torch.cat([torch.rand(2, 1, 16, 16) * 40 + 30, torch.rand(2, 2, 16, 16) * 20 - 10], dim=1)
    image, recoloured = lab_to_rgb(lab), lab_to_rgb(torch.cat([lab[:, :1], -lab[:, 1:]], dim=1))
    assert (image - recoloured).abs().max() > 0.05
    torch.testing.assert_close(encoder(image), encoder(recoloured), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder.normalize(image), (lab[:, :1] - 50) / 25, atol=1e-3, rtol=0)
    assert encoder.feature_map(image).shape == (2, 256, 2, 2)
    assert set(encoder.layers(image)) == {"depth 4", "depth 3", "depth 2", "output"}


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("convnet", 32, (256, 8)),
        ("resnet18", 64, (512, 32)),
        ("resnet18", 32, (512, 8)),
        ("resnet18", 28, (512, 8)),
        ("resnet18", 100, (512, 32)),
        ("convnet", 28, (256, 8)),
        ("test_convnext", 80, (64, 32)),
        ("vit_tiny_patch16_224", 64, (192, 16)),
    ],
)
def test_width_and_stride_are_those_of_the_feature_map(name: str, size: int, expected: tuple[int, int]) -> None:
    encoder = Encoder(EncoderConfig(name, image_size=size, load_size=size)).train()
    statistics = {k: v.clone() for k, v in encoder.state_dict().items()}
    assert encoder.width_and_stride() == expected
    assert encoder.training
    assert all(torch.equal(v, statistics[k]) for k, v in encoder.state_dict().items())
