import json
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d
from torch import nn

from ssl_toolkit.colours import lab_to_rgb
from ssl_toolkit.encoders import (
    FORMAT,
    Encoder,
    EncoderConfig,
    encoder_file,
    load_encoder,
    plain_state,
    save_encoder,
    save_weights,
)
from ssl_toolkit.errors import ToolkitError, UsageError


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


def test_normalisation_is_the_first_layer() -> None:
    encoder = build("convnet", mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5))
    image = torch.tensor([0.3, 0.4, 0.1]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    expected = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand_as(image)
    torch.testing.assert_close(encoder.normalize(image), expected)
    torch.testing.assert_close(encoder(image), encoder.backbone(expected))


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_any_number_of_channels(channels: int) -> None:
    assert build("resnet18", channels=channels)(torch.rand(2, channels, 32, 32)).shape == (2, 512)


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
    assert encoder.bfloat16()(image).dtype == torch.bfloat16


def test_the_look_at_the_range_does_not_split_compiled_code() -> None:
    encoder, image = build("convnet"), torch.rand(2, 3, 32, 32)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), encoder(image))


def test_normalisation_is_one_value_a_channel_from_0_to_1() -> None:
    for wrong in (
        {"mean": (0.5,)},
        {"mean": (123.0, 116.0, 103.0)},
        {"std": (0.2, 0.2, 0.0)},
        {"std": (0.2, 0.2, -0.2)},
    ):
        with pytest.raises(
            UsageError, match="must have one value for each of 3 channels: from 0 to 1, and those of std"
        ):
            build("convnet", **wrong)


def test_unknown_architecture() -> None:
    with pytest.raises(UsageError, match=r"unknown encoder 'resnet19': did you mean .*resnet18"):
        build("resnet19")


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vit_tiny_patch16_224"])
def test_saved_and_rebuilt(name: str, tmp_path: Path) -> None:
    encoder = build(name, 32)
    sha256 = save_encoder(encoder, tmp_path / "encoder.safetensors", method="SimCLR")
    image = torch.rand(2, 3, 32, 32)
    for path in (tmp_path, tmp_path / "encoder.safetensors"):
        rebuilt = load_encoder(path)
        assert not rebuilt.training
        assert rebuilt.config == encoder.config
        assert rebuilt.sha256 == sha256
        assert torch.equal(rebuilt(image), encoder(image))
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["method"] == "SimCLR"
    assert json.loads(metadata["config"])["name"] == name
    assert json.loads(metadata["versions"])["torch"] == torch.__version__


def test_keys_load_into_plain_timm(tmp_path: Path) -> None:
    encoder = build("resnet18", 64)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    plain = timm.create_model("resnet18", num_classes=0)
    plain.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(plain.eval()(encoder.normalize(image)), encoder(image))


def test_hash_sees_weights_and_configuration() -> None:
    torch.manual_seed(0)
    encoder = build("convnet")
    torch.manual_seed(0)
    assert build("convnet").sha256 == encoder.sha256
    torch.manual_seed(0)
    assert build("convnet", mean=(0.4, 0.4, 0.4)).sha256 != encoder.sha256
    with torch.no_grad():
        next(encoder.backbone.parameters())[0, 0, 0, 0] += 1e-6
    torch.manual_seed(0)
    assert build("convnet").sha256 != encoder.sha256


