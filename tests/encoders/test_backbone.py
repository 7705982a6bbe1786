"""Networks as their configuration asks: stems, families, norms, patches."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError

NORMS = ("batch", "layer")
NORMED = {"convnet": 32, "resnet18": 32, "test_efficientnet": 32, "levit_128s": 64}


def build(name: str, size: int = 32, **options: object) -> Encoder:
    return Encoder(EncoderConfig(name, image_size=size, load_size=size, **options)).eval()  # type: ignore[arg-type]


def test_small_stem_is_chosen_under_64_pixels_or_by_flag() -> None:
    assert build("resnet18", 32).backbone.conv1.kernel_size == (3, 3)
    assert isinstance(build("resnet18", 32).backbone.maxpool, nn.Identity)
    assert build("resnet18", 64).backbone.conv1.kernel_size == (7, 7)
    assert build("resnet18", 64, stem="small").backbone.conv1.kernel_size == (3, 3)
    assert build("resnet18", 32, stem="standard").backbone.conv1.kernel_size == (7, 7)


@pytest.mark.parametrize("name", ["convnet", "vit_tiny_patch16_224"])
def test_small_stem_of_something_else_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"stem small is for ResNets.*{name}|{name}.*other stem"):
        build(name, 32, stem="small")


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_any_number_of_channels(channels: int) -> None:
    assert build("resnet18", channels=channels)(torch.rand(2, channels, 32, 32)).shape == (2, 512)


def test_unknown_architecture() -> None:
    with pytest.raises(UsageError, match=r"unknown encoder 'resnet19': did you mean .*resnet18"):
        build("resnet19")


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "resnetv2_18", "mobilevit_xxs", "levit_128s", "efficientvit_b0", "swin_tiny_patch4_window7_224"],
)
def test_networks_of_many_families_are_built(name: str) -> None:
    size = 32 if name.startswith("resnet") else 64
    encoder = Encoder(EncoderConfig(name, image_size=size, load_size=size)).eval()
    assert encoder.config.stem == "standard"
    with torch.inference_mode():
        assert encoder(torch.rand(1, 3, size, size)).shape == (1, encoder.feature_dim)


@pytest.mark.parametrize(("name", "size"), NORMED.items())
def test_layer_norm_keeps_images_apart(name: str, size: int) -> None:
    encoder = build(name, size, norm="layer")
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in encoder.modules())
    image = torch.rand(3, 3, size, size)
    with torch.no_grad():
        evaluated, trained, alone = encoder(image), encoder.train()(image), encoder(image[:1])
    torch.testing.assert_close(trained, evaluated)
    torch.testing.assert_close(alone, trained[:1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(trained[0], trained[1])


def test_layer_norm_is_over_channels_and_positions() -> None:
    norm = build("convnet", norm="layer").backbone.features[1]
    x = 5 + 3 * torch.randn(2, 32, 6, 4)
    torch.testing.assert_close(norm(x), nn.functional.layer_norm(x, (32, 6, 4)))


def test_layer_norm_keeps_what_timm_fused_into_the_batch_norm_and_how_it_started() -> None:
    kinds = [
        [sum(isinstance(module, kind) for module in build("test_efficientnet", norm=norm).modules()) for norm in NORMS]
        for kind in (nn.SiLU, BatchNormAct2d, nn.GroupNorm)
    ]
    silu, fused, layers = kinds
    assert silu[0] == silu[1] > 0
    assert fused[1] == layers[0] == 0 < fused[0] == layers[1]
    last = build("resnet18", norm="layer").backbone.layer1[0].bn2
    assert isinstance(last, nn.GroupNorm)
    assert (last.weight == 0).all()  # each block starts as the identity
    assert (build("resnet18", norm="layer").backbone.bn1.weight == 1).all()


def test_a_network_without_batch_norm_stays_as_it_is() -> None:
    features = []
    for norm in NORMS:
        torch.manual_seed(0)
        features.append(build("vit_tiny_patch16_224", norm=norm)(torch.linspace(0, 1, 3072).view(1, 3, 32, 32)))
    assert torch.equal(*features)
