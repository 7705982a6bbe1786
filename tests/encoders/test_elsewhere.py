"""Files as other projects write them, in the names and containers of their own code."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_toolkit.encoders import Encoder, EncoderConfig, save_encoder
from ssl_toolkit.encoders.elsewhere import candidates, encoder_from_file, read_state
from ssl_toolkit.errors import ToolkitError, UsageError

State = dict[str, Tensor]
RESNET = EncoderConfig("resnet18", image_size=64, load_size=64)
VIT = EncoderConfig("test_vit", image_size=64, load_size=64)  # its own images have 160 px


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def without_classifier(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def in_sequence(network: nn.Module) -> State:
    """A ResNet without its classifier, as lightly's examples build it."""
    return nn.Sequential(*list(network.children())[:-1]).state_dict()


def head(prefix: str) -> State:
    return {f"{prefix}.0.weight": torch.rand(4, 4), f"{prefix}.0.bias": torch.rand(4)}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def resnet_file(kind: str, network: nn.Module) -> Any:
    """What a project writes whose right network is `network`, beside a wrong one where it writes two."""
    right = network.state_dict()
    wrong = {name: tensor + 1 for name, tensor in right.items()}
    bare, wrong_bare = without_classifier(right), without_classifier(wrong)
    other = copy.deepcopy(network)
    other.load_state_dict(wrong)
    files: dict[str, Any] = {
        "torchvision": right,
        "data parallel": {"epoch": 3, "state_dict": under("module.", right)},
        "timm": {"arch": "resnet18", "state_dict": wrong, "state_dict_ema": right, "args": argparse.Namespace(lr=0.1)},
        "ema": {"model": wrong, "model_ema": right},
        "moco": {
            "arch": "resnet18",
            "state_dict": {
                **under("module.encoder_k.", wrong),
                **under("module.encoder_q.", bare),
                **head("module.encoder_q.fc"),
                "module.queue": torch.rand(4, 8),
            },
            "optimizer": {"state": {0: {"momentum_buffer": torch.rand(3)}}},
        },
        "moco v3": {
            "state_dict": {
                **under("module.base_encoder.", bare),
                **head("module.base_encoder.fc"),
                **under("module.momentum_encoder.", wrong_bare),
                **head("module.predictor"),
            }
        },
        "momentum only": under("momentum_encoder.", bare),
        "dino": {
            "student": {**under("module.backbone.", wrong_bare), **head("module.head.mlp")},
            "teacher": {**under("backbone.", bare), **head("head.mlp")},
            "args": argparse.Namespace(arch="resnet18"),
        },
        "swav": {**under("module.", bare), **head("module.projection_head"), **head("module.prototypes")},
        "byol": {
            **under("online_encoder.net.", right),
            **head("online_encoder.projector"),
            **under("target_encoder.net.", wrong),
        },
        "byol's net": under("net.", right),
        "lightly": {
            "state_dict": {
                **under("backbone_momentum.", in_sequence(other)),
                **under("backbone.", in_sequence(network)),
                **head("projection_head.layers"),
            },
            "pytorch-lightning_version": "2.6",
        },
        "lightly dino": {
            "state_dict": {**under("student_backbone.", in_sequence(other)), **under("teacher_backbone.", bare)}
        },
        "solo-learn": {
            "state_dict": {
                **under("momentum_backbone.", wrong_bare),
                **under("backbone.", bare),
                **head("projector"),
                **head("classifier"),
            }
        },
        "solo-learn in parallel": {"state_dict": under("module.backbone.", bare)},
    }
    return files if kind == "all" else files[kind]


@pytest.mark.parametrize("kind", resnet_file("all", torchvision.models.resnet18(num_classes=2)))
def test_resnets_of_other_projects(kind: str, resnet: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(resnet_file(kind, resnet), file)
    encoder, told = encoder_from_file(RESNET, file)
    assert not encoder.training
    assert told.startswith(f"{file}: 100 of 100 keys of resnet18 match")
    assert "random" not in told
    image = torch.rand(2, 3, 64, 64)
    features = copy.deepcopy(resnet)
    features.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), features(encoder.normalize(image)), rtol=1e-4, atol=1e-4)