def rewrite(path: Path, change: object) -> None:
    """Save the file at `path` again after `change(weights, metadata)`."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    weights = load_file(path)
    change(weights, metadata)  # type: ignore[operator]
    save_file(weights, path, metadata)


def test_mismatches_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    encoder = build("convnet")

    def refuse(message: str, change: object) -> None:
        save_encoder(encoder, path)
        rewrite(path, change)
        with pytest.raises(ToolkitError, match=message):
            load_encoder(path)

    refuse("sha256 does not match", lambda w, m: w["features.0.weight"].view(-1)[0].add_(1))
    refuse("sha256 does not match", lambda w, m: w.pop("features.0.weight"))
    refuse("not an encoder saved by ssl-toolkit", lambda w, m: m.pop("format"))


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    from ssl_toolkit.encoders import check_weights

    weights = build("convnet").backbone.state_dict()
    missing = {k: v for k, v in weights.items() if k != "features.0.weight"}
    with pytest.raises(ToolkitError, match=r"weight 'features.0.weight' of convnet is missing"):
        check_weights(build("convnet"), missing, "here")
    with pytest.raises(ToolkitError, match=r"weight 'extra' does not belong to convnet"):
        check_weights(build("convnet"), {**weights, "extra": torch.zeros(1)}, "here")
    with pytest.raises(
        ToolkitError, match=r"'features.0.weight' has shape \(32, 3, 3, 3\), convnet needs \(32, 1, 3, 3\)"
    ):
        check_weights(build("convnet", channels=1), weights, "here")


def test_diverged_weights_are_not_written(tmp_path: Path) -> None:
    encoder = build("convnet")
    with torch.no_grad():
        encoder.backbone.features[0].weight[0] = float("nan")
    with pytest.raises(ToolkitError, match=r"'features.0.weight' is not finite"):
        save_encoder(encoder, tmp_path / "encoder.safetensors")
    assert not list(tmp_path.iterdir())


def test_no_encoder_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no encoder at"):
        encoder_file(tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes(b"garbage")
    with pytest.raises(ToolkitError, match="not a readable safetensors file"):
        load_encoder(tmp_path)


def test_reinitialized_is_another_network_and_disturbs_no_draws() -> None:
    encoder = build("convnet")
    state = torch.get_rng_state()
    one, two, other = encoder.reinitialized(0), encoder.reinitialized(0), encoder.reinitialized(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.sha256 == two.sha256
    assert len({one.sha256, other.sha256, encoder.sha256}) == 3


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


def test_load_at_another_size(tmp_path: Path) -> None:
    save_encoder(build("resnet18", 32), tmp_path / "encoder.safetensors")
    larger = load_encoder(tmp_path, image_size=64, load_size=72)
    assert (larger.config.image_size, larger.config.load_size, larger.config.stem) == (64, 72, "small")


NORMS = ("batch", "layer")
NORMED = {"convnet": 32, "resnet18": 32, "test_efficientnet": 32, "levit_128s": 64}


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


@pytest.mark.parametrize("name", ["convnet", "test_efficientnet"])
def test_layer_norm_is_saved_and_rebuilt(name: str, tmp_path: Path) -> None:
    encoder = build(name, norm="layer")
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    sha256 = save_encoder(encoder, tmp_path / "encoder.safetensors")
    rebuilt, image = load_encoder(tmp_path), torch.rand(2, 3, 32, 32)
    assert rebuilt.config.norm == "layer"
    assert rebuilt.sha256 == sha256
    assert torch.equal(rebuilt(image), encoder(image))
    assert rebuilt.reinitialized(0).config == rebuilt.config


def test_the_hash_of_a_batch_norm_encoder_is_what_it_was_without_the_choice(tmp_path: Path) -> None:
    encoder = build("convnet")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(0.5)
    assert encoder.sha256 == "981257ba2c8c1f9cf110120b2300722591ba68dc0d83bf77b36cc322aec3b04f"
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path)

    def forget(weights: object, metadata: dict[str, str]) -> None:
        config = json.loads(metadata["config"])
        assert config.pop("norm") == "batch"
        metadata["config"] = json.dumps(config)

    rewrite(path, forget)
    assert load_encoder(path).config == encoder.config


def test_a_tag_in_the_name_of_a_saved_encoder_asks_for_no_weights_but_its_own(tmp_path: Path) -> None:
    described = asdict(build("test_resnet").config) | {"name": "test_resnet.r160_in1k"}
    save_weights(plain_state(build("test_resnet").backbone), described, tmp_path / "encoder.safetensors", FORMAT)
    assert load_encoder(tmp_path).config.name == "test_resnet"


def test_layer_norm_tells_encoders_apart() -> None:
    hashes = set()
    for norm in NORMS:
        torch.manual_seed(0)
        hashes.add(build("vit_tiny_patch16_224", norm=norm).sha256)
    assert len(hashes) == 2


def test_a_network_without_batch_norm_stays_as_it_is() -> None:
    features = []
    for norm in NORMS:
        torch.manual_seed(0)
        features.append(build("vit_tiny_patch16_224", norm=norm)(torch.linspace(0, 1, 3072).view(1, 3, 32, 32)))
    assert torch.equal(*features)


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


def test_an_encoder_of_lightness_is_saved_as_such(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig("resnet18", image_size=32, load_size=32, colours="lightness")).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    assert loaded.config == encoder.config
    assert loaded.backbone.conv1.weight.shape[1] == 1
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(image), encoder(image))


def test_lightness_is_of_rgb_images() -> None:
    with pytest.raises(UsageError, match="an encoder of lightness takes RGB images, these have 1 channels"):
        Encoder(EncoderConfig("convnet", channels=1, image_size=16, load_size=16, colours="lightness"))


def test_patches_of_another_size(tmp_path: Path) -> None:
    encoder = Encoder(EncoderConfig("test_vit", image_size=32, load_size=32, patch_size=4)).eval()
    assert encoder.feature_map(torch.rand(1, 3, 32, 32)).shape[-2:] == (8, 8)
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    assert load_encoder(tmp_path / "encoder.safetensors").config.patch_size == 4


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
