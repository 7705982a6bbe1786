"""What is shared out block by block; `test_distributed` trains with it."""

from __future__ import annotations

import pytest
from torch import nn

from ssl_toolkit.encoders import Encoder, EncoderConfig
from ssl_toolkit.sharding import as_shared, blocks, local


@pytest.mark.parametrize(("name", "kind", "count"), [("test_vit", "Block", 6), ("resnet18", "BasicBlock", 8)])
def test_blocks_are_what_a_network_repeats(name: str, kind: str, count: int) -> None:
    found = list(blocks(Encoder(EncoderConfig(name, image_size=32, load_size=32)).backbone))
    assert [type(each).__name__ for each in found] == [kind] * count


def test_single_layers_are_no_blocks() -> None:
    assert list(blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))) == []
    assert list(blocks(Encoder(EncoderConfig("convnet", image_size=16)).backbone)) == []


def test_what_is_not_shared_out_is_left_alone() -> None:
    layer = nn.Linear(2, 2)
    state = {"weights": dict(layer.named_parameters()), "steps": [1, layer.bias]}
    kept = local(state)
    assert kept["weights"]["weight"] is layer.weight
    assert kept["steps"][1] is layer.bias
    assert as_shared(layer.weight, layer.weight) is layer.weight
