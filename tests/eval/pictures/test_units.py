"""What units compute: filters, maps and patches lie where they should, for convolutions and for tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.pictures.units import (
    Peaks,
    exciting_patches,
    feature_maps,
    filter_components,
    first_filters,
    has_patch_embedding,
    map_layers,
    peaks,
    pick_layer,
    receptive_field,
)


def encoder_of(name: str, size: int = 32, channels: int = 3) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name, channels, image_size=size, load_size=size)).eval()


# --- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "patches"),
    [("convnet", (32, 3, 3, 3), False), ("test_resnet", (32, 3, 3, 3), False), ("test_vit", (64, 3, 16, 16), True)],
)
def test_first_filters_are_the_kernels_over_the_image(name: str, shape: tuple[int, ...], patches: bool) -> None:
    encoder = encoder_of(name)
    filters = first_filters(encoder)
    assert filters.shape[1:] == shape[1:]
    assert has_patch_embedding(encoder) == patches
    norm = np.square(filters).sum(axis=(1, 2, 3))
    assert (np.diff(norm) <= 0).all()
    weights = [p for p in encoder.backbone.parameters() if p.shape == filters.shape]
    first = weights[0].detach().numpy()
    assert norm == pytest.approx(np.sort(np.square(first).sum(axis=(1, 2, 3)))[::-1])


def test_network_without_a_convolution_has_no_filters() -> None:
    encoder = encoder_of("convnet")
    encoder.backbone.features[0] = torch.nn.Identity()
    with pytest.raises(UsageError, match="no convolution over the image"):
        first_filters(encoder)


def test_components_of_filters_span_their_plane() -> None:
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(12, 2)))[0].T
    filters = (generator.normal(size=(9, 2)) * [5, 1] @ basis + 3).astype(np.float32).reshape(9, 3, 2, 2)
    found = filter_components(filters).reshape(-1, 12)
    assert found.shape == (9, 12)
    plane = basis.T @ basis
    assert found[:2] @ plane == pytest.approx(found[:2], abs=1e-5)
    assert np.linalg.norm(found[:2], axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert (found[:2].max(axis=1) == np.abs(found[:2]).max(axis=1)).all()


# --- layers ----------------------------------------------------------------------------------------------------------


def test_layers_with_maps() -> None:
    convnet = map_layers(encoder_of("convnet"))
    assert convnet["features.0"] == (32, 16, 16)
    assert convnet["features.5"] == (64, 16, 16)
    assert convnet["features"] == (256, 4, 4)
    assert "global_pool" not in convnet
    vit = map_layers(encoder_of("test_vit", 64))
    assert vit["patch_embed"] == vit["blocks.0"] == (64, 4, 4)
    assert vit["patch_embed.proj"] == (64, 4, 4)
    assert set(vit.values()) <= {(k, 4, 4) for k in (64, 192, 256, 3 * 64)}  # queries and keys of heads are no maps
    assert list(vit).index("blocks.0") < list(vit).index("blocks.1")


def test_layers_of_a_transformer_whose_channels_come_last() -> None:
    swin = map_layers(encoder_of("swin_s3_tiny_224", 64))
    assert swin["patch_embed.proj"] == swin["patch_embed"] == swin["layers.0"] == (96, 16, 16)
    assert swin["layers.1"] == (192, 8, 8)


def test_picked_layer_is_the_last_sharp_one_or_the_one_asked_for() -> None:
    assert pick_layer(encoder_of("convnet", 32)) == ("features.5", 64)
    assert pick_layer(encoder_of("convnet", 96)) == ("features", 256)
    assert pick_layer(encoder_of("convnet", 16)) == ("features", 256)  # none is
    assert pick_layer(encoder_of("convnet"), "features.0") == ("features.0", 32)
    with pytest.raises(UsageError, match=r"unknown layer of convnet 'features\.55'.*features\.5"):
        pick_layer(encoder_of("convnet"), "features.55")


@pytest.mark.parametrize("name", ["convnet", "test_vit"])
def test_last_map_is_the_encoders_own(name: str) -> None:
    encoder, image = encoder_of(name, 64), torch.rand(2, 3, 64, 64)
    layer = "features" if name == "convnet" else "norm"
    with torch.no_grad():
        torch.testing.assert_close(feature_maps(encoder, layer, image), encoder.feature_map(image))


def test_maps_are_what_the_layer_gave_before_the_next_worked_in_place() -> None:
    encoder, image = encoder_of("convnet"), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before, after = (feature_maps(encoder, f"features.{i}", image) for i in (1, 2))
    assert before.min() < 0
    torch.testing.assert_close(before.relu(), after)


def test_maps_leave_the_encoder_as_it_was() -> None:
    encoder = encoder_of("convnet").train()
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    feature_maps(encoder, "features.3", torch.rand(2, 3, 32, 32))
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.backbone.state_dict().items())
    assert not any(module._forward_hooks for module in encoder.backbone.modules())


# --- exciting patches ------------------------------------------------------------------------------------------------


def test_receptive_field_of_convolutions() -> None:
    encoder = encoder_of("convnet")
    # A 3x3 stem with stride 2 and padding 1: position 5 sees pixels 9 to 11; a 3x3 layer later, 7 to 13.
    assert receptive_field(encoder, "features.0", (5, 8), (32, 32)) == (9, 12, 15, 18)
    assert receptive_field(encoder, "features.5", (5, 8), (32, 32)) == (7, 14, 13, 20)
    assert receptive_field(encoder, "features.0", (0, 0), (32, 32)) == (0, 2, 0, 2)  # cut at the edge


def test_receptive_field_of_a_token_is_its_patch() -> None:
    assert receptive_field(encoder_of("test_vit", 64), "blocks.1", (1, 3), (64, 64)) == (16, 32, 48, 64)


@pytest.mark.parametrize(("name", "layer"), [("convnet", "features.0"), ("test_vit", "patch_embed")])
def test_patches_that_excite_a_unit_hold_what_it_looks_for(name: str, layer: str) -> None:
    size, side = (32, 3) if name == "convnet" else (64, 16)
    encoder = encoder_of(name, size)
    weight = next(m for m in encoder.backbone.modules() if isinstance(m, torch.nn.Conv2d)).weight.detach()
    wanted = (weight[3] > 0).float()  # the patch that unit 3 likes most
    image = torch.full((6, 3, size, size), 0.5)
    places = {1: (15, 9) if name == "convnet" else (16, 32), 4: (5, 21) if name == "convnet" else (48, 0)}
    for strength, (number, (top, left)) in enumerate(places.items(), 1):
        image[number, :, top : top + side, left : left + side] = 0.5 + (wanted - 0.5) * strength / 2
    found = peaks(encoder, layer, image.split(4))
    assert found.value.shape == (6, len(weight))
    first, second = exciting_patches(encoder, found, 3, 2)
    assert (first.image, second.image) == (4, 1)
    assert first.value > second.value
    for patch in (first, second):
        top, left = places[patch.image]
        assert patch.box == (top, top + side, left, left + side)


def test_choosiest_units_have_images_that_stand_out() -> None:
    value = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    value[7, 3] = value[8, 3] = 30
    value[:, 1] = 2  # dead
    found = Peaks("x", value, np.zeros((100, 5), np.int64), (1, 1), (1, 1))
    assert found.choosiest(2, 2)[0] == 3
    assert found.choosiest(5, 2)[-1] == 1
