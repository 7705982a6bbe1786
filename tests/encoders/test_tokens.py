"""Tokens: what is left out or hidden does not reach the network, and all else is as the encoder has it."""

from __future__ import annotations

import pytest
import torch

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.encoders.tokens import (
    embed,
    encode,
    patch_grid,
    patch_tokens,
    pool,
    put_back,
    visible_tokens,
)

# Class token; a register token, a mean over patches and a norm behind it; a norm before the blocks.
NETWORKS = ("test_vit", "test_vit2", "vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_xsmall_patch16_clip_224")
every_network = pytest.mark.parametrize("name", NETWORKS)


def vit(name: str = "test_vit", size: int = 16, patch: int = 4, **options: int | str) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name, image_size=size, load_size=size, patch_size=patch, **options)).eval()  # type: ignore[arg-type]


@every_network
def test_with_nothing_hidden_all_is_the_encoders_own(name: str) -> None:
    encoder, image = vit(name), torch.rand(2, 3, 16, 16)
    tokens = encode(encoder, embed(encoder, image))
    assert tokens.shape[1] == encoder.backbone.num_prefix_tokens + 16
    torch.testing.assert_close(tokens, visible_tokens(encoder, image, torch.arange(16).expand(2, -1)))
    torch.testing.assert_close(tokens[:, encoder.backbone.num_prefix_tokens :], encoder.tokens(image))
    torch.testing.assert_close(pool(encoder, tokens), encoder(image))
    nothing = torch.zeros(2, 16, dtype=torch.bool)
    torch.testing.assert_close(encode(encoder, embed(encoder, image, nothing, torch.ones(()))), tokens)


@every_network
def test_patches_are_normed_by_every_network(name: str) -> None:
    encoder, image = vit(name), torch.rand(2, 3, 16, 16)
    patches = patch_tokens(encoder, encode(encoder, embed(encoder, image)))
    torch.testing.assert_close(patches.mean(2), torch.zeros(2, 16), atol=1e-5, rtol=0)


def test_views_of_another_size_than_the_encoders_are_taken() -> None:
    encoder, image = vit(), torch.rand(2, 3, 24, 16)
    assert patch_grid(encoder, image) == (6, 4)
    found = visible_tokens(encoder, image, torch.arange(24).expand(2, -1))
    torch.testing.assert_close(found[:, 1:], encoder.tokens(image))


def test_a_hidden_patch_is_the_mask_token_with_the_position_of_its_place() -> None:
    encoder, (image, other) = vit(), torch.rand(2, 1, 3, 16, 16)
    hidden = torch.zeros(1, 16, dtype=torch.bool)
    hidden[0, 6] = True  # the second row's third
    mixed = image.clone()
    mixed[:, :, 4:8, 8:12] = other[:, :, 4:8, 8:12]
    mask_token = torch.full((64,), 2.0)
    tokens = [embed(encoder, each, hidden, mask_token) for each in (image, mixed)]
    assert torch.equal(*tokens)
    torch.testing.assert_close(tokens[0][0, 1 + 6], mask_token + encoder.backbone.pos_embed[0, 1 + 6])
    assert not torch.equal(embed(encoder, image), embed(encoder, mixed))


def test_tokens_are_put_back_where_they_were() -> None:
    tokens = torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])
    back = put_back(tokens, torch.tensor([[3, 0]]), torch.tensor([-1.0, -2.0]), 5)
    assert back.tolist() == [[[2, 2], [-1, -2], [-1, -2], [1, 1], [-1, -2]]]