def test_of_teacher_and_student_the_teacher_is_taken_and_a_key_chooses(resnet: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "dino.pth"
    torch.save(resnet_file("dino", resnet), file)
    bias = resnet.state_dict()["bn1.bias"]
    encoder, told = encoder_from_file(RESNET, file)
    assert "under 'teacher.backbone' (there is 'student.module.backbone' too: --weights-key chooses)" in told
    torch.testing.assert_close(encoder.backbone.bn1.bias, bias)
    for key in ("student", "student.module", "module.backbone"):
        encoder, told = encoder_from_file(RESNET, file, key)
        assert "under 'student.module.backbone'" in told
        assert "too" not in told
        torch.testing.assert_close(encoder.backbone.bn1.bias, bias + 1)
    with pytest.raises(UsageError, match=r"'studnt': known are student.module.backbone, teacher.backbone"):
        encoder_from_file(RESNET, file, "studnt")


def test_a_key_opens_what_is_not_known(resnet: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "own.pt"
    torch.save({"my_net": under("trunk.", resnet.state_dict())}, file)
    with pytest.raises(ToolkitError, match="0 of 100 keys"):
        encoder_from_file(RESNET, file)
    encoder, _ = encoder_from_file(RESNET, file, "my_net.trunk")
    assert torch.equal(encoder.backbone.conv1.weight, resnet.state_dict()["conv1.weight"])


def test_safetensors(resnet: nn.Module, tmp_path: Path) -> None:
    save_file(under("backbone.", resnet.state_dict()), tmp_path / "weights.safetensors")
    encoder, _ = encoder_from_file(RESNET, tmp_path / "weights.safetensors")
    assert torch.equal(encoder.backbone.conv1.weight, resnet.state_dict()["conv1.weight"])


def test_candidates_are_where_known_wrappers_end() -> None:
    state = {"state_dict.module.encoder_q.layer1.weight": torch.zeros(1), "optimizer.state.0.m": torch.zeros(1)}
    found = candidates(state)
    assert list(found) == ["", "state_dict", "state_dict.module", "state_dict.module.encoder_q"]
    assert list(found["state_dict.module.encoder_q"]) == ["layer1.weight"]


def vit(name: str = "test_vit", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **options).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def as_timm_reads_it(name: str, network: nn.Module, **options: Any) -> nn.Module:
    """The same weights in a network for other images, by way of timm's own loading."""
    cfg = {"state_dict": network.state_dict(), "num_classes": 0}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=cfg, num_classes=0, **options).eval()


def assert_same_features(encoder: Encoder, network: nn.Module) -> None:
    image = torch.rand(2, 3, encoder.config.image_size, encoder.config.image_size)
    with torch.no_grad():
        expected = network(encoder.normalize(image))
        assert expected.std() > 1e-3
        torch.testing.assert_close(encoder(image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["dino", "dinov2", "mae", "moco v3", "plain"])
def test_vits_of_other_projects_with_positions_of_another_size(kind: str, tmp_path: Path) -> None:
    network = vit()
    state = network.state_dict()
    files = {
        "dino": {
            "student": under("module.backbone.", {name: tensor + 1 for name, tensor in state.items()}),
            "teacher": {**under("backbone.", state), **head("head.mlp")},
        },
        "dinov2": {
            "teacher": {**under("backbone.", state), "backbone.mask_token": torch.rand(1, 64), **head("dino_head")}
        },
        "mae": {
            "model": {
                **state,
                "mask_token": torch.rand(1, 1, 8),
                "decoder_pos_embed": torch.rand(1, 101, 8),
                "decoder_blocks.0.norm1.weight": torch.rand(8),
            }
        },
        "moco v3": {"state_dict": {**under("module.base_encoder.", state), **head("module.base_encoder.head")}},
        "plain": state,
    }
    torch.save(files[kind], tmp_path / "vit.pth")
    encoder, told = encoder_from_file(VIT, tmp_path / "vit.pth")
    assert f"{len(state)} of {len(state)} keys of test_vit match" in told
    assert told.endswith("resized: pos_embed")
    assert_same_features(encoder, as_timm_reads_it("test_vit", network, img_size=64))


def test_dinov2_with_registers(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    network = vit(name, img_size=56)
    state = network.state_dict()
    theirs = {name: tensor for name, tensor in state.items() if name not in ("reg_token", "pos_embed", "cls_token")}
    positions = torch.cat([torch.full((1, 1, 384), 0.5), state["pos_embed"]], dim=1)  # the class token's is added to it
    theirs |= {
        "register_tokens": state["reg_token"],
        "cls_token": state["cls_token"] - 0.5,
        "pos_embed": positions,
        "mask_token": torch.zeros(1, 384),
    }
    torch.save(theirs, tmp_path / "dinov2.pth")
    encoder, told = encoder_from_file(EncoderConfig(name, image_size=84, load_size=84), tmp_path / "dinov2.pth")
    assert "resized: pos_embed" in told
    assert "random" not in told
    assert_same_features(encoder, as_timm_reads_it(name, network, img_size=84))


def test_dinov3(tmp_path: Path) -> None:
    name = "vit_small_patch16_dinov3"
    network = vit(name)
    their_names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    theirs = {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.rand(16)}
    for own, tensor in network.state_dict().items():
        for ours, named in their_names.items():
            own = own.replace(ours, named)
        theirs[own] = tensor
        if own.endswith("qkv.weight"):
            theirs[own.replace("weight", "bias")] = torch.zeros(len(tensor))
    torch.save(theirs, tmp_path / "dinov3.pth")
    encoder, told = encoder_from_file(EncoderConfig(name, image_size=64, load_size=64), tmp_path / "dinov3.pth")
    assert "random" not in told
    assert_same_features(encoder, as_timm_reads_it(name, network, dynamic_img_size=True))


def test_weights_of_patches_of_another_size_are_resampled_and_that_is_said(tmp_path: Path) -> None:
    torch.save(vit().state_dict(), tmp_path / "vit.pth")
    config = EncoderConfig("test_vit", image_size=64, load_size=64, patch_size=8)
    _, told = encoder_from_file(config, tmp_path / "vit.pth")
    assert "resized: pos_embed, patch_embed.proj.weight" in told


@pytest.mark.parametrize("size", [32, 64])
def test_the_stem_is_the_file_s(size: int, resnet: nn.Module, tmp_path: Path) -> None:
    small = Encoder(EncoderConfig("resnet18", image_size=32, load_size=32)).eval()
    torch.save(small.backbone.state_dict(), tmp_path / "small.pth")
    torch.save(resnet.state_dict(), tmp_path / "standard.pth")
    asked = EncoderConfig("resnet18", image_size=size, load_size=size)
    encoder, _ = encoder_from_file(asked, tmp_path / "small.pth")
    assert encoder.config.stem == "small"
    assert torch.equal(encoder.backbone.conv1.weight, small.backbone.conv1.weight)
    assert encoder_from_file(asked, tmp_path / "standard.pth")[0].config.stem == "standard"
    for stem, file in (("small", "standard"), ("standard", "small")):
        forced = EncoderConfig("resnet18", image_size=size, load_size=size, stem=stem)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"'conv1.weight' has shape .* needs .*: give --encoder.stem"):
            encoder_from_file(forced, tmp_path / f"{file}.pth")


def test_the_first_layer_for_grey_images_is_the_sum_over_colours(resnet: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet.state_dict(), tmp_path / "rgb.pth")
    encoder, told = encoder_from_file(EncoderConfig("resnet18", channels=1, image_size=64), tmp_path / "rgb.pth")
    assert told.endswith("resized: conv1.weight")
    torch.testing.assert_close(
        encoder.backbone.conv1.weight, resnet.state_dict()["conv1.weight"].sum(dim=1, keepdim=True)
    )


def test_a_few_missing_keys_are_named(resnet: nn.Module, tmp_path: Path) -> None:
    state = resnet.state_dict()
    del state["layer4.1.bn2.bias"]
    torch.save(state, tmp_path / "short.pth")
    _, told = encoder_from_file(RESNET, tmp_path / "short.pth")
    assert told.endswith("99 of 100 keys of resnet18 match; left at random: layer4.1.bn2.bias")


def test_weights_of_another_architecture_are_refused(resnet: nn.Module, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(ToolkitError, match=r"80 more are there, too few: unexpected are layer1\.2\.conv1\.weight, "):
        encoder_from_file(RESNET, tmp_path / "deeper.pth")
    torch.save(resnet.state_dict(), tmp_path / "shallower.pth")
    with pytest.raises(ToolkitError, match=r"too few: missing are layer1\.2\.conv1\.weight, "):
        encoder_from_file(EncoderConfig("resnet34", image_size=64), tmp_path / "shallower.pth")
    with pytest.raises(ToolkitError, match="0 of 78 keys of test_vit match"):
        encoder_from_file(VIT, tmp_path / "deeper.pth")
    with pytest.raises(UsageError, match=r"batch norms, not layer norms: give --encoder\.norm batch"):
        encoder_from_file(EncoderConfig("resnet18", image_size=64, norm="layer"), tmp_path / "shallower.pth")
    with pytest.raises(UsageError, match=r"resnet18.a1_in1k names weights of timm, and .* is given too"):
        encoder_from_file(EncoderConfig("resnet18.a1_in1k"), tmp_path / "shallower.pth")


class Surprise:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("code in a file was run",)


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"PK\x03\x04 no archive", b"\x80\x02}q\x00.", [1, 2], {"epoch": 3}, torch.zeros(3),
     {"x": np.zeros(3)}, nn.Linear(2, 2), Surprise()],
    ids=["empty", "garbage", "zip", "pickle", "list", "epoch", "tensor", "array", "module", "code"],
)  # fmt: skip
def test_what_holds_something_else_is_one_line(content: Any, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights.{suffix}"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ToolkitError) as caught:
        encoder_from_file(RESNET, file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_file_is_one_line(resnet: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(resnet.state_dict(), file)
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ToolkitError, match=r"cannot be read as weights"):
        read_state(file)


def test_no_file_and_a_file_of_ours(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(UsageError, match="no file of weights at"):
            read_state(path)
    save_encoder(Encoder(EncoderConfig("convnet", image_size=16)), tmp_path / "encoder.safetensors")
    with pytest.raises(UsageError, match="is of this package and knows its architecture"):
        read_state(tmp_path / "encoder.safetensors")
