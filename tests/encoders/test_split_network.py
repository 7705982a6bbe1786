from pathlib import Path

import pytest
import timm
import torch

from ssl_toolkit.colours import lab_to_rgb, rgb_to_lab
from ssl_toolkit.encoders import ConvNet, Encoder, EncoderConfig, load_encoder, save_encoder
from ssl_toolkit.encoders.split_network import SplitNetwork, half_width
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures.units import first_filters, map_layers
from ssl_toolkit.eval.scores.finetune import layer_depths

# Name, features of both halves together, positions along a side of the last map.
NETWORKS = [
    ("convnet", 256, 4),
    ("resnet18", 512, 4),
    ("resnet50", 2048, 4),
    ("convnext_atto", 320, 1),
    ("vit_tiny_patch16_224", 192, 2),
    ("mobilenetv3_small_050", 2048, 1),  # keeps its width
]
every_network = pytest.mark.parametrize(("name", "width", "grid"), NETWORKS, ids=[name for name, _, _ in NETWORKS])


def build(name: str, size: int = 32, **options: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name, image_size=size, load_size=size, colours="split", **options)).eval()  # type: ignore[arg-type]


def in_lab(lightness: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
    return lab_to_rgb(torch.cat([lightness, ab], dim=1))


def parts(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """L and ab of two images, which stay in the gamut when one of the two is turned."""
    generator = torch.Generator().manual_seed(0)
    lightness = 40 + 20 * torch.rand(2, 1, size, size, generator=generator)
    return lightness, 10 + 10 * torch.rand(2, 2, size, size, generator=generator)


@every_network
def test_features_and_maps(name: str, width: int, grid: int) -> None:
    encoder, image = build(name), torch.rand(2, 3, 32, 32)
    assert isinstance(encoder.backbone, SplitNetwork)
    with torch.no_grad():
        assert encoder(image).shape == (2, width)
        assert encoder.feature_dim == width
        assert encoder.feature_map(image).shape[2:] == (grid, grid)
        assert encoder.tokens(image).shape[1] == grid * grid
        layers = encoder.layers(image)
        assert torch.equal(layers["output"], encoder(image))
    alone = Encoder(EncoderConfig(name, image_size=32, load_size=32)).layers(image)
    assert layers.keys() == alone.keys()


@every_network
def test_features_are_those_of_the_two_networks_side_by_side(name: str, width: int, grid: int) -> None:
    encoder, (lightness, ab) = build(name), parts()
    image, backbone = in_lab(lightness, ab), encoder.backbone
    seen = encoder.normalize(image)
    torch.testing.assert_close(seen[:, :1], (lightness - 50) / 25, atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[:, 1:], ab / 15, atol=1e-3, rtol=0)
    with torch.no_grad():
        one, two = backbone.lightness(seen[:, :1]), backbone.colour(seen[:, 1:])
        assert torch.equal(encoder(image), torch.cat([one, two], dim=1))
        assert not torch.equal(one, two)


@every_network
def test_neither_half_hears_of_the_other(name: str, width: int, grid: int) -> None:
    encoder, (lightness, ab) = build(name), parts()
    with torch.no_grad():
        for about in (encoder, encoder.feature_map):
            kept = about(in_lab(lightness, ab)).chunk(2, dim=1)
            recoloured = about(in_lab(lightness, -ab)).chunk(2, dim=1)
            relit = about(in_lab(lightness.flip(-1), ab)).chunk(2, dim=1)
            for same, other, first in ((recoloured[0], relit[0], kept[0]), (relit[1], recoloured[1], kept[1])):
                residue, change = ((x - first).abs().max().item() for x in (same, other))
                assert residue < 0.02 * change
                assert change > 0.01 * first.abs().max()


def test_layers_are_those_of_both_halves() -> None:
    encoder, image = build("vit_tiny_patch16_224"), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = encoder.layers(image)
        torch.testing.assert_close(found["mean"], encoder.tokens(image).mean(dim=1))
        caught = []
        for half in (encoder.backbone.lightness, encoder.backbone.colour):
            half.blocks[9].register_forward_hook(
                lambda module, args, out, half=half: caught.append(half.norm(out)[:, 0])
            )
        encoder(image)
    torch.testing.assert_close(found["depth 3"], torch.cat(caught, dim=1))


def test_width_is_halved() -> None:
    widths = [
        layer.out_channels for layer in build("convnet").backbone.colour.features if hasattr(layer, "out_channels")
    ]
    assert widths == [width // 2 for width in ConvNet().widths]
    for name, expected in {
        "resnet18": {"channels": (32, 64, 128, 256)},
        "resnet50": {"channels": (32, 64, 128, 256)},
        "convnext_atto": {"dims": (20, 40, 80, 160)},
        "vit_tiny_patch16_224": {"embed_dim": 96, "num_heads": 3},
        "vit_small_patch16_224": {"embed_dim": 192, "num_heads": 3},
        "mobilenetv3_small_050": {},
    }.items():
        assert half_width(timm.create_model(name, num_classes=0)) == expected
    full, split = (
        sum(p.numel() for p in e.parameters()) for e in (Encoder(EncoderConfig("resnet18")), build("resnet18"))
    )
    assert 0.4 < split / full < 0.6


def test_small_stem_is_in_both_halves() -> None:
    for size, kernel in ((32, (3, 3)), (64, (7, 7))):
        encoder = build("resnet18", size)
        assert encoder.backbone.lightness.conv1.kernel_size == encoder.backbone.colour.conv1.kernel_size == kernel
    assert build("resnet18").backbone.lightness.conv1.weight.shape[:2] == (64, 1)
    assert build("resnet18").backbone.colour.conv1.weight.shape[:2] == (64, 2)
    assert build("convnet").config.stem == "standard"


def test_layer_norm_is_in_both_halves() -> None:
    encoder = build("resnet18", norm="layer")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vit_tiny_patch16_224"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    encoder = build(name)
    sha256 = save_encoder(encoder, tmp_path / "encoder.safetensors")
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    image = torch.rand(2, 3, 32, 32)
    assert loaded.config == encoder.config
    assert loaded.sha256 == encoder.sha256 == sha256
    assert torch.equal(loaded(image), encoder(image))


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vit_tiny_patch16_224"])
def test_each_weight_has_the_depth_that_it_has_in_its_half(name: str) -> None:
    whole = layer_depths(Encoder(EncoderConfig(name, image_size=32, load_size=32)))
    encoder = build(name)
    split = layer_depths(encoder)
    assert split.keys() == dict(encoder.backbone.named_parameters()).keys()
    # A ResNet's first stage is narrower than its stem, and so has one convolution more than at full width.
    expected = {f"{half}.{key}": depth for half in ("lightness", "colour") for key, depth in whole.items()}
    assert expected.items() <= split.items()


def test_filters_are_those_over_lightness_and_maps_are_of_both() -> None:
    encoder = build("resnet18")
    assert first_filters(encoder).shape == (64, 1, 3, 3)
    layers = map_layers(encoder)
    assert layers["lightness.layer2"] == layers["colour.layer2"] == (64, 16, 16)
    tokens = map_layers(build("vit_tiny_patch16_224"))
    assert tokens["colour.blocks.3"] == (96, 2, 2)


def test_patches_must_fit() -> None:
    with pytest.raises(UsageError, match="patches of 16x16 px, which 20x20 px is no multiple of"):
        build("vit_tiny_patch16_224")(torch.rand(1, 3, 20, 20))


def test_what_cannot_be_taken_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ConvNet, "forward_intermediates")
    with pytest.raises(UsageError, match="no split encoder can be made of ConvNet"):
        build("convnet")


def test_depths_that_nobody_knows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ConvNet, "group_matcher")
    with pytest.raises(UsageError, match="no layers of ConvNet: give --layer-decay 1"):
        layer_depths(build("convnet"))


def test_images_must_be_rgb() -> None:
    with pytest.raises(UsageError, match="an encoder of split takes RGB images, these have 1 channels"):
        build("convnet", channels=1)


def test_lab_of_greys_leaves_the_colour_half_nothing() -> None:
    grey = torch.rand(2, 1, 16, 16).expand(-1, 3, -1, -1)
    assert rgb_to_lab(grey)[:, 1:].abs().max() < 0.1
    assert build("convnet", 16).normalize(grey)[:, 1:].abs().max() < 0.01
