"""Vision transformers as papers have them: first weights, fixed positions, heads, dropped paths, little memory."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import Tensor

from ssl_toolkit.encoders import (
    Encoder,
    EncoderConfig,
    checkpoint_activations,
    drop_paths,
    load_encoder,
    save_encoder,
)
from ssl_toolkit.encoders.formats import FORMATS, difference
from ssl_toolkit.encoders.weights_file import content_hash
from ssl_toolkit.errors import UsageError


def vit(name: str = "test_vit", size: int = 32, patch_size: int = 4, **options: Any) -> Encoder:
    """64 wide, 2 heads, 6 blocks."""
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name, image_size=size, load_size=size, patch_size=patch_size, **options))


def positions_of_moco_v3(rows: int, columns: int, dim: int) -> np.ndarray:
    """``build_2d_sincos_position_embedding``: (L, D), sines and cosines of the row, then those of the column."""
    omega = 1 / 10000 ** (np.arange(dim // 4) / (dim // 4))
    row, column = np.divmod(np.arange(rows * columns), columns)
    parts = [f(np.outer(place, omega)) for place in (row, column) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1)


def positions_of_mae(rows: int, columns: int, dim: int) -> np.ndarray:
    """``get_2d_sincos_pos_embed``: the column comes first."""
    return np.roll(positions_of_moco_v3(rows, columns, dim), dim // 2, axis=1)


@pytest.mark.parametrize("authors", [positions_of_moco_v3, positions_of_mae])
def test_fixed_positions_are_the_authors_in_another_order_of_channels(authors: Any) -> None:
    found = vit(positions="sincos").backbone.pos_embed[0]  # (1 + L, D)
    assert not found.requires_grad
    assert (found[0] == 0).all()  # that of the class token
    expected = authors(8, 8, 64)
    order = [int(np.abs(expected - channel[:, None]).max(axis=0).argmin()) for channel in found[1:].numpy().T]
    assert sorted(order) == list(range(64))
    np.testing.assert_allclose(found[1:].numpy(), expected[:, order], atol=2e-6)


def test_learned_positions_are_trained() -> None:
    assert vit().backbone.pos_embed.requires_grad


def test_fixed_positions_stay_when_an_encoder_is_loaded_again(tmp_path: Path) -> None:
    encoder = vit(positions="sincos", heads=8, init="mae").eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    assert loaded.config == encoder.config
    assert loaded.sha256 == encoder.sha256 != vit(positions="sincos", init="mae").sha256
    assert not loaded.backbone.pos_embed.requires_grad
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(image), encoder(image))


def test_what_an_encoder_did_not_ask_for_does_not_change_its_identity() -> None:
    """Encoders from before there were these options keep theirs."""
    described = asdict(vit().config)
    later = ("heads", "positions", "init", "registers", "pool")
    before = {name: value for name, value in described.items() if name not in later}
    assert content_hash(described, {}) == content_hash(before, {})


def test_heads_divide_the_width_and_change_what_the_same_weights_compute() -> None:
    two, eight = vit().eval(), vit(heads=8).eval()
    assert [block.attn.num_heads for block in eight.backbone.blocks] == [8] * 6
    eight.backbone.load_state_dict(two.backbone.state_dict())
    image = torch.rand(2, 3, 32, 32)
    assert not torch.allclose(two(image), eight(image), atol=1e-3)
    with pytest.raises(UsageError, match=r"timm cannot build 'test_vit'.*divisible by num_heads"):
        vit(heads=7)


def test_features_are_the_mean_of_the_patches_where_that_is_asked_for(tmp_path: Path) -> None:
    encoder, own = vit(pool="mean").eval(), vit().eval()
    assert own.backbone.state_dict().keys() == encoder.backbone.state_dict().keys()
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder(image), encoder.tokens(image).mean(1))
    torch.testing.assert_close(own(image), own.backbone.forward_features(own.normalize(image))[:, 0])
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    assert torch.equal(load_encoder(tmp_path / "encoder.safetensors").eval()(image), encoder(image))
    pooled = vit("test_vit2").backbone  # by a mean already, with a norm behind it
    assert str(vit("test_vit2", pool="mean").backbone) == str(pooled)


def test_registers_are_no_patches() -> None:
    encoder = vit(registers=4).eval()
    assert encoder.backbone.num_prefix_tokens == 1 + 4
    assert encoder.tokens(torch.rand(2, 3, 32, 32)).shape == (2, 64, 64)


@pytest.mark.parametrize("format", ["timm", "hf"])
def test_timm_loads_other_heads_fixed_positions_registers_and_means(format: str, tmp_path: Path) -> None:
    encoder = vit(heads=8, positions="sincos", registers=2, pool="mean").eval()
    found, path = FORMATS[format], tmp_path / "exported"
    found.write(encoder, path, "moco_v3")
    assert difference(encoder, found.load(encoder, path), torch.rand(2, 3, 32, 32)) <= found.tolerance


def spread(weight: Tensor) -> float:
    """Half the range of a uniform distribution, by its standard deviation."""
    return float(weight.detach().std()) * math.sqrt(3)


@pytest.mark.parametrize(("init", "outputs", "std"), [("moco_v3", 384, 1e-6), ("mae", 3 * 384, 0.02)])
def test_first_weights_are_the_authors(init: str, outputs: int, std: float) -> None:
    """``vits.py`` of MoCo v3 and ``models_mae.py``: uniform within sqrt(6 / (inputs + outputs)) and no biases."""
    backbone = vit("vit_small_patch16_224", 64, 16, init=init).backbone
    block = backbone.blocks[0]
    fans = {
        block.attn.qkv: 384 + outputs,
        block.attn.proj: 384 + 384,
        block.mlp.fc1: 384 + 4 * 384,
        block.mlp.fc2: 4 * 384 + 384,
        backbone.patch_embed.proj: 3 * 16 * 16 + 384,
    }
    for layer, fan in fans.items():
        bound = math.sqrt(6 / fan)
        assert 0.999 * bound < layer.weight.abs().max() <= bound
        assert spread(layer.weight) == pytest.approx(bound, rel=0.01)
        assert (layer.bias == 0).all()
    assert backbone.cls_token.std().item() == pytest.approx(std, rel=0.15)
    assert (block.norm1.weight == 1).all()


@pytest.mark.parametrize("name", ["convnet", "test_resnet"])
@pytest.mark.parametrize("option", [{"init": "mae"}, {"positions": "sincos"}])
def test_other_networks_are_refused(name: str, option: dict[str, str]) -> None:
    ((key, value),) = option.items()
    with pytest.raises(UsageError, match=rf"--encoder\.{key} {value} is for vision transformers .*, {name} is none"):
        vit(name, patch_size=0, **option)


@pytest.mark.parametrize("name", ["convnet", "test_resnet"])
def test_other_networks_have_no_heads_and_no_registers(name: str) -> None:
    with pytest.raises(UsageError, match=r"--encoder\.heads 2 is for vision|argument 'num_heads'"):
        vit(name, patch_size=0, heads=2)
    with pytest.raises(UsageError, match=r"--encoder\.registers 2 is for vision|argument 'reg_tokens'"):
        vit(name, patch_size=0, registers=2)


def test_paths_are_dropped_ever_more_often_and_only_in_training() -> None:
    """``torch.linspace(0, drop_path_rate, depth)`` in the code of DINO."""
    encoder = vit()
    image = torch.rand(4, 3, 32, 32)
    before = encoder.eval()(image)
    drop_paths(encoder.backbone, 0.5, "test_vit")
    rates = [[m.drop_prob for m in block.modules() if isinstance(m, DropPath)] for block in encoder.backbone.blocks]
    assert rates == [[pytest.approx(0.1 * depth)] * 2 for depth in range(6)]
    assert torch.equal(encoder(image), before)
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    dropped = encoder.train().backbone.blocks[-1].drop_path1(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}  # kept branches make up for the others
    assert (dropped.flatten(1).amax(1) == dropped.flatten(1).amin(1)).all()  # an image as a whole
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)


def kept(encoder: Encoder, image: Tensor) -> tuple[int, dict[str, Tensor], Tensor]:
    """Values that a forward pass keeps, gradients, features; some paths are dropped."""
    sizes: list[int] = []
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
        features = encoder(image)
    features.square().sum().backward()
    return sum(sizes), {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}, features


@pytest.mark.parametrize("through", ["forward", "blocks"])
def test_checkpointed_activations_give_the_same_gradients_for_less_memory(through: str) -> None:
    image, found = torch.rand(4, 3, 32, 32), []
    for wanted in (False, True):
        encoder = vit()
        drop_paths(encoder.backbone, 0.5, "test_vit")
        if wanted:
            checkpoint_activations(encoder.backbone, "test_vit")
            encoder = copy.deepcopy(encoder)  # as momentum networks are made
        if through == "blocks":  # as the masked autoencoder calls them
            encoder.backbone.forward_features = lambda x, b=encoder.backbone, **_: b.blocks(
                b._pos_embed(b.patch_embed(x))
            )
        found.append(kept(encoder, image))
    (usual, gradients, features), (less, again, same) = found
    assert torch.equal(features, same)
    assert gradients.keys() == again.keys()
    assert all(torch.equal(gradients[name], again[name]) for name in gradients)
    assert less < usual / 4


def test_without_gradients_checkpointed_blocks_are_the_same_and_so_are_their_names() -> None:
    encoder, image = vit().eval(), torch.rand(2, 3, 32, 32)
    names, before = list(encoder.state_dict()), encoder(image).detach()
    checkpoint_activations(encoder.backbone, "test_vit")
    assert list(encoder.state_dict()) == names
    with torch.no_grad():
        assert torch.equal(encoder(image), before)


def test_activations_of_other_networks_are_not_checkpointed() -> None:
    with pytest.raises(UsageError, match=r"--encoder\.checkpoint-activations is for vision .*, convnet is none"):
        checkpoint_activations(Encoder(EncoderConfig("convnet")).backbone, "convnet")
